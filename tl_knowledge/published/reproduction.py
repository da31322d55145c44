"""A published experiment made again: the paper's numbers and ours, side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import plotly.graph_objects as go
from typing_extensions import override

from tl_knowledge.drawing import Points, Table, scatter
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.result import TableResult
from tl_knowledge.wording import counted, with_relation_names

__all__ = ["ReproducedExperiment", "Reproduction"]


@dataclass(frozen=True)
class ReproducedExperiment:
    """What was made again, and of what.

    Attributes:
        experiment: its name.
        title, source: what it shows, and where it was published.
        data: the data set's name; ``"factlm"`` where FactLM's own stood in.
        cases: how many facts or edits were asked for.
        published_cases: how many the paper has.
        protocol: name and settings of the protocol, as plain data.
        interval: what the paper's half widths are.
        compared_with: ``"the paper"``, ``"FactLM's own rows"`` or ``"nothing"``.
        without: rows of the paper that cannot be had here, with the reason.
        differs: what is known to differ from the authors' program.
        rehearsal: whether the weights were random, so that no number means anything.
    """

    experiment: str
    title: str
    source: str
    data: str
    cases: int
    published_cases: int
    protocol: dict[str, Any]
    interval: str
    compared_with: str
    without: dict[str, str]
    differs: tuple[str, ...]
    rehearsal: bool = False


@dataclass(frozen=True, eq=False)
class Reproduction(TableResult):
    """One row a number.

    Attributes:
        table: ``row column theirs half_width ours low high difference n``: the paper's number and its interval's half width, ours with our 95%
            interval, ours less theirs, and over how many facts, edits or words. NaN where one side has none.
        settings: what was made again.
        notes: what a reader must know of this run.
        provenance: the model, the versions.
    """

    ranked_by: ClassVar[str] = "difference"
    either_sign: ClassVar[bool] = True
    table: pd.DataFrame
    settings: ReproducedExperiment
    notes: tuple[str, ...]
    provenance: Provenance

    @override
    def headline(self) -> str:
        """What was made again, on how many cases, and how far it lies from the paper."""
        both = self.compared
        words = (
            f"{counted(len(both), 'number')} beside those of {self.settings.compared_with}" if len(both) else "no published number to stand beside"
        )
        return f"{self.settings.source}: {self.settings.cases} of {counted(self.settings.published_cases, 'case')}; {words}; {self.provenance.model}"

    @property
    def compared(self) -> pd.DataFrame:
        """The rows that both have."""
        return self.table.dropna(subset=["theirs", "ours"])

    @property
    def whose(self) -> str:
        """What stands beside ours, in a table's header."""
        return "FactLM's rows" if self.settings.compared_with.startswith("FactLM") else "theirs"

    @override
    def summary(self) -> pd.DataFrame:
        """All rows, theirs first where there are some."""
        return self.table.copy()

    def as_text(self) -> Table:
        """Theirs, ours and the difference, as text."""
        rows = [
            (
                with_relation_names(str(row["row"])),
                str(row["column"]),
                _with_half(row["theirs"], row["half_width"]),
                _with_interval(row["ours"], row["low"], row["high"]),
                _signed(row["difference"]),
                str(row["n"]) if row["n"] else "",
            )
            for row in self.table.to_dict(orient="records")
        ]
        return Table(("", "number", self.whose, "ours [95%]", "difference", "n"), rows)

    def plot(self) -> go.Figure:
        """A point a number, theirs against ours; on the diagonal both agree."""
        both = self.compared
        groups: dict[str, Points] = {
            str(column): Points(rows["theirs"].tolist(), rows["ours"].tolist(), [with_relation_names(f"{row}: {column}") for row in rows["row"]])
            for column, rows in both.groupby("column", sort=False)
        }
        groups = groups or {"nothing to compare with": Points([0.0], [0.0], ["no published number"])}
        figure = scatter(
            groups,
            title=f"{self.settings.source}: {self.whose} and ours",
            subtitle=f"{counted(len(both), 'number')}; {counted(self.settings.cases, 'case')}; {self.provenance.model}",
            x_axis=self.settings.compared_with,
            y_axis="this run",
        )
        return _with_diagonal(figure, [*both["theirs"], *both["ours"]])


def _with_diagonal(figure: go.Figure, values: Sequence[float]) -> go.Figure:
    if values:
        ends = [min(values), max(values)]
        figure.add_scatter(x=ends, y=ends, mode="lines", line={"dash": "dot", "color": "gray"}, name="equal", hoverinfo="skip")
    return figure


def _figure(value: float) -> str:
    if not math.isfinite(value):
        return ""
    if value != 0 and abs(value) < 0.01:
        return f"{value:.1e}"
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.1f}"


def _with_half(value: float, half: float) -> str:
    return _figure(value) + (f" ({half:g})" if math.isfinite(half) else "")


def _with_interval(value: float, low: float, high: float) -> str:
    return _figure(value) + (f" [{_figure(low)}, {_figure(high)}]" if math.isfinite(low) and math.isfinite(high) else "")


def _signed(value: float) -> str:
    return "" if not math.isfinite(value) else f"{'+' if value > 0 else ''}{_figure(value)}"
