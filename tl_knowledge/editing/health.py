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

__all__ = ["EditHealth", "MatrixHealth"]

DISABLED_BEYOND = 2.0
NAMED = 3


@dataclass(frozen=True)
class MatrixHealth:
    """One matrix' change: its numerical rank and ``||dW|| / ||W||``."""

    layer: int
    matrix: str
    rank: int
    relative_norm: float


@dataclass(frozen=True, eq=False)
class EditHealth(Result):
    """What `Edit.health` measured.

    Attributes:
        matrices: of every matrix that it changes.
        clamped: subjects whose value was cut to the clamp: their edit could not go as far as it wanted.
        perplexity_before, perplexity_after: of the corpus; NaN without one.
    """

    ranked_by: ClassVar[str] = "relative_norm"
    matrices: tuple[MatrixHealth, ...]
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
        """One row a matrix."""
        return pd.DataFrame([vars(each) for each in self.matrices], columns=["layer", "matrix", "rank", "relative_norm"])

    def headline(self) -> str:
        """Rank and size by matrix, clamped subjects, and the perplexity where it was measured."""
        parts = [f"{each.matrix} of layer {each.layer}: rank {each.rank}, ||dW||/||W|| {each.relative_norm:.3g}" for each in self.matrices]
        more = f" and {len(self.clamped) - NAMED} more" if len(self.clamped) > NAMED else ""
        parts += [f"clamped: {', '.join(self.clamped[:NAMED])}{more}"] if self.clamped else []
        if not math.isnan(self.perplexity_before):
            parts.append(f"perplexity {self.perplexity_before:.2f} -> {self.perplexity_after:.2f}{' DISABLING' if self.disabling else ''}")
        return "; ".join(parts)

    def __str__(self) -> str:
        return self.headline()

    def plot(self) -> go.Figure:
        """Bars: ``||dW|| / ||W||`` by matrix."""
        labels = [f"{each.matrix} of layer {each.layer} (rank {each.rank})" for each in self.matrices]
        sizes = [each.relative_norm for each in self.matrices]
        return bar_chart(labels, sizes, title="How much the edit changes", subtitle=self.headline(), value_axis="||dW|| / ||W||")


def clamped_subjects(notes: Sequence[dict[str, object]]) -> tuple[str, ...]:
    """Subjects whose notes say that the clamp was bound."""
    return tuple(str(note["subject"]) for note in notes if note.get("clamped"))
