"""Direct logit attribution: what each head, MLP and embedding writes towards the answer at the last position, split by the tokens heads read.

With the final norm's scale frozen, the answer's logit is a sum over everything that was written into the residual stream. A head's share
is a sum over the tokens it attends to, ``pattern[k] * v[k] W_O`` (Elhage et al. 2021), so it can be told which span it comes from.
Logits are taken relative to the mean over the vocabulary, or to another answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float

from tl_knowledge.circuits.final_norm import FinalNorm
from tl_knowledge.drawing import bar_chart
from tl_knowledge.errors import TargetError, UnsupportedModelError
from tl_knowledge.model import (
    UNEMBED_IN,
    HookedModel,
    attention_pattern,
    block_input,
    block_output,
    check_model,
    component_hook,
    describe_model,
    layer_count,
)
from tl_knowledge.prompts import Prompt, check_fits, target_tokens
from tl_knowledge.provenance import Provenance
from tl_knowledge.rows import record
from tl_knowledge.table_result import TableResult
from tl_knowledge.tracing.arguments import answer_label, choose_answer
from tl_knowledge.unembedding import Unembedding

__all__ = ["DirectAttribution", "attribute_directly"]

SPANS = ("subject", "relation", "other")


@dataclass(frozen=True, eq=False)
class DirectAttribution(TableResult):
    """Direct contributions to the answer's logit at the last position.

    Attributes:
        table: one row a part: ``component`` (``embed``, ``head``, ``attn_bias``, ``mlp_out``; ``attn_out`` where heads cannot be told apart),
            ``layer``, ``head``, ``direct`` in logits; of that, ``subject``, ``relation`` and ``other``, by the tokens a head reads (an embedding or
            MLP of the last position stands under ``other``); ``rank``: how many tokens of the vocabulary the part promotes more than the answer.
        logit: the answer's, relative to ``against``; the table's ``direct`` add up to it, but for the biases behind the norm.
        against: the other answer, or "the mean over the vocabulary".
    """

    ranked_by: ClassVar[str] = "direct"
    either_sign: ClassVar[bool] = True
    table: pd.DataFrame
    logit: float
    biases: float
    target: str
    against: str
    provenance: Provenance

    def by_layer(self) -> pd.DataFrame:
        """Contributions of attention (split by span) and MLPs, one row a layer."""
        frame = self.table[self.table["layer"] >= 0]
        attention = frame[frame["component"] != "mlp_out"].groupby("layer")[["direct", *SPANS]].sum()
        mlp = frame[frame["component"] == "mlp_out"].groupby("layer")["direct"].sum()
        return attention.rename(columns={"direct": "attention"}).assign(mlp=mlp).reset_index()

    def plot(self, *, k: int = 20) -> go.Figure:
        """Bars: the k largest contributions of either sign."""
        best = self.top(k)
        labels = [_label(row) for row in best.to_dict(orient="records")]
        return bar_chart(
            labels,
            [float(value) for value in best["direct"]],
            title=f"What writes {self.target.strip()!r} at the last position",
            subtitle=f"logit {self.logit:+.2f} relative to {self.against}; {self.provenance.model}",
            value_axis="direct contribution to the logit",
        )


def attribute_directly(model: HookedModel, prompt: Prompt, *, target: str | int | None = None, against: str | int | None = None) -> DirectAttribution:
    """Split the answer's logit at the last position into what wrote it.

    Args:
        target: text or token; default the prompt's target, else what the model predicts. Its first token is scored.
        against: another answer, whose logit is taken off; default the mean over the vocabulary.

    Raises:
        UnsupportedModelError: the model does more behind the last block than a norm and an unembedding.
        ModelError, PromptError, TargetError: arguments that do not fit.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> prompt = tlk.Prompt.from_text(model, "The capital of France is", subject="France", target=" Paris")
        >>> found = tlk.attribute_directly(model, prompt)
        >>> abs(float(found.table["direct"].sum()) + found.biases - found.logit) < 1e-3
        True
    """
    check_model(model)
    check_fits(model, prompt)
    token = int(choose_answer(model, prompt, target, False)[0])
    other = None if against is None else against if isinstance(against, int) else target_tokens(model, against)[0]
    if other is not None and not 0 <= other < int(model.cfg.d_vocab):
        raise TargetError(f"token {other} is outside the model's vocabulary of {int(model.cfg.d_vocab)}; pass a token of this model.")
    head = Unembedding.of(model)
    if head is None:
        raise UnsupportedModelError("this model does more behind the unembedding's input than a matrix and a bias; hooks set there must go first.")
    streams = _Streams(model, prompt)
    parts = streams.parts()
    norm = FinalNorm.of(model)
    written = norm.frozen_at(streams.last_state, streams.normalised, torch.stack([vector for _, vector in parts]))
    base = head.weights.mean(1) if other is None else head.weights[:, other]
    towards = head.weights[:, token] - base
    per_part = written @ head.weights
    rank = (per_part > per_part[:, token, None]).sum(1).tolist()
    table = pd.DataFrame([about for about, _ in parts]).assign(rank=rank, direct=(written @ towards).tolist())
    splits = streams.split(norm, towards)
    table = _by_part(table.join(splits) if len(splits) else table.assign(**dict.fromkeys(SPANS, float("nan"))))
    bias = torch.zeros_like(towards[0]) if head.bias is None else head.bias[token] - (head.bias.mean() if other is None else head.bias[other])
    constant = float(norm.bias @ towards + bias)
    return DirectAttribution(
        table=table[["component", "layer", "head", "direct", *SPANS, "rank"]],
        logit=float(streams.normalised @ towards + bias),
        biases=constant,
        target=answer_label(model, prompt, torch.tensor([token])),
        against="the mean over the vocabulary" if other is None else repr(str(against)),
        provenance=Provenance(**describe_model(model), prepends_bos=prompt.has_bos, seed=0, engine="one forward", settings={"prompt": prompt.text}),
    )


class _Streams:
    """One run's writes into the last position's residual stream."""

    def __init__(self, model: HookedModel, prompt: Prompt) -> None:
        self.model, self.prompt, self.pos = model, prompt, prompt.last.last
        layers = range(layer_count(model))
        names = [block_input(0), block_output(layers[-1]), UNEMBED_IN]
        names += [component_hook(part, layer) for part in ("attn_out", "mlp_out", "head") for layer in layers]
        names += [name for layer in layers for name in (attention_pattern(layer), _values(layer)) if name in model.hook_dict]
        self.found = record(model, prompt.tokens, [], names)
        self.last_state, self.normalised = (self.found[name][0, self.pos] for name in (block_output(layers[-1]), UNEMBED_IN))
        self.heads = {layer: written for layer in layers if (written := self._heads(layer)) is not None}

    def parts(self) -> list[tuple[dict[str, Any], Float[torch.Tensor, " d_model"]]]:
        """Every write: what it is, and the vector."""
        found: list[tuple[dict[str, Any], torch.Tensor]] = [
            ({"component": "embed", "layer": -1, "head": -1}, self.found[block_input(0)][0, self.pos])
        ]
        for layer in range(layer_count(self.model)):
            attention = self.found[component_hook("attn_out", layer)][0, self.pos]
            heads = self.heads.get(layer)
            if heads is None:
                found.append(({"component": "attn_out", "layer": layer, "head": -1}, attention))
            else:
                found += [({"component": "head", "layer": layer, "head": i}, vector) for i, vector in enumerate(heads.sum(1))]
                found.append(({"component": "attn_bias", "layer": layer, "head": -1}, attention - heads.sum((0, 1))))
            found.append(({"component": "mlp_out", "layer": layer, "head": -1}, self.found[component_hook("mlp_out", layer)][0, self.pos]))
        return found

    def split(self, norm: FinalNorm, towards: torch.Tensor) -> pd.DataFrame:
        """Heads' contributions by the span of the token they read, in the order of `parts`."""
        rows: list[dict[str, float]] = []
        inside = {name: list(self.prompt.spans[name]) for name in ("subject", "relation") if name in self.prompt.spans}
        for about, _ in self.parts():
            row = dict.fromkeys(SPANS, float("nan"))
            if about["component"] == "head":
                by_token = norm.frozen_at(self.last_state, self.normalised, self.heads[about["layer"]][about["head"]]) @ towards
                row = {name: float(by_token[inside[name]].sum()) if name in inside else 0.0 for name in ("subject", "relation")}
                row["other"] = float(by_token.sum()) - sum(row.values())
            rows.append(row)
        return pd.DataFrame(rows)

    def _heads(self, layer: int) -> Float[torch.Tensor, "head source d_model"] | None:
        """What each head writes, by the token it reads; ``None`` where attention's output is not the sum of that (a norm behind it)."""
        part: Any = getattr(self.model.blocks[layer], "attn", None)
        out = getattr(part, "W_O", None)
        z = self.found[component_hook("head", layer)][0, self.pos]
        if not isinstance(out, torch.Tensor) or tuple(out.shape[:2]) != tuple(z.shape):
            return None
        written = self._by_token(layer, z) @ out.detach()
        left = self.found[component_hook("attn_out", layer)][0] - torch.einsum(
            "phd,hdm->pm", self.found[component_hook("head", layer)][0], out.detach()
        )
        # What heads do not explain must be a bias: the same at every position.
        spread = (left - left[:1]).abs().max()
        rounding = 1e3 * torch.finfo(left.dtype).eps * float(self.found[component_hook("attn_out", layer)].abs().max())
        return written if float(spread) <= rounding else None

    def _by_token(self, layer: int, z: torch.Tensor) -> Float[torch.Tensor, "head source d_head"]:
        """``z`` by the token it was read from; all of it at the last position where the model hides patterns or values."""
        whole = torch.zeros(z.shape[0], len(self.prompt), z.shape[1], dtype=z.dtype, device=z.device)
        whole[:, self.pos] = z
        pattern, values = (self.found.get(name) for name in (attention_pattern(layer), _values(layer)))
        if pattern is None or values is None:
            return whole
        spoken = (
            values[0]
            .reshape(len(self.prompt), -1, z.shape[1])
            .repeat_interleave(z.shape[0] // (values[0].numel() // len(self.prompt) // z.shape[1]), 1)
        )
        split = pattern[0, :, self.pos, :, None] * spoken.transpose(0, 1)
        close = torch.allclose(split.sum(1), z, rtol=1e-3, atol=1e-4 * float(z.abs().max()))
        return split if close else whole


def _values(layer: int) -> str:
    return f"blocks.{layer}.attn.hook_v"


def _by_part(table: pd.DataFrame) -> pd.DataFrame:
    """Everything but heads is written at the last position itself, from no span: it stands under ``other``."""
    no_head = table["component"] != "head"
    filled = table[list(SPANS)].astype(float)
    filled.loc[no_head, ["subject", "relation"]] = 0.0
    filled.loc[no_head, "other"] = table.loc[no_head, "direct"].to_numpy()
    return table.assign(**{name: filled[name] for name in SPANS})


def _label(row: dict[Any, Any]) -> str:
    names = {"embed": "embedding", "head": f"head {row['layer']}.{row['head']}", "attn_bias": f"attention bias {row['layer']}"}
    names |= {"mlp_out": f"MLP {row['layer']}", "attn_out": f"attention {row['layer']}"}
    return names[row["component"]]
