"""Second moments of the keys, ``C = E[k k^T]``: what rank-one editing must not disturb (ROME, section 3.1)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from tqdm.auto import tqdm

from tl_knowledge.arrays import Hooks
from tl_knowledge.errors import DataError, InputError, NumericalError
from tl_knowledge.model import HookedModel, check_layers, check_model, component_hook, context_length, describe_model, model_device, prepends_bos
from tl_knowledge.provenance import Provenance
from tl_knowledge.rows import pad_right, run_until
from tl_knowledge.storage import read_result, write_result
from tl_knowledge.weights import unedited_fingerprint

__all__ = ["KeyMoments", "collect_key_moments", "needed_moments"]

TOKENS_A_NEURON = 10  # arXiv 2506.04226: keeps 95% of the editing score
TEXTS_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class KeyMoments:
    """``E[k k^T]`` of the keys (``mlp.hook_post``) in some layers.

    Attributes:
        moments: by layer, ``[d_mlp d_mlp]`` in float64.
        tokens: over how many tokens.
        change: by layer, the relative change ``||C - C_half|| / ||C||`` since half of the tokens: how far the mean has settled.
        fingerprint: of the weights they belong to.
        corpus: hash of the texts that were read.
        provenance: the model.
    """

    moments: dict[int, Float[torch.Tensor, "d_mlp d_mlp"]]
    tokens: int
    change: dict[int, float]
    fingerprint: str
    corpus: str
    provenance: Provenance

    def solve(self, layer: int, keys: Float[torch.Tensor, "key d_mlp"]) -> Float[torch.Tensor, "key d_mlp"]:
        """``C^-1 k`` for every key, in float64.

        Raises:
            InputError: the layer was not collected.
            NumericalError: the moments are singular: too few tokens.
        """
        moment = self.of_layer(layer)
        factor, failed = torch.linalg.cholesky_ex(moment)
        if int(failed) != 0:
            raise NumericalError(
                f"the second moments of layer {layer} are singular: {self.tokens} tokens for {len(moment)} neurons; collect more with tokens=."
            )
        return torch.cholesky_solve(keys.to(moment).T, factor).T

    def of_layer(self, layer: int) -> Float[torch.Tensor, "d_mlp d_mlp"]:
        """One layer's moments.

        Raises:
            InputError: the layer was not collected.
        """
        if layer not in self.moments:
            raise InputError(f"layer {layer} was not collected; there are {sorted(self.moments)}: pass layers= to collect_key_moments().")
        return self.moments[layer]

    def check(self, model: HookedModel) -> None:
        """Refuse a model that these moments do not belong to; edits written since do not matter.

        Raises:
            InputError: other weights.
        """
        if unedited_fingerprint(model) != self.fingerprint:
            raise InputError(
                f"the moments belong to other weights (of {self.provenance.model!r}, {self.fingerprint}); "
                "collect this model's own with collect_key_moments()."
            )

    def to_dataframe(self) -> pd.DataFrame:
        """One row a layer: neurons, tokens, condition number, and the change since half of the tokens."""
        rows: list[dict[str, Any]] = []
        for layer, moment in sorted(self.moments.items()):
            values = torch.linalg.eigvalsh(moment)
            condition = float(values[-1] / values[0]) if float(values[0]) > 0 else float("inf")
            rows.append({"layer": layer, "neurons": len(moment), "tokens": self.tokens, "condition": condition, "change": self.change[layer]})
        return pd.DataFrame(rows)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to one ``.safetensors`` file; returns the path."""
        tensors = {str(layer): moment for layer, moment in self.moments.items()}
        fields: dict[str, Any] = {name: getattr(self, name) for name in ("tokens", "fingerprint", "corpus")}
        change = [[layer, value] for layer, value in self.change.items()]
        return write_result(path, "KeyMoments", tensors, fields | {"change": change, "provenance": self.provenance.to_dict()})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> KeyMoments:
        """Read what `save` wrote.

        Raises:
            DataError: not such a file.
        """
        tensors, fields = read_result(path, "KeyMoments")
        moments, change = {int(name): value for name, value in tensors.items()}, {int(layer): float(value) for layer, value in fields["change"]}
        return cls(moments, fields["tokens"], change, fields["fingerprint"], fields["corpus"], Provenance(**fields["provenance"]))


def needed_moments(moments: KeyMoments | None, method: str) -> KeyMoments:
    """The moments of a method that cannot do without.

    Raises:
        InputError: none were passed.
    """
    if moments is None:
        raise InputError(f"{method} needs the second moments of the keys; pass moments=collect_key_moments(model, corpus).")
    return moments


