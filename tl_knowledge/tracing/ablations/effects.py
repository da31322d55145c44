"""What ablation does to answers: a table of prompts and parts, its averages with intervals, and figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import pandas as pd
import plotly.graph_objects as go
from typing_extensions import override

from tl_knowledge.drawing import HeatMap, bar_chart, heat_maps
from tl_knowledge.errors import check_choice
from tl_knowledge.hooks import Ablation
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.result import TableResult
from tl_knowledge.results.statistics import largest_rows, scalar_interval
from tl_knowledge.wording import counted

__all__ = ["AblationEffects", "AblationSettings", "Effect"]

Effect: TypeAlias = Literal["relative", "absolute"]
"""Change of the probability as a part of the clean one, or in probability."""

REPLACED: dict[Ablation, str] = {"zero": "by zero", "mean": "by means", "resample": "by another prompt's activations"}
SHOWN, MOST_BARS = 25, 60
PART = ["part", "component", "layer", "unit"]


@dataclass(frozen=True)
class AblationSettings:
    """How parts were ablated, as values.

    Attributes:
        by: what was written in their place.
        at: the span at whose last token, or ``None`` for every token.
        together: whether everything was ablated in one run.
        seed: of the draw of other prompts (``"resample"``).
        tokens: over how many tokens the means are, 0 where none were needed.
    """

    by: Ablation
    at: str | None
    together: bool
    seed: int
    tokens: int


@dataclass(frozen=True, eq=False)
class AblationEffects(TableResult):
    """Change of the answer's probability without some parts, one row a prompt and part.

    Attributes:
        table: columns ``prompt text target part component layer unit clean ablated change change_absolute``: the prompt's number and text, what was
            ablated (``layer`` and ``unit`` are -1 where it is more than one thing, ``unit`` for modules too), both probabilities, and the
            change relative, ``(p' - p) / p`` (NaN where p is zero), and absolute, ``p' - p``.
        settings: how.
        provenance: how it was computed.
    """

    ranked_by: ClassVar[str] = "change"
    either_sign: ClassVar[bool] = True
    table: pd.DataFrame
    settings: AblationSettings
    provenance: Provenance

    @override
    def headline(self) -> str:
        """How many parts over how many prompts, and the largest change."""
        best = self.top(1).iloc[0]
        largest = f"{best['part']} {best['change']:+.1%} [{best['low']:+.1%}, {best['high']:+.1%}]"
        return f"{self._sample()}; largest mean change of P(answer): {largest}; {self.provenance.model}"

    @override
    def summary(self, *, effect: Effect = "relative") -> pd.DataFrame:
        """One row a part: mean change with its 95% bootstrap interval over prompts, and mean probabilities.

        Prompts whose clean probability is zero have no relative change and are left out of its mean.

        Raises:
            InputError: an unknown effect.
        """
        check_choice("effect", effect, Effect)
        column = "change" if effect == "relative" else "change_absolute"
        rows: list[dict[str, object]] = []
        for _, of_part in self.table.groupby("part", sort=False):
            values = of_part[column].dropna()
            mean, low, high = scalar_interval(values) if len(values) else (float("nan"),) * 3
            means = {"clean": float(of_part["clean"].mean()), "ablated": float(of_part["ablated"].mean())}
            own: dict[str, object] = {name: of_part[name].iloc[0] for name in PART}
            rows.append(own | means | {"change": mean, "low": low, "high": high, "prompts": len(values)})
        return pd.DataFrame(rows)

    @override
    def top(self, k: int = 10, *, effect: Effect = "relative") -> pd.DataFrame:
        """The k parts whose ablation changes the answer most, in either direction: rows of `summary`.

        Raises:
            ComponentError: k smaller than 1.
            InputError: an unknown effect.
        """
        return largest_rows(self.summary(effect=effect), k, "change", either_sign=True)

    def plot(self, *, effect: Effect = "relative") -> go.Figure:
        """Bars of the parts that count most, with intervals; a map of layers and heads where there are many heads.

        Raises:
            InputError: an unknown effect.
        """
        frame = self.summary(effect=effect)
        title = f"P(answer) without one part, ablated {REPLACED[self.settings.by]}"
        if self.settings.together:
            title = f"P(answer) without {frame['part'].iloc[0]}, ablated {REPLACED[self.settings.by]}"
        subtitle, axis = f"{self._sample()}; {self.provenance.model}", f"change of P(answer), {effect}"
        if len(frame) > MOST_BARS and set(frame["component"]) == {"head"}:
            values = frame.pivot(index="unit", columns="layer", values="change")
            heads, layers = ([str(number) for number in numbers] for numbers in (values.index, values.columns))
            shown = HeatMap(values.to_numpy(), heads, layers, "", "head", "layer", colours="RdBu")
            return heat_maps([shown], title=title, subtitle=f"{subtitle}; mean over prompts", colour_axis=axis)
        best = self.top(SHOWN, effect=effect)
        left_out = f"; the {len(best)} largest of {len(frame)}" if len(best) < len(frame) else ""
        return bar_chart(
            [str(part) for part in best["part"]],
            [float(value) for value in best["change"]],
            [float(value) for value in best["high"] - best["change"]],
            errors_below=[float(value) for value in best["change"] - best["low"]],
            title=title,
            subtitle=f"{subtitle}; 95% bootstrap over prompts{left_out}",
            value_axis=axis,
        )

    def _sample(self) -> str:
        prompts, parts = self.table["prompt"].nunique(), self.table["part"].nunique()
        span = self.settings.at
        where = "at every token" if span is None else "at the last token" if span == "last" else f"at the last {span} token"
        means = f" of {counted(self.settings.tokens, 'token')}" if self.settings.tokens else ""
        return f"{parts} part{'s' * (parts > 1)} ablated {REPLACED[self.settings.by]}{means} {where}; {prompts} prompt{'s' * (prompts > 1)}"
