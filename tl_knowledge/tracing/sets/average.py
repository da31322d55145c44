"""Averages of causal traces over facts, by token role, with intervals over facts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
from typing_extensions import override

from tl_knowledge.errors import DataError
from tl_knowledge.models.hook_names import Component
from tl_knowledge.results.result import Result
from tl_knowledge.results.run_folder import PART
from tl_knowledge.results.statistics import IntervalVariant
from tl_knowledge.tracing.sets import figures
from tl_knowledge.tracing.sets.effects import RoleEffects
from tl_knowledge.tracing.sets.modules import ModuleComparison, compare_modules
from tl_knowledge.tracing.sets.page import average_page
from tl_knowledge.tracing.sets.sides import SideComparison, compare_sides, locate_sides
from tl_knowledge.tracing.sets.store import PartHeader, PartResult, join_parts, read_part
from tl_knowledge.tracing.sets.units import plot_units
from tl_knowledge.wording import counted

__all__ = ["TraceAverage"]


@dataclass(frozen=True, eq=False)
class TraceAverage(RoleEffects, Result):
    """Causal traces of many facts, averaged by token role; attributes as `RoleEffects`."""

    ranked_by: ClassVar[str] = "effect"

    @classmethod
    def from_part(cls, part: PartResult) -> TraceAverage:
        """From stored traces.

        Raises:
            DataError: no fact was traced.
        """
        header = part.header
        if not part.traces:
            reason = next(iter(header.skipped.values()), "none was given")
            raise DataError(f"none of the {counted(header.given, 'fact')} could be traced (the first: {reason}); pass facts that the model knows.")
        return cls(part.traces, header.settings, header.given, header.skipped, header.executions, header.provenance, header.weights)

    @classmethod
    @override
    def load(cls, path: str | os.PathLike[str]) -> TraceAverage:
        """Read what `save` wrote, or the finished parts of a `trace_facts` store.

        Raises:
            DataError: no such file or folder, or nothing in it yet.
        """
        source = Path(path)
        files = sorted(file for file in source.iterdir() if PART.fullmatch(file.name)) if source.is_dir() else [source]
        return cls.from_part(join_parts([read_part(file) for file in files]))

    @override
    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to one ``.parquet`` file; returns the path."""
        header = PartHeader(self.given, self.skipped, self.settings, self.executions, self.weights, self.provenance)
        return PartResult(self.traces, header).write(path)

    @override
    def headline(self) -> str:
        """What was traced of how many facts, and the average total effects."""
        totals = self.total_effects()
        effects = ", ".join(f"{side} {effect:.3f}" for side, effect in zip(totals["corrupt"], totals["total_effect"], strict=True))
        restored = ", ".join((*self.components, *self.unit_components))
        return f"{restored}; average total effect: {effects}{self.metric.remark}; {figures.sample_words(self)}"

    def compare_sides(self) -> SideComparison:
        """Subject against relation, per component, place and layer, paired within facts.

        Raises:
            ComponentError: only one side was traced.
            InputError: fewer than 6 facts.
        """
        return self._comparison

    def compare_modules(self) -> ModuleComparison:
        """Attention against MLPs, per corrupted side, place and layer, paired within facts: difference, effect size, p.

        Raises:
            ComponentError: one of the two was not traced.
            InputError: fewer than 6 facts.
        """
        return compare_modules(self)

    def locate_sides(self) -> pd.DataFrame:
        """Peak and centre layer of each side: see `tl_knowledge.tracing.sets.sides.locate_sides`."""
        return locate_sides(self)

    def plot(self, variant: IntervalVariant = "ours") -> go.Figure:
        """Effect by layer for every role, with its 95% band: a panel for each side and component (Wen and Bai, figure 6).

        Where only heads or neurons were traced, `plot_units` of the first.
        """
        return figures.plot_roles(self, variant) if self.components else self.plot_units()

    def plot_heat_maps(self) -> go.Figure:
        """Mean heat maps, roles by layers: a map for each side and component (Meng et al. 2022, figure 2)."""
        return figures.plot_heat_maps(self)

    def plot_units(self, component: Component | None = None) -> go.Figure:
        """Heads by layers, at the last corrupted token and at the last token, a row of maps a side; of neurons, bars of the largest.

        Args:
            component: which, where several components with heads or neurons were traced; the first when ``None``.

        Raises:
            ComponentError: no such component was traced.
        """
        return plot_units(self, component)

    def plot_severed(self) -> go.Figure:
        """The residual state at the last corrupted token, intact and with MLPs or attention severed (Wei et al. 2024, figure 3)."""
        return figures.plot_severed(self)

    def plot_sides(self) -> go.Figure:
        """Subject against relation by layer; filled points differ after correction (Wei et al. 2024, RQ1)."""
        return self._comparison.plot()

    def to_html(self) -> str:
        """One self-contained page: sample, total effects, figures, subject against relation, how to read them, provenance."""
        return average_page(self, self._comparison if self.comparable else None)

    @cached_property
    def _comparison(self) -> SideComparison:
        return compare_sides(self)
