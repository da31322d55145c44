"""A report of one fact, as a page."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tl_knowledge.report.findings import FactFindings
from tl_knowledge.report.page import report_page
from tl_knowledge.results.storage import write_text

__all__ = ["FactReport"]


@dataclass(frozen=True, eq=False)
class FactReport(FactFindings):
    """Everything about one fact; attributes as `FactFindings`."""

    def to_html(self) -> str:
        """One self-contained page; opens offline."""
        return report_page(self)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page; returns the path."""
        return write_text(path, self.to_html())
