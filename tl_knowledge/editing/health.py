"""Has an edit harmed the model? Sizes of the change, clamps, and the perplexity of ordinary text before and after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go

from tl_knowledge.drawing import bar_chart
from tl_knowledge.results.result import Result

__all__ = ["EditHealth", "LayerHealth"]

DISABLED_BEYOND = 2.0
NAMED = 3


@dataclass(frozen=True)
class LayerHealth:
    """One layer's change: its numerical rank and ``||dW|| / ||W||``."""

    layer: int
    rank: int
    relative_norm: float


@dataclass(frozen=True, eq=False)
class EditHealth(Result):
    """What `Edit.health` measured.

    Attributes:
        layers: by layer.
        clamped: subjects whose value was cut to the clamp: their edit could not go as far as it wanted.
        perplexity_before, perplexity_after: of the corpus; NaN without one.
    """

    ranked_by: ClassVar[str] = "relative_norm"
    layers: tuple[LayerHealth, ...]
    clamped: tuple[str, ...]
    perplexity_before: float
    perplexity_after: float

    @property
    def perplexity_ratio(self) -> float:
        """After over before."""
        return self.perplexity_after / self.perplexity_before

    @property
    def disabling(self) -> bool:
        """The alarm: ordinary text has at least doubled in perplexity, or is not finite; False without a corpus."""
        ratio = self.perplexity_ratio
        return not math.isnan(self.perplexity_before) and not ratio < DISABLED_BEYOND

    def to_dataframe(self) -> pd.DataFrame:
        """One row a layer."""
        return pd.DataFrame([vars(layer) for layer in self.layers], columns=["layer", "rank", "relative_norm"])

    def headline(self) -> str:
        """Rank and size by layer, clamped subjects, and the perplexity where it was measured."""
        parts = [f"layer {each.layer}: rank {each.rank}, ||dW||/||W|| {each.relative_norm:.3g}" for each in self.layers]
        more = f" and {len(self.clamped) - NAMED} more" if len(self.clamped) > NAMED else ""
        parts += [f"clamped: {', '.join(self.clamped[:NAMED])}{more}"] if self.clamped else []
        if not math.isnan(self.perplexity_before):
            parts.append(f"perplexity {self.perplexity_before:.2f} -> {self.perplexity_after:.2f}{' DISABLING' if self.disabling else ''}")
        return "; ".join(parts)

    def __str__(self) -> str:
        return self.headline()

    def plot(self) -> go.Figure:
        """Bars: ``||dW|| / ||W||`` by layer."""
        labels = [f"layer {each.layer} (rank {each.rank})" for each in self.layers]
        sizes = [each.relative_norm for each in self.layers]
        return bar_chart(labels, sizes, title="How much the edit changes", subtitle=self.headline(), value_axis="||dW|| / ||W||")


def clamped_subjects(notes: Sequence[dict[str, object]]) -> tuple[str, ...]:
    """Subjects whose notes say that the clamp was bound."""
    return tuple(str(note["subject"]) for note in notes if note.get("clamped"))
