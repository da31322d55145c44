"""What a causal trace gives: per-sample effects with labels and provenance, and what one does with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from typing_extensions import override

from tl_knowledge.drawing import HeatMap, bar_chart, heat_maps
from tl_knowledge.models.hook_names import Component, Module, has_units, unit_word
from tl_knowledge.prompts.spans import Span
from tl_knowledge.results.plain_text import token_text
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.result import Result
from tl_knowledge.results.statistics import largest_rows
from tl_knowledge.runs.metric import PROBABILITY, Metric
from tl_knowledge.runs.windows import layer_axis
from tl_knowledge.tracing.screen import ScreenCheck
from tl_knowledge.tracing.sentence import effects_sentence
from tl_knowledge.tracing.settings import TraceSettings
from tl_knowledge.tracing.words import COLOUR_SCALES, COMPONENT_WORDS
from tl_knowledge.wording import counted

__all__ = ["CausalTrace"]


@dataclass(frozen=True, eq=False)
class CausalTrace(Result):
    """The effects of restoring single sites in a corrupted run.

    Attributes:
        indirect_effect: ``[sample layer pos]``, in the metric (the answer's probability by default); ``[sample layer pos unit]`` for heads and
            neurons. NaN at positions that were not restored.
        total_effect: ``[sample]``: clean minus corrupted, in the metric.
        clean_probability: of the target in the clean run.
        corrupted_probability: ``[sample]``.
        settings: what was corrupted, restored and severed, and how.
        spans: the prompt's spans by name.
        labels: the prompt's tokens as text.
        target: the scored answer as text.
        known: whether the clean run predicts the target's first token.
        provenance: how it was computed.
        clean_score: the metric in the clean run; NaN in files of versions that measured probabilities only.
        screen: how well the estimates of ``engine="screen"`` agreed with exact effects; ``None`` for exact traces.
    """

    ranked_by: ClassVar[str] = "effect"
    indirect_effect: Float[torch.Tensor, "sample layer pos *unit"]
    total_effect: Float[torch.Tensor, " sample"]
    clean_probability: float
    corrupted_probability: Float[torch.Tensor, " sample"]
    settings: TraceSettings
    spans: dict[str, Span]
    labels: tuple[str, ...]
    target: str
    known: bool
    provenance: Provenance
    screen: ScreenCheck | None = None
    clean_score: float = float("nan")

    @property
    def metric(self) -> Metric:
        """What effects are measured in."""
        return self.settings.metric

    @property
    def corrupted_score(self) -> Float[torch.Tensor, " sample"]:
        """The metric in the corrupted runs, ``[sample]``."""
        return self.corrupted_probability if self.metric == PROBABILITY else self.clean_score - self.total_effect

    @property
    def component(self) -> Component:
        """What was restored."""
        return self.settings.component

    @property
    def window(self) -> int:
        """How many layers were restored together."""
        return self.settings.window

    @property
    def severed(self) -> tuple[Module, ...]:
        """Modules that were pinned to the corrupted run at the restored position."""
        return self.settings.sever

    @property
    def layers(self) -> tuple[int, ...]:
        """The layer numbers of the layer axis."""
        return self.settings.layers

    @property
    def units(self) -> tuple[int, ...]:
        """The head or neuron numbers of the unit axis; empty for components without units."""
        return self.settings.units

    @property
    def corrupted(self) -> Span:
        """The span whose embeddings were corrupted."""
        return self.settings.corrupted

    @property
    def mean_effect(self) -> Float[torch.Tensor, "layer pos *unit"]:
        """Indirect effect, averaged over noise samples."""
        return self.indirect_effect.mean(0)

    @property
    def causal_state(self) -> tuple[int, ...]:
        """The site of the largest mean effect: ``(pos, layer)``, or ``(pos, layer, unit)`` (Wen and Bai, section 3.3)."""
        mean = self.mean_effect.nan_to_num(nan=-float("inf"))
        index = [int(i) for i in np.unravel_index(int(mean.argmax()), mean.shape)]
        site = (index[1], self.layers[index[0]])
        return (*site, self.units[index[2]]) if self.units else site

    @override
    def headline(self) -> str:
        """What was restored, corrupted and lost."""
        prompt = "".join(self.labels[int(self.provenance.prepends_bos) :])
        return f"{self._what()}, {self.corrupted.name} corrupted in {prompt!r}; {self._subtitle()}"

    @override
    def to_dataframe(self) -> pd.DataFrame:
        """One row a site: token, role, mean effect, its standard error over samples, share of the total effect."""
        mean, error = self.mean_effect, self._standard_error()
        total = float(self.total_effect.mean())
        rows: list[dict[str, Any]] = []
        for index in np.ndindex(*mean.shape):
            layer, pos = self.layers[index[0]], index[1]
            effect = float(mean[index])
            if np.isnan(effect):
                continue
            unit = {unit_word(self.component): self.units[index[2]]} if self.units else {}
            rows.append(
                {"layer": layer, "pos": pos, **unit, "token": self.labels[pos], "role": self._role(pos), "effect": effect}
                | {"standard_error": float(error[index]), "share": effect / total if total else float("nan")}
            )
        return pd.DataFrame(rows)

    @override
    def top(self, k: int = 10, *, either_sign: bool = False) -> pd.DataFrame:
        """The k sites of the largest mean effect, counting losses like gains under ``either_sign``.

        Raises:
            ComponentError: k smaller than 1.
        """
        return largest_rows(self.to_dataframe(), k, "effect", either_sign=either_sign)

    def plot(self) -> go.Figure:
        """A heat map, tokens by layers, corrupted tokens bold with an asterisk; bars of the top sites for neurons."""
        title = f"Restoring one {self._what()}, {self.corrupted.name} corrupted"
        if self.component == "neuron":
            best = self.top(25)
            labels = [f"layer {a}, neuron {b} at {c!r}" for a, b, c in zip(best["layer"], best["neuron"], best["token"], strict=True)]
            return bar_chart(
                labels,
                list(best["effect"]),
                list(best["standard_error"]),
                title=title,
                subtitle=self._subtitle(),
                value_axis=f"{self._axis()} +- standard error over samples",
                colours=COLOUR_SCALES["neuron"],
                says=effects_sentence({self._restored(): self.to_dataframe()}, self._axis(), self.settings.samples),
            )
        note = "; largest over tokens" if has_units(self.component) else ""
        says = effects_sentence({self._restored(): self.to_dataframe()}, self._axis(), self.settings.samples)
        return heat_maps([self._heat_map("")], title=title, subtitle=self._subtitle() + note, colour_axis=self._axis(), says=says)

    def _standard_error(self) -> torch.Tensor:
        samples = self.indirect_effect.shape[0]
        if samples < 2:
            return torch.full_like(self.mean_effect, float("nan"))
        return self.indirect_effect.std(0) / samples**0.5

    def _role(self, pos: int) -> str:
        for name in ("subject", "relation"):
            if name in self.spans and pos in self.spans[name].positions:
                last = self.spans[name].last == pos and name == "subject"
                return "last subject token" if last else "last token" if pos == len(self.labels) - 1 else f"{name} token"
        return "prompt token"

    def _what(self) -> str:
        window = f" ({self.window} layers)" if self.window > 1 else ""
        severed = f", {' and '.join(self.severed)} severed" if self.severed else ""
        return f"{COMPONENT_WORDS[self.component]}{window}{severed}"

    def _restored(self) -> str:
        window = f", {self.window} layers" if self.window > 1 else ""
        severed = f", {' + '.join(self.severed)} severed" if self.severed else ""
        return f"{self.component}{window}{severed}"

    def _subtitle(self) -> str:
        clean = self.clean_probability if self.metric == PROBABILITY else self.clean_score
        clean, low = (self.metric.number(value) for value in (clean, float(self.corrupted_score.mean())))
        answer = f"{self.metric.of_answer(self.target)}: clean {clean}, corrupted {low}"
        return f"{answer}; {counted(self.settings.samples, 'noise sample')}; {self.provenance.model}"

    def _axis(self) -> str:
        return f"indirect effect ({self.metric.measured_in})"

    def _heat_map(self, title: str) -> HeatMap:
        if has_units(self.component):
            values = self.mean_effect.nan_to_num(nan=-float("inf")).amax(1).T
            shared = "key-value " if self.component in ("k", "v") else ""
            rows, axis = [str(unit) for unit in self.units], shared + unit_word(self.component)
            return HeatMap(values.numpy(), rows, [str(x) for x in self.layers], title, axis, "layer", colours=COLOUR_SCALES[self.component])
        return HeatMap(
            self.mean_effect.T.numpy(),
            [token_text(label) for label in self.labels],
            [str(x) for x in self.layers],
            title,
            "token",
            layer_axis(self.window),
            marked=frozenset(self.corrupted.positions),
            colours=COLOUR_SCALES[self.component],
        )
