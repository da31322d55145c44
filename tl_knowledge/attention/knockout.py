"""Attention knockout: from which tokens, and in which layers, does the last position read the answer? (Geva et al. 2023)

Attention from the last position to the tokens of a span is blocked in a window of layers around each layer; the relative change
``(p' - p) / p`` of the answer's probability, or the change of another metric, says how much the answer depends on what is read there.
All windows and spans of a prompt are rows of one growing batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias, get_args

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch

from tl_knowledge.arrays import FloatArray, Hooks
from tl_knowledge.door import public
from tl_knowledge.drawing import Line, LinePanel, line_panels
from tl_knowledge.engine.acting import site_refusal
from tl_knowledge.engine.progress import progress_bar
from tl_knowledge.engine.rows import as_index, grow_rows, growing_rows_refusal, keep_positions, rows_engine, run_rows
from tl_knowledge.errors import ComponentError, NumericalError, UnsupportedModelError, check_choice, check_given
from tl_knowledge.hooks import knock_out_attention
from tl_knowledge.models.loading import AnyModel, as_model, hooked_transformer_available
from tl_knowledge.models.protocol import HookedModel, layer_count, model_device
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.results.provenance import Provenance, provenance_of
from tl_knowledge.results.result import Result
from tl_knowledge.results.statistics import mean_interval
from tl_knowledge.runs.experiment import Experiment, answered
from tl_knowledge.runs.metric import PROBABILITY, Against, AnyMetric, Metric
from tl_knowledge.runs.metric_arguments import check_not_among, resolve_metric
from tl_knowledge.runs.windows import layer_axis, window_layers
from tl_knowledge.wording import counted

__all__ = ["AttentionKnockout", "Blocked", "measure_attention_knockout"]

Blocked: TypeAlias = Literal["subject", "relation", "last"]
"""The tokens that the last position may not read: the subject's, all others but the last, or the last itself."""

GEVA_WINDOW, GEVA_LAYERS = 9, 48  # GPT-2 XL


@dataclass(frozen=True, eq=False)
class AttentionKnockout(Result):
    """What blocking attention from the last position does.

    Attributes:
        change: ``[fact span layer]``: ``(p' - p) / p``; of every metric but the probability ``m' - m``, in its unit: they may be 0 or below, where a
            share says nothing. NaN where a prompt has no such tokens, or p is zero.
        clean_probability: ``[fact]``.
        at: the blocked spans of the span axis.
        window: layers blocked together around each layer.
        facts: the facts of the fact axis.
        provenance: how it was measured.
        metric: what changes.
    """

    ranked_by: ClassVar[str] = "change"
    either_sign: ClassVar[bool] = True
    change: FloatArray
    clean_probability: FloatArray
    at: tuple[Blocked, ...]
    window: int
    facts: tuple[Fact, ...]
    provenance: Provenance
    metric: Metric = PROBABILITY

    def headline(self) -> str:
        """Facts, blocked spans, window, metric and model."""
        layers, what = "layer" if self.window == 1 else "layers", "" if self.metric == PROBABILITY else f"; {self.metric}"
        blocked = f"{', '.join(self.at)} blocked for the last token, {self.window} {layers} at a time"
        return f"{counted(len(self.facts), 'fact')}; {blocked}{what}; {self.provenance.model}"

    def to_dataframe(self) -> pd.DataFrame:
        """Mean change with its 95% bootstrap interval over facts, for every span and layer."""
        frames: list[pd.DataFrame] = []
        for index, blocked in enumerate(self.at):
            values = self.change[:, index]
            values = values[~np.isnan(values).any(1)]
            if len(values):
                mean, low, high = mean_interval(list(values[:, None]))
                columns = {"blocked": blocked, "layer": range(len(mean)), "change": mean, "low": low, "high": high, "facts": len(values)}
                frames.append(pd.DataFrame(columns))
        if not frames:  # no prompt has such tokens
            return pd.DataFrame(columns=["blocked", "layer", "change", "low", "high", "facts"])  # pyright: ignore[reportArgumentType]
        return pd.concat(frames, ignore_index=True)

    def plot(self) -> go.Figure:
        """Mean change by layer, a line for each span."""
        frame = self.to_dataframe()
        lines: list[Line] = []
        for style, blocked in enumerate(self.at):
            rows = frame[frame["blocked"] == blocked]
            if len(rows):
                x, y, low, high = (rows[column].tolist() for column in ("layer", "change", "low", "high"))
                lines.append(Line(f"{blocked} tokens" if blocked != "last" else "last token", x, y, low, high, style))
        unit = ", relative" if self.metric == PROBABILITY else f",{self.metric.unit}" * bool(self.metric.unit)
        return line_panels(
            [LinePanel("", lines)],
            title="What the last position must read",
            subtitle=f"attention from the last position blocked; {counted(len(self.facts), 'fact')}; {self.provenance.model}; bands: 95% bootstrap",
            x_axis=layer_axis(self.window),
            y_axis=f"change of {self.metric.of_answer()}{unit}",
            percent=self.metric == PROBABILITY,
        )


