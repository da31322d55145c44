"""Has an edit harmed the model? Sizes of the change, clamps, and the perplexity of ordinary text before and after."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go

from tl_knowledge.arrays import Hooks
from tl_knowledge.drawing import bar_chart
from tl_knowledge.engine.batches import perplexity
from tl_knowledge.models.protocol import HookedModel, context_length
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.results.result import Result

__all__ = ["EditHealth", "MatrixHealth", "clamped_subjects", "perplexities"]

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
        stored_bytes: what the edit's tensors take.
    """

    ranked_by: ClassVar[str] = "relative_norm"
    matrices: tuple[MatrixHealth, ...]
    clamped: tuple[str, ...]
    perplexity_before: float
    perplexity_after: float
    stored_bytes: int = 0

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
        parts += [] if self.matrices else [f"no weight changes, {self.stored_bytes / 1024:.1f} KiB beside the model"]
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


def perplexities(model: HookedModel, hooks: Hooks, corpus: Iterable[str], limit: int) -> tuple[float, float]:
    """Perplexity of ordinary text without and with an edit; NaN where there is no text.

    Args:
        hooks: the edit's.
        corpus: texts; those that the model cannot read are left out.
        limit: how many of them, at most.
    """
    prompts = [Prompt.from_text(model, text) for text in islice(corpus, limit)]
    prompts = [prompt for prompt in prompts if 1 < len(prompt) <= context_length(model)]
    return perplexity(model, prompts, []) if prompts else math.nan, perplexity(model, prompts, hooks) if prompts else math.nan


def clamped_subjects(notes: Sequence[dict[str, object]]) -> tuple[str, ...]:
    """Subjects whose notes say that the clamp was bound."""
    return tuple(str(note["subject"]) for note in notes if note.get("clamped"))
