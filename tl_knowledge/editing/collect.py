"""Collecting second moments: one pass over a corpus for all layers, kept on disk, and going on where it was killed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from more_itertools import always_iterable, chunked

from tl_knowledge.door import public
from tl_knowledge.engine.progress import progress_bar
from tl_knowledge.errors import DataError, InputError, ModelStateError, NumericalError
from tl_knowledge.models.checks import check_layers
from tl_knowledge.models.hook_names import component_hook
from tl_knowledge.models.ledger import has_written_edits, unedited_fingerprint
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel, model_device
from tl_knowledge.results.provenance import Provenance, provenance_of
from tl_knowledge.results.run_folder import taken_lock
from tl_knowledge.results.storage import read_result, write_result
from tl_knowledge.results.writable import check_writable_folder
from tl_knowledge.runs.corpus_tokens import activations_of, token_rows
from tl_knowledge.runs.key_moments import KeyMoments

__all__ = ["collect_key_moments"]

TOKENS_A_NEURON = 10  # arXiv 2506.04226: keeps 95% of the editing score
TEXTS_AT_ONCE = 16
BATCHES_A_CHECKPOINT = 64
UNFINISHED = "UnfinishedKeyMoments"


@public
def collect_key_moments(
    model: AnyModel,
    corpus: Iterable[str],
    *,
    layers: int | Iterable[int] | None = None,
    tokens: int | None = None,
    store: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> KeyMoments:
    """One pass over a corpus for all the layers; the forward stops at the highest of them.

    Products of keys are taken in the keys' precision, a batch at a time, and added up in float64.

    Args:
        corpus: texts, as a list, a generator or a column of a ``datasets`` stream; longer ones than the context are cut.
        layers: which; all when ``None``.
        tokens: how many tokens to read; ten for each neuron of a layer when ``None``. Fewer are read when the corpus ends.
        store: a folder that keeps each layer's moments by the corpus' hash and the weights' fingerprint; a pass that was killed goes on there.

    Raises:
        DataError: a corpus without a token, or a store that cannot be written or holds other moments.
        ComponentError: no layer, or one outside the model.
        InputError: tokens below 1.
        NumericalError: keys that are not finite.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> moments = tlk.collect_key_moments(model, tlk.load_corpus(), layers=[2, 3], tokens=600, progress=False)
        >>> sorted(moments.moments), tuple(moments.moments[3].shape)
        ([2, 3], (512, 512))
        >>> moments
        <KeyMoments: E[k k^T] of layers 2, 3 over 600 tokens; factlm>
    """
    if store is not None:
        check_writable_folder(store)
    model = as_model(model)
    if has_written_edits(model):
        raise ModelStateError("edits are in the model, so the moments would be theirs and kept as the model's own; revert(model) the edits first.")
    collected = check_layers(model, None if layers is None else tuple(always_iterable(layers)))
    d_mlp = int(model.blocks[collected[0]].mlp.W_out.shape[0])
    wanted = TOKENS_A_NEURON * d_mlp if tokens is None else tokens
    if wanted < 1:
        raise InputError(f"tokens={tokens} reads nothing; pass at least 1, better {TOKENS_A_NEURON} for each of the {d_mlp} neurons.")
    rows = token_rows(model, corpus, wanted)
    digest = _digest(rows)
    folder = None if store is None else _MomentsFolder(Path(store), unedited_fingerprint(model), digest)
    with nullcontext() if folder is None else folder.alone():
        known = {} if folder is None else {layer: kept for layer in collected if (kept := folder.layer(layer)) is not None}
        missing = tuple(layer for layer in collected if layer not in known)
        if missing:
            moments = _collect(model, rows, missing, digest, folder, progress)
            known |= dict.fromkeys(missing, moments)
            if folder is not None:
                folder.keep(moments)
    first = known[collected[0]]
    by_layer, change = {layer: known[layer].moments[layer] for layer in collected}, {layer: known[layer].change[layer] for layer in collected}
    return KeyMoments(by_layer, first.tokens, change, first.fingerprint, digest, _provenance(model, collected))


@dataclass
class _Sums:
    """The sums of an unfinished pass.

    Attributes:
        sums, half: by layer, the products added up, now and after half of the tokens.
        batches, tokens, half_tokens: how many are in them.
    """

    sums: dict[int, Float[torch.Tensor, "d_mlp d_mlp"]]
    half: dict[int, Float[torch.Tensor, "d_mlp d_mlp"]] = field(default_factory=dict)
    batches: int = 0
    tokens: int = 0
    half_tokens: int = 0

    def add(self, keys: dict[int, Float[torch.Tensor, "key d_mlp"]], total: int) -> None:
        """Add a batch of keys; the sums are copied once half of all tokens are in them."""
        for layer, own in keys.items():
            self.sums[layer] += (own.T @ own).double()
        self.batches, self.tokens = self.batches + 1, self.tokens + len(next(iter(keys.values())))
        if not self.half and 2 * self.tokens >= total:
            self.half, self.half_tokens = {layer: value.clone() for layer, value in self.sums.items()}, self.tokens

    def change(self, layer: int, moment: Float[torch.Tensor, "d_mlp d_mlp"]) -> float:
        """How far a layer's mean has moved since half of the tokens, relative to its size."""
        return float((moment - self.half[layer].cpu() / self.half_tokens).norm() / moment.norm()) if self.half else float("nan")


