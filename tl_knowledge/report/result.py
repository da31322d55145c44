"""A report of one fact: a result like every other, and a page."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go

from tl_knowledge.report.findings import FactFindings
from tl_knowledge.report.page import report_page
from tl_knowledge.results.storage import write_text

__all__ = ["FactReport"]


@dataclass(frozen=True, eq=False)
class FactReport(FactFindings):
    """Everything about one fact; attributes as `FactFindings`.

    ``save`` and ``load`` keep the numbers, ``save_html`` writes what people read.
    """

    def plot(self) -> go.Figure:
        """The circuit that carries the fact from its subject to its answer."""
        return self.circuits["subject"].plot()

    def to_html(self) -> str:
        """One self-contained page; opens offline."""
        return report_page(self)

    def save_html(self, path: str | os.PathLike[str]) -> Path:
        """Write the page; returns the path."""
        return write_text(path, self.to_html())
