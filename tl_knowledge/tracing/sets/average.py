"""Averages of causal traces over facts, by token role, with intervals over facts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from tl_knowledge.errors import DataError
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.statistics import IntervalVariant
from tl_knowledge.tracing.sets import figures
from tl_knowledge.tracing.sets.effects import RoleEffects
from tl_knowledge.tracing.sets.page import average_page
from tl_knowledge.tracing.sets.sides import compare_sides, locate_sides
from tl_knowledge.tracing.sets.store import PartResult, join_parts, read_part

__all__ = ["TraceAverage"]

Effects = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TraceAverage(RoleEffects):
    """Causal traces of many facts, averaged by token role; attributes as `RoleEffects`."""

    @classmethod
    def from_part(cls, part: PartResult) -> TraceAverage:
        """From stored traces.

        Raises:
            DataError: no fact was traced.
        """
        skipped = {int(index): reason for index, reason in part.fields["skipped"].items()}
        if not part.traces:
            reason = next(iter(skipped.values()), "none was given")
            raise DataError(f"none of the {part.fields['asked']} facts could be traced (the first: {reason}); pass facts that the model knows.")
        provenance = Provenance(**part.fields["provenance"])
        return cls(part.traces, tuple(part.fields["layers"]), part.fields["asked"], skipped, provenance, part.fields["weights"])

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TraceAverage:
        """Read what `save` wrote, or the finished parts of a `trace_facts` store.

        Raises:
            DataError: no such file or folder, or nothing in it yet.
        """
        source = Path(path)
        files = sorted(source.glob("part-*.parquet")) if source.is_dir() else [source]
        return cls.from_part(join_parts([read_part(file) for file in files]))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to one ``.parquet`` file; returns the path."""
        fields = {"asked": self.asked, "skipped": {str(i): reason for i, reason in self.skipped.items()}, "layers": list(self.layers)}
        part = PartResult(self.traces, fields | {"weights": self.weights, "provenance": self.provenance.to_dict()})
        return part.write(path)

    def compare_sides(self) -> pd.DataFrame:
        """Subject against relation, per component, place and layer: see `tl_knowledge.tracing.sets.sides.compare_sides`."""
        return self._compared.copy()

    def locate_sides(self) -> pd.DataFrame:
        """Peak and centre layer of each side: see `tl_knowledge.tracing.sets.sides.locate_sides`."""
        return locate_sides(self)

    def plot(self, variant: IntervalVariant = "ours") -> go.Figure:
        """Effect by layer for every role, with its 95% band: a panel for each side and component (paper 000, figure 6)."""
        return figures.plot_roles(self, variant)

    def plot_heat_maps(self) -> go.Figure:
        """Mean heat maps, roles by layers: a map for each side and component (ROME, figure 2)."""
        return figures.plot_heat_maps(self)

    def plot_severed(self) -> go.Figure:
        """The residual state at the last corrupted token, intact and with MLPs or attention severed (paper 001, figure 3)."""
        return figures.plot_severed(self)

    def plot_sides(self) -> go.Figure:
        """Subject against relation by layer; filled points differ after correction (paper 001, RQ1)."""
        return figures.plot_sides(self, self._compared)

    def to_html(self) -> str:
        """One self-contained page: sample, total effects, figures, subject against relation, how to read them, provenance."""
        return average_page(self, self._compared if self.comparable else None)

    @cached_property
    def _compared(self) -> pd.DataFrame:
        return compare_sides(self)
