"""Direct logit attribution: what each head, MLP and embedding writes towards the answer at the last position, split by the tokens heads read.

With the final norm's scale frozen, the answer's logit is a sum over everything that was written into the residual stream. A head's share
is a sum over the tokens it attends to, ``pattern[k] * v[k] W_O`` (Elhage et al. 2021), which says from which span it comes.
Logits are taken relative to the mean over the vocabulary, or to another answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from more_itertools import chunked

from tl_knowledge.door import public
from tl_knowledge.drawing import bar_chart
from tl_knowledge.engine.progress import progress_bar
from tl_knowledge.engine.recording import record
from tl_knowledge.errors import UnsupportedModelError
from tl_knowledge.models.final_norm import FinalNorm
from tl_knowledge.models.head_writes import head_output_weights
from tl_knowledge.models.hook_names import UNEMBED_IN, attention_pattern, block_input, block_output, component_hook
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel, has_mlps, layer_count
from tl_knowledge.models.unembedding import Unembedding
from tl_knowledge.prompts.prompt import Prompt, check_fits
from tl_knowledge.results.provenance import Provenance, provenance_of
from tl_knowledge.results.result import TableResult
from tl_knowledge.runs.arguments import answer_label, choose_answer
from tl_knowledge.runs.metric_arguments import other_tokens

__all__ = ["DirectLogitAttribution", "direct_logit_attribution"]

SPANS = ("subject", "relation", "other")
PARTS_AT_ONCE = 64  # whose logits are held


@dataclass(frozen=True, eq=False)
class DirectLogitAttribution(TableResult):
    """Direct contributions to the answer's logit at the last position.

    Attributes:
        table: one row a part: ``component`` (``embed``, ``head``, ``attn_bias``, ``mlp_out``; ``attn_out`` where heads cannot be told apart),
            ``layer``, ``head``, ``direct`` in logits; of that, ``subject``, ``relation`` and ``other``, by the tokens a head reads (an embedding or
            MLP of the last position stands under ``other``); ``rank``: how many tokens of the vocabulary the part promotes more than the answer.
        logit: the answer's, relative to ``against``; the table's ``direct`` add up to it, but for the biases after the norm.
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

    def headline(self) -> str:
        """The answer's logit and the model."""
        return f"logit of {self.target.strip()!r} {self.logit:+.2f} relative to {self.against}; {self.provenance.model}"

    def by_layer(self) -> pd.DataFrame:
        """Contributions of attention (and of that, by span) and MLPs, one row a layer."""
        rows: list[dict[str, float]] = []
        for layer in range(int(self.table["layer"].max()) + 1):
            own = self.table.query("layer == @layer")
            attention = own.query("component != 'mlp_out'")
            row = {"layer": layer, "attention": float(attention["direct"].sum())} | {span: float(attention[span].sum()) for span in SPANS}
            rows.append(row | {"mlp": float(own.query("component == 'mlp_out'")["direct"].sum())})
        return pd.DataFrame(rows)

    def plot(self, *, limit: int = 20) -> go.Figure:
        """Bars: the largest contributions of either sign."""
        best = self.top(limit)
        labels = [_label(row) for row in best.to_dict(orient="records")]
        return bar_chart(
            labels,
            [float(value) for value in best["direct"]],
            title=f"What writes {self.target.strip()!r} at the last position",
            subtitle=f"logit {self.logit:+.2f} relative to {self.against}; {self.provenance.model}",
            value_axis="direct contribution to the logit",
        )


@public
def direct_logit_attribution(
    model: AnyModel, prompt: Prompt, *, target: str | int | None = None, against: str | int | None = None, progress: bool = True
) -> DirectLogitAttribution:
    """Split the answer's logit at the last position into what wrote it.

    Args:
        target: text or token; default the prompt's target, else what the model predicts. Its first token is scored.
        against: another answer, whose logit is taken off; default the mean over the vocabulary.
        progress: show a progress bar once the work has lasted two seconds.

    Raises:
        UnsupportedModelError: the model does more after the last block than a norm and an unembedding.
        ModelError, PromptError, TargetError: arguments that do not fit.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> prompt = tlk.Prompt.from_text(model, "The capital of France is", subject="France", target=" Paris")
        >>> parts = tlk.direct_logit_attribution(model, prompt)
        >>> abs(float(parts.table["direct"].sum()) + parts.biases - parts.logit) < 1e-3
        True
    """
    model = as_model(model, without_mlps=True)
    check_fits(model, prompt)
    token = int(choose_answer(model, prompt, target, False)[0])
    other = None if against is None else other_tokens(model, against)[0]
    head = Unembedding.of(model)
    if head is None:
        raise UnsupportedModelError("this model does more after the unembedding's input than a matrix and a bias; hooks set there must go first.")
    run = _Run(model, prompt)
    norm = FinalNorm.of(model)
    base = head.weights.mean(1) if other is None else head.weights[:, other]
    towards = head.scale * (head.weights[:, token] - base)
    biases = torch.zeros_like(head.weights[0]) if head.bias is None else head.bias
    bias = head.scale * (biases[token] - (biases.mean() if other is None else biases[other]))
    return DirectLogitAttribution(
        table=pd.DataFrame(run.rows(norm, head.weights, towards, token, progress)),
        logit=float(run.normalised @ towards + bias),
        biases=float(norm.bias @ towards + bias),
        target=answer_label(model, prompt, torch.tensor([token])),
        against="the mean over the vocabulary" if other is None else repr(str(against)),
        provenance=provenance_of(model, has_bos=prompt.has_bos, engine="one forward", prompt=prompt.text),
    )