def _collect(
    model: HookedModel, rows: list[torch.Tensor], layers: tuple[int, ...], digest: str, folder: _MomentsFolder | None, progress: bool
) -> KeyMoments:
    d_mlp, total = int(model.blocks[layers[0]].mlp.W_out.shape[0]), sum(row.shape[1] for row in rows)
    kept = None if folder is None else folder.unfinished(layers)
    state = kept or _Sums({layer: torch.zeros(d_mlp, d_mlp, dtype=torch.float64) for layer in layers})
    state.sums = {layer: value.to(model_device(model)) for layer, value in state.sums.items()}
    batches = list(chunked(rows, TEXTS_AT_ONCE))
    with progress_bar(what="key moments", unit="token", progress=progress, total=total, initial=state.tokens) as bar:
        for batch in batches[state.batches :]:
            before = state.tokens
            state.add(_keys(model, batch, layers), total)
            if folder is not None and state.batches % BATCHES_A_CHECKPOINT == 0:
                folder.checkpoint(state)
            bar.update(state.tokens - before)
    moments = {layer: (value / state.tokens).cpu() for layer, value in state.sums.items()}
    if not all(bool(moment.isfinite().all()) for moment in moments.values()):
        raise NumericalError("the key moments are not finite; check the weights for NaN, or load the model in float32.")
    change = {layer: state.change(layer, moments[layer]) for layer in layers}
    return KeyMoments(moments, state.tokens, change, unedited_fingerprint(model), digest, _provenance(model, layers))


def _provenance(model: HookedModel, layers: Sequence[int]) -> Provenance:
    return provenance_of(model, engine="one pass", layers=list(layers))


def _digest(rows: Sequence[torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(row.cpu().numpy().tobytes() + b"|")
    return digest.hexdigest()[:16]


def _keys(model: HookedModel, rows: Sequence[torch.Tensor], layers: Sequence[int]) -> dict[int, Float[torch.Tensor, "key d_mlp"]]:
    """The keys of every token of some texts."""
    names = {layer: component_hook("neuron", layer) for layer in layers}
    read = activations_of(model, rows, tuple(names.values()), component_hook("neuron", max(layers)))
    return {layer: read[name] for layer, name in names.items()}


class _MomentsFolder:
    """A folder of moments by weights and corpus."""

    def __init__(self, directory: Path, fingerprint: str, corpus: str) -> None:
        self.stem = directory / f"{fingerprint}-{corpus}"

    @contextmanager
    def alone(self) -> Generator[None]:
        """One process at a time; another waits, and then finds what the first has collected."""
        lock = taken_lock(self.stem.with_name(f"{self.stem.name}.lock"))
        try:
            yield
        finally:
            lock.release()

    def layer(self, layer: int) -> KeyMoments | None:
        """One layer's moments, if they are there."""
        path = self._path(f"layer{layer}")
        if not path.is_file():
            return None
        kept = KeyMoments.load(path)
        if set(kept.moments) != {layer} or self.stem.name != f"{kept.fingerprint}-{kept.corpus}":
            raise DataError(f"{str(path)!r} has moments of another layer, model or corpus than its name says; delete it.")
        return kept

    def keep(self, moments: KeyMoments) -> None:
        """Write each layer's moments, and forget the unfinished pass."""
        for layer in moments.moments:
            moments.only(layer).save(self._path(f"layer{layer}"))
        self._unfinished(tuple(moments.moments)).unlink(missing_ok=True)

    def checkpoint(self, state: _Sums) -> None:
        """Write an unfinished pass."""
        tensors = {f"sums.{k}": v for k, v in state.sums.items()} | {f"half.{k}": v for k, v in state.half.items()}
        fields = {name: getattr(state, name) for name in ("batches", "tokens", "half_tokens")}
        write_result(self._unfinished(tuple(state.sums)), UNFINISHED, tensors, fields)

    def unfinished(self, layers: tuple[int, ...]) -> _Sums | None:
        """The unfinished pass over these layers, if there is one."""
        path = self._unfinished(layers)
        if not path.is_file():
            return None
        tensors, fields = read_result(path, UNFINISHED)
        sums, half = ({int(k.split(".")[1]): v for k, v in tensors.items() if k.startswith(name)} for name in ("sums.", "half."))
        return _Sums(sums, half, **fields) if set(sums) == set(layers) else None

    def _unfinished(self, layers: tuple[int, ...]) -> Path:
        """A file for each choice of layers, so that none forgets another's pass."""
        return self._path(f"unfinished-{hashlib.sha256(repr(sorted(layers)).encode()).hexdigest()[:8]}")

    def _path(self, what: str) -> Path:
        return self.stem.with_name(f"{self.stem.name}-{what}.safetensors")