@public
def measure_attention_knockout(
    model: AnyModel,
    facts: Fact | Iterable[Fact],
    *,
    at: Blocked | Sequence[Blocked] = ("subject", "relation", "last"),
    window: int | Literal["auto"] = "auto",
    metric: AnyMetric = "probability",
    against: Against = None,
    progress: bool = True,
) -> AttentionKnockout:
    """Block attention from the last position to the tokens of some spans, in a window of layers around each layer.

    Args:
        facts: each with a target that is scored by its first token. Pass facts the model knows: the change of a probability is relative.
        at: which spans, each by itself; the last position is never counted to the subject or the relation.
        window: layers blocked together; Geva et al.'s 9 of GPT-2 XL's 48, or ``"auto"`` for that share of this model's, made odd.
        metric, against: as in `tl_knowledge.trace`: what changes. The change of the probability is relative, that of every other metric is not.

    Raises:
        DataError: no fact.
        TargetError, InputError: a metric that does not fit, or an answer that is measured against itself.
        ComponentError: an unknown span, or a window that does not fit the model.
        NumericalError: a value that is not finite.
        UnsupportedModelError: a model whose attention scores cannot be written (some bridges compute past their hooks).

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> knockout = tlk.measure_attention_knockout(model, tlk.load_facts("factlm")[:4], window=3, progress=False)
        >>> knockout.change.shape
        (4, 3, 8)
    """
    model = as_model(model, without_mlps=True)
    known = check_given([facts] if isinstance(facts, Fact) else facts, "fact")
    spans = (at,) if isinstance(at, str) else tuple(at)
    if not spans:
        raise ComponentError(f"no span was given to block; pass some of {', '.join(map(repr, get_args(Blocked)))}.")
    for name in spans:
        check_choice("at", name, Blocked, ComponentError)
    width, measured = _window(model, window), resolve_metric(model, metric, against)
    _check_writable(model)
    changes: list[FloatArray] = []
    cleans: list[float] = []
    prompts = [Prompt.from_fact(model, fact) for fact in known]
    for prompt in prompts:
        check_not_among(measured.against, prompt.answer)
    for prompt in progress_bar(prompts, what="attention knockout", unit="fact", progress=progress):
        change, clean = _knock_out(model, prompt, spans, width, measured)
        changes.append(change)
        cleans.append(clean)
    provenance = provenance_of(model, has_bos=prompts[0].has_bos, engine=rows_engine(model), window=width, at=list(spans), metric=measured.name)
    return AttentionKnockout(np.stack(changes), np.array(cleans), spans, width, known, provenance, measured)


def _knock_out(model: HookedModel, prompt: Prompt, spans: Sequence[Blocked], window: int, metric: Metric) -> tuple[FloatArray, float]:
    """Changes ``[span layer]`` and the clean probability, from one forward with a row for every window and span."""
    answer = torch.tensor([prompt.target_token], device=model_device(model))
    experiment = Experiment(model, (answered(prompt, answer),), (), 0, metric)
    base, n_layers = experiment.base, layer_count(model)
    probability, clean = float(base.probability[0]), float(base.score[0])
    jobs = [(index, layer, keys) for index, name in enumerate(spans) for layer in range(n_layers) if (keys := _keys(prompt, name))]
    jobs.sort(key=lambda job: window_layers(job[1], window, n_layers, "ours")[0])
    changes = np.full((len(spans), n_layers), np.nan)
    if not jobs:
        return changes, probability
    windows = [window_layers(layer, window, n_layers, "ours") for _, layer, _ in jobs]
    births = {born_at: as_index([0] * count, experiment.device) for born_at, count in Counter(first - 1 for first, _ in windows).items()}
    hooks: Hooks = grow_rows(base.streams, births)
    for row, ((_, _, keys), (first, last)) in enumerate(zip(jobs, windows, strict=True), start=1):
        hooks += knock_out_attention(prompt.last, keys, layers=range(first, last + 1), rows=[row])
    logits = run_rows(model, prompt.tokens, hooks + keep_positions(experiment.answer_positions))
    scores = experiment.score(logits, torch.zeros(len(logits), dtype=torch.long, device=experiment.device))[1:]
    if not bool(scores.isfinite().all()):
        raise NumericalError(f"blocked runs of {prompt.text!r} gave values of {metric} that are not finite; load the model in float32.")
    whole = clean if metric == PROBABILITY else 1.0
    for (index, layer, _), value in zip(jobs, scores.tolist(), strict=True):
        changes[index, layer] = (value - clean) / whole if whole else np.nan
    return changes, probability


def _keys(prompt: Prompt, name: Blocked) -> tuple[int, ...]:
    if name == "last":
        return prompt.last.positions
    last = prompt.last.last
    return tuple(p for p in prompt.span(name) if p != last)


def _window(model: HookedModel, window: int | Literal["auto"]) -> int:
    if isinstance(window, str):
        check_choice("window", window, ("auto",), ComponentError)
        return usual_window(layer_count(model))
    if not 1 <= window <= layer_count(model):
        raise ComponentError(f"window {window} does not fit the model; pass 1 to {counted(layer_count(model), 'layer')}, or 'auto'.")
    return window


def usual_window(n_layers: int) -> int:
    """The odd window nearest to Geva et al.'s share of the layers: 9 of 48.

    Example:
        >>> [usual_window(n_layers) for n_layers in (4, 8, 12, 24, 48)]
        [1, 1, 3, 5, 9]
    """
    return 2 * round((GEVA_WINDOW / GEVA_LAYERS * n_layers - 1) / 2) + 1


def _check_writable(model: HookedModel) -> None:
    """Refuse models whose attention goes past its score hooks, or that cannot grow rows; every model is tried once."""
    refusal = growing_rows_refusal(model)
    if refusal:
        raise UnsupportedModelError(f"this model cannot run growing rows ({refusal}); use the hooks of knock_out_attention() prompt by prompt.")
    if site_refusal(model, "attn_scores"):
        raise UnsupportedModelError(
            "this model's attention ignores what is written to hook_attn_scores (its bridge only shows them); "
            + (
                "load it with backend='hooked_transformer'."
                if hooked_transformer_available()
                else "only transformer-lens<4 has a class that reads them."
            )
        )