class _Run:
    """One run's writes into the last position's residual stream."""

    def __init__(self, model: HookedModel, prompt: Prompt) -> None:
        self.model, self.prompt, self.pos = model, prompt, prompt.last.last
        self.layers = range(layer_count(model))
        names = [block_input(0), block_output(self.layers[-1]), UNEMBED_IN]
        self.modules = ("attn_out", "mlp_out") if has_mlps(model) else ("attn_out",)
        names += [component_hook(part, layer) for part in (*self.modules, "head") for layer in self.layers]
        names += [name for layer in self.layers for name in (attention_pattern(layer), _values(layer)) if name in model.hook_dict]
        self.activations = record(model, prompt.tokens, [], names)
        self.state, self.normalised = (self.activations[name][0, self.pos] for name in (block_output(self.layers[-1]), UNEMBED_IN))
        self.spans = {name: list(prompt.spans[name]) for name in ("subject", "relation") if name in prompt.spans}

    def rows(self, norm: FinalNorm, vocabulary: torch.Tensor, towards: torch.Tensor, answer: int, progress: bool) -> list[dict[str, Any]]:
        """One row a part: what it adds to the answer's logit, by the span it was read from."""
        rows: list[dict[str, Any]] = []
        parts = progress_bar(self._parts(), what="direct logit attribution", unit="part", progress=progress)
        for some in chunked(parts, PARTS_AT_ONCE):
            written = [norm.frozen_at(self.state, self.normalised, by_token) for _, by_token in some]
            said = torch.stack([each.sum(0) for each in written]) @ vocabulary
            ranks = (said > said[:, [answer]]).sum(1).tolist()
            rows += [about | self._shares(each @ towards) | {"rank": rank} for (about, _), each, rank in zip(some, written, ranks, strict=True)]
        return rows

    def _shares(self, direct: Float[torch.Tensor, " source"]) -> dict[str, float]:
        """A part's contribution, and how much of it comes from each span."""
        of_spans = {name: float(direct[self.spans[name]].sum()) if name in self.spans and len(direct) > 1 else 0.0 for name in SPANS[:2]}
        whole = float(direct.sum())
        return {"direct": whole, **of_spans, "other": whole - sum(of_spans.values())}

    def _parts(self) -> Iterator[tuple[dict[str, Any], Float[torch.Tensor, "source d_model"]]]:
        """Everything written: a head by the tokens it reads, all else as one vector."""
        yield {"component": "embed", "layer": -1, "head": -1}, self.activations[block_input(0)][:, self.pos]
        for layer in self.layers:
            attention = self.activations[component_hook("attn_out", layer)][:, self.pos]
            heads = self._heads(layer)
            if heads is None:
                yield {"component": "attn_out", "layer": layer, "head": -1}, attention
            else:
                for number, by_token in enumerate(heads):
                    yield {"component": "head", "layer": layer, "head": number}, by_token
                yield {"component": "attn_bias", "layer": layer, "head": -1}, attention - heads.sum((0, 1))
            if "mlp_out" in self.modules:
                yield {"component": "mlp_out", "layer": layer, "head": -1}, self.activations[component_hook("mlp_out", layer)][:, self.pos]

    def _heads(self, layer: int) -> Float[torch.Tensor, "head source d_model"] | None:
        """What each head writes, by the token it reads; ``None`` where attention's output is not the sum of that (a norm after it)."""
        z, written = (self.activations[component_hook(name, layer)][0] for name in ("head", "attn_out"))
        out = head_output_weights(self.model, layer, z, written)
        if out is None:
            return None
        return self._by_token(layer, z[self.pos]) @ out

    def _by_token(self, layer: int, z: Float[torch.Tensor, "head d_head"]) -> Float[torch.Tensor, "head source d_head"]:
        """``z`` by the token it was read from; as one, from nowhere, where the model hides patterns or values."""
        pattern, values = (self.activations.get(name) for name in (attention_pattern(layer), _values(layer)))
        if pattern is None or values is None:
            return z[:, None]
        spoken = values[0].reshape(len(self.prompt), -1, z.shape[1])
        spoken = spoken.repeat_interleave(z.shape[0] // spoken.shape[1], 1)  # heads of a group share their values
        split = pattern[0, :, self.pos, :, None] * spoken.transpose(0, 1)
        return split if torch.allclose(split.sum(1), z, rtol=1e-3, atol=1e-4 * float(z.abs().max())) else z[:, None]


def _values(layer: int) -> str:
    return f"blocks.{layer}.attn.hook_v"


def _label(row: dict[Any, Any]) -> str:
    names = {"embed": "embedding", "head": f"head {row['layer']}.{row['head']}", "attn_bias": f"attention bias {row['layer']}"}
    names |= {"mlp_out": f"MLP {row['layer']}", "attn_out": f"attention {row['layer']}"}
    return names[row["component"]]
