"""How well the next token is read from states, by layer and by what reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go

from tl_knowledge.drawing import Line, LinePanel, line_panels
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.result import TableResult
from tl_knowledge.results.statistics import largest_rows, scalar_interval
from tl_knowledge.states.settings import DecodingSettings, short
from tl_knowledge.wording import counted

__all__ = ["DecodingScores"]


@dataclass(frozen=True, eq=False)
class DecodingScores(TableResult):
    """Whether, and how surely, the model's own next token is read from its states.

    Attributes:
        table: one row a prompt, a layer (``-1``: the embeddings) and what reads (``by``): ``agrees``, whether its likeliest token is the
            model's next, and ``surprisal``, ``-log`` of that token's probability there (nats).
        settings: where the Patchscope wrote the states.
        provenance: what it was measured with.
    """

    ranked_by: ClassVar[str] = "precision"
    table: pd.DataFrame
    settings: DecodingSettings
    provenance: Provenance

    @property
    def prompts(self) -> int:
        """How many prompts were read."""
        return int(self.table["prompt"].nunique())

    def headline(self) -> str:
        """How many prompts, what reads, which model."""
        return f"{', '.join(dict.fromkeys(self.table['by']))} of the last states of {counted(self.prompts, 'prompt')}; {self.provenance.model}"

    def top(self, k: int = 10) -> pd.DataFrame:
        """The k layers (by what reads them) of the largest precision@1."""
        return largest_rows(self.summary(), k, self.ranked_by)

    def summary(self) -> pd.DataFrame:
        """Precision@1 and mean surprisal (nats) by what reads and by layer, with 95% bootstrap intervals over prompts."""
        rows: list[dict[str, object]] = []
        for by in dict.fromkeys(self.table["by"]):
            own = self.table.loc[self.table["by"] == by]
            for layer in sorted(set(own["layer"])):
                of_it = own.loc[own["layer"] == layer]
                row: dict[str, object] = {"by": by, "layer": layer}
                for name, column in (("precision", "agrees"), ("surprisal", "surprisal")):
                    mean, low, high = scalar_interval(of_it[column].astype(float))
                    row |= {name: mean, f"{name}_low": low, f"{name}_high": high}
                rows.append(row)
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """Lines: precision@1 and surprisal by layer, with 95% intervals over prompts."""
        frame = self.summary()
        panels: list[LinePanel] = []
        for name, title, unit in (("precision", "precision@1", "share of prompts"), ("surprisal", "surprisal", "nats")):
            lines: list[Line] = []
            for style, by in enumerate(dict.fromkeys(frame["by"])):
                own = frame.loc[frame["by"] == by]
                values = [own[column].tolist() for column in (name, f"{name}_low", f"{name}_high")]
                lines.append(Line(str(by), own["layer"].tolist(), *values, style=style))
            panels.append(LinePanel(title, lines, unit))
        return line_panels(
            panels,
            title="When the next token can be read from the state",
            subtitle=(
                f"last tokens of {counted(self.prompts, 'prompt')}; Patchscope in {short(self.settings.into)!r}; -1: "
                f"embeddings; {self.provenance.model}"
            ),
            x_axis="layer",
            y_axis="",
        )
