"""What every protocol is: frozen settings, and the numbers that it measures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, SupportsFloat, SupportsInt

import pandas as pd
import plotly.graph_objects as go

if TYPE_CHECKING:
    from tl_knowledge.published.workbench import Workbench

__all__ = ["COLUMNS", "Measured", "Protocol", "number"]

COLUMNS = ("row", "column", "ours", "low", "high", "n")


def number(
    row: str, column: str, value: SupportsFloat, *, low: SupportsFloat = float("nan"), high: SupportsFloat = float("nan"), n: SupportsInt = 0
) -> dict[str, Any]:
    """One measured number: a row of `Measured.table`."""
    return dict(zip(COLUMNS, (row, column, float(value), float(low), float(high), int(n)), strict=True))


@dataclass(frozen=True, eq=False)
class Measured:
    """What a protocol measured.

    Attributes:
        numbers: rows as `number` makes them.
        figures: drawn of the same results.
        notes: what a reader must know of this run, such as facts that were left out.
    """

    numbers: list[dict[str, Any]]
    figures: list[go.Figure] = field(default_factory=list[go.Figure])
    notes: list[str] = field(default_factory=list[str])

    @property
    def table(self) -> pd.DataFrame:
        """``row column ours low high n``."""
        return pd.DataFrame(self.numbers, columns=list(COLUMNS))


class Protocol(ABC):
    """Frozen settings of a published procedure: a subclass is a ``@dataclass(frozen=True)`` with a `measure`."""

    @abstractmethod
    def measure(self, bench: Workbench) -> Measured:
        """Run it on the bench's model and data; long steps keep what is finished in the bench's folder."""
