"""Averages of causal traces over facts, by token role, with intervals over facts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from tl_knowledge.errors import ComponentError, DataError
from tl_knowledge.facts import Fact
from tl_knowledge.model import Component, Module
from tl_knowledge.provenance import Provenance
from tl_knowledge.statistics import Interval, largest_rows, mean_interval
from tl_knowledge.tracing import average_figures
from tl_knowledge.tracing.average_page import average_page
from tl_knowledge.tracing.roles import ROLES, Role, Side, last_corrupted, role_positions, roles_of_side
from tl_knowledge.tracing.sides import Place, compare_sides, locate_sides
from tl_knowledge.tracing.store import PartResult, join_parts, read_part
from tl_knowledge.tracing.survey import FactTrace

__all__ = ["Measure", "TraceAverage"]

Effects = NDArray[np.float64]


class Measure(NamedTuple):
    """What was corrupted, restored and severed."""

    corrupt: Side
    component: Component
    severed: tuple[Module, ...] = ()


@dataclass(frozen=True, eq=False)
class TraceAverage:
    """Causal traces of many facts, averaged by token role.

    Attributes:
        traces: every fact's traces; nothing is averaged away but the noise samples.
        layers: the layer numbers of the layer axis.
        asked: how many facts were asked for.
        skipped: index of a fact that was left out, and why.
        provenance: how the traces were computed.
        weights: fingerprint of the model's weights.
    """

    traces: tuple[FactTrace, ...]
    layers: tuple[int, ...]
    asked: int
    skipped: dict[int, str]
    provenance: Provenance
    weights: str = field(repr=False)

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

    @cached_property
    def measures(self) -> tuple[Measure, ...]:
        """Everything that was traced, in order."""
        return tuple(dict.fromkeys(Measure(t.corrupt, t.component, t.severed) for t in self.traces))

    @cached_property
    def facts(self) -> tuple[Fact, ...]:
        """The facts that were traced, in their order."""
        return tuple({trace.index: trace.fact for trace in self.traces}.values())

    @cached_property
    def sides(self) -> tuple[Side, ...]:
        """The corrupted sides, in order."""
        return tuple(dict.fromkeys(measure.corrupt for measure in self.measures))

    @cached_property
    def components(self) -> tuple[Component, ...]:
        """The components that were restored with nothing severed, in order."""
        return tuple(dict.fromkeys(measure.component for measure in self.measures if not measure.severed))

    def of(self, corrupt: Side, component: Component, severed: Module | Sequence[Module] = ()) -> list[FactTrace]:
        """The traces of one measure, one a fact.

        Raises:
            ComponentError: it was not traced.
        """
        measure = Measure(corrupt, component, (severed,) if isinstance(severed, str) else tuple(severed))  # pyright: ignore[reportArgumentType]
        found = self._by_measure.get(measure)
        if found is None:
            there = "; ".join(f"{m.corrupt}, {m.component}{', severed ' + '+'.join(m.severed) if m.severed else ''}" for m in self.measures)
            raise ComponentError(f"{corrupt!r}, {component!r}, severed {measure.severed} was not traced; there is {there}.")
        return found

    def role_effects(self, corrupt: Side, component: Component, role: Role, severed: Module | Sequence[Module] = ()) -> list[Effects]:
        """For each fact the effects of its tokens of a role, ``[token layer]``; a fact may have none."""
        if role not in ROLES:
            raise ComponentError(f"role {role!r} is unknown; pass one of {', '.join(map(repr, ROLES))}.")
        found: list[Effects] = []
        for trace in self.of(corrupt, component, severed):
            positions = role_positions(trace.subject_positions, trace.relation_positions, len(trace.labels))[role]
            effects = trace.effect.T[list(positions)]
            found.append(effects[~np.isnan(effects).any(1)])
        return found

    def effects_at(self, place: Place, corrupt: Side, component: Component, severed: Module | Sequence[Module] = ()) -> Effects:
        """Effects at the early site (the last corrupted token) or the late one (the last token), ``[fact layer]``."""
        role = last_corrupted(corrupt) if place == "last corrupted token" else "last token"
        return np.concatenate(self.role_effects(corrupt, component, role, severed))

    def to_dataframe(self, interval: Interval = "bootstrap") -> pd.DataFrame:
        """Average indirect effects: one row a corruption, component, severing, role and layer.

        Args:
            interval: ``"bootstrap"`` over facts, or ``"rome_code"`` (``1.96 sd / sqrt(n)`` over all tokens of the role).
        """
        if interval not in self._averages:
            self._averages[interval] = self._average(interval)
        return self._averages[interval].copy()

    def _average(self, interval: Interval) -> pd.DataFrame:
        rows: list[dict[str, Any]] = []
        for measure in self.measures:
            window = self.of(*measure)[0].window
            for role in ROLES:
                values = self.role_effects(*measure[:2], role, measure.severed)
                tokens = sum(map(len, values))
                if not tokens:
                    continue
                what = {"corrupt": measure.corrupt, "component": measure.component, "severed": "+".join(measure.severed) or "none", "window": window}
                numbers = zip(self.layers, *mean_interval(values, interval=interval), strict=True)
                facts = sum(len(v) > 0 for v in values)
                rows += [
                    what | {"role": role, "layer": layer, "effect": mean, "low": low, "high": high, "facts": facts, "tokens": tokens}
                    for layer, mean, low, high in numbers
                ]
        return pd.DataFrame(rows)

    def total_effects(self, interval: Interval = "bootstrap") -> pd.DataFrame:
        """Average total effect of each corruption, with the clean and corrupted probabilities, in probability."""
        rows: list[dict[str, Any]] = []
        for side in self.sides:
            traces = next(traces for measure, traces in self._by_measure.items() if measure.corrupt == side)
            clean = np.array([trace.clean_probability for trace in traces])
            totals = np.array([trace.total_effect for trace in traces])
            mean, low, high = (float(x) for x in mean_interval([totals[i : i + 1] for i in range(len(totals))], interval=interval))
            rows.append(
                {"corrupt": side, "clean": clean.mean(), "corrupted": (clean - totals).mean(), "total_effect": mean, "low": low, "high": high}
                | {"facts": len(traces)}
            )
        return pd.DataFrame(rows)

    def top(self, k: int = 10) -> pd.DataFrame:
        """The k largest average effects with nothing severed, among the roles that a side is usually shown in.

        Raises:
            ComponentError: k smaller than 1.
        """
        frame: pd.DataFrame = self.to_dataframe().query("severed == 'none'")
        usual = [role in roles_of_side(side) for side, role in zip(frame["corrupt"], frame["role"], strict=True)]
        return largest_rows(frame.loc[usual], k, "effect")

    def compare_sides(self) -> pd.DataFrame:
        """Subject against relation, per component, place and layer: see `tl_knowledge.tracing.sides.compare_sides`."""
        return self._compared.copy()

    def locate_sides(self) -> pd.DataFrame:
        """Peak and centre layer of each side: see `tl_knowledge.tracing.sides.locate_sides`."""
        return locate_sides(self)

    def plot(self, interval: Interval = "bootstrap") -> go.Figure:
        """Effect by layer for every role, with its 95% band: a panel for each side and component (paper 000, figure 6)."""
        return average_figures.plot_roles(self, interval)

    def plot_heat_maps(self) -> go.Figure:
        """Mean heat maps, roles by layers: a map for each side and component (ROME, figure 2)."""
        return average_figures.plot_heat_maps(self)

    def plot_severed(self) -> go.Figure:
        """The residual state at the last corrupted token, intact and with MLPs or attention severed (paper 001, figure 3)."""
        return average_figures.plot_severed(self)

    def plot_sides(self) -> go.Figure:
        """Subject against relation by layer; filled points differ after correction (paper 001, RQ1)."""
        return average_figures.plot_sides(self)

    def to_html(self) -> str:
        """One self-contained page: sample, total effects, figures, subject against relation, how to read them, provenance."""
        return average_page(self)

    @cached_property
    def _averages(self) -> dict[Interval, pd.DataFrame]:
        """Averages computed so far: figures, tables and pages ask for the same ones, and each is thousands of resamples."""
        return {}

    @cached_property
    def _compared(self) -> pd.DataFrame:
        return compare_sides(self)

    @cached_property
    def _by_measure(self) -> dict[Measure, list[FactTrace]]:
        found: dict[Measure, list[FactTrace]] = {}
        for trace in self.traces:
            found.setdefault(Measure(trace.corrupt, trace.component, trace.severed), []).append(trace)
        return found