def collect_key_moments(
    model: HookedModel, corpus: Iterable[str], layers: Sequence[int] | None = None, *, tokens: int | None = None, progress: bool = True
) -> KeyMoments:
    """One pass over a corpus for all asked layers; the forward stops after the highest of them.

    Args:
        corpus: texts, as a list, a generator or a column of a ``datasets`` stream; longer ones than the context are cut.
        layers: which; all when ``None``.
        tokens: how many tokens to read; ten for each neuron of a layer when ``None``. Fewer are read when the corpus ends.

    Raises:
        DataError: a corpus without a token.
        ComponentError: no layer, or one outside the model.
        InputError: tokens below 1.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> moments = tlk.collect_key_moments(model, tlk.load_corpus(), layers=[0, 3], tokens=600, progress=False)
        >>> sorted(moments.moments), tuple(moments.moments[3].shape)
        ([0, 3], (512, 512))
    """
    check_model(model)
    chosen = check_layers(model, layers)
    d_mlp = int(model.blocks[chosen[0]].mlp.W_out.shape[0])
    asked = TOKENS_A_NEURON * d_mlp if tokens is None else tokens
    if asked < 1:
        raise InputError(f"tokens={tokens} reads nothing; pass at least 1, better {TOKENS_A_NEURON} for each of the {d_mlp} neurons.")
    sums = {layer: torch.zeros(d_mlp, d_mlp, dtype=torch.float64, device=model_device(model)) for layer in chosen}
    half: dict[int, torch.Tensor] = {}
    seen, half_seen, digest = 0, 0, hashlib.sha256()
    with tqdm(total=asked, desc="key moments", unit="token", delay=2, disable=not progress) as bar:
        for batch in _batches(model, corpus, asked, digest):
            keys = _keys(model, batch, chosen)
            for layer in chosen:
                sums[layer] += (keys[layer].T @ keys[layer]).double()
            seen += len(keys[chosen[0]])
            if not half and 2 * seen >= asked:
                half, half_seen = {layer: total.clone() for layer, total in sums.items()}, seen
            bar.update(len(keys[chosen[0]]))
    if not seen:
        raise DataError("the corpus has no text with a token; pass texts, for example load_corpus().")
    moments = {layer: (total / seen).cpu() for layer, total in sums.items()}
    if not all(bool(moment.isfinite().all()) for moment in moments.values()):
        raise NumericalError("the key moments are not finite; check the weights for NaN, or load the model in float32.")
    change = {
        layer: float((moments[layer] - half[layer].cpu() / half_seen).norm() / moments[layer].norm()) if half else float("nan") for layer in chosen
    }
    provenance = Provenance(**describe_model(model), prepends_bos=prepends_bos(model), seed=0, engine="one pass", settings={"layers": list(chosen)})
    return KeyMoments(moments, seen, change, unedited_fingerprint(model), digest.hexdigest()[:16], provenance)


def _batches(model: HookedModel, corpus: Iterable[str], asked: int, digest: Any) -> Iterable[list[torch.Tensor]]:
    """Texts as token rows ``[1 pos]``, some at a time, until enough tokens are read; each text read goes into the digest."""
    rows: list[torch.Tensor] = []
    count = 0
    for text in corpus:
        ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = ([model.tokenizer.bos_token_id] if prepends_bos(model) else []) + ids
        ids = ids[: min(context_length(model), asked - count)]
        if not ids:
            continue
        digest.update(text.encode() + b"\0")
        rows.append(torch.tensor([ids], device=model_device(model)))
        count += len(ids)
        if len(rows) == TEXTS_AT_ONCE or count >= asked:
            yield rows
            rows = []
        if count >= asked:
            return
    if rows:
        yield rows


def _keys(model: HookedModel, rows: Sequence[torch.Tensor], layers: Sequence[int]) -> dict[int, Float[torch.Tensor, "key d_mlp"]]:
    """The keys of every token of some texts, without those of the padding, in float64."""
    lengths = torch.tensor([row.shape[1] for row in rows], device=rows[0].device)
    inside = torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]
    found: dict[int, torch.Tensor] = {}

    def keep(layer: int) -> Hooks:
        return [(component_hook("neuron", layer), lambda x, *, hook: found.__setitem__(layer, x[inside]))]

    run_until(model, pad_right(rows), [pair for layer in layers for pair in keep(layer)], component_hook("neuron", max(layers)))
    return found
