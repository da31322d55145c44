"""Effects of many facts' traces by token role: what averages, figures and tests read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from more_itertools import map_reduce

from tl_knowledge.arrays import FloatArray
from tl_knowledge.errors import ComponentError, check_choice
from tl_knowledge.models.hook_names import Component, Module, has_units
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.significance import FEWEST_TESTED
from tl_knowledge.results.statistics import IntervalVariant, largest_rows, mean_interval
from tl_knowledge.runs.metric import Metric
from tl_knowledge.runs.roles import PLACES, ROLES, SIDES, Place, Role, Side, last_corrupted, role_positions, roles_of_side
from tl_knowledge.tracing.sets.settings import Execution, Survey
from tl_knowledge.tracing.sets.survey import FactTrace

__all__ = ["Measure", "RoleEffects"]


class Measure(NamedTuple):
    """What was corrupted, restored and severed."""

    corrupt: Side
    component: Component
    severed: tuple[Module, ...] = ()


@dataclass(frozen=True, eq=False)
class RoleEffects:
    """Traces of many facts, read by token role.

    Attributes:
        traces: every fact's traces; nothing is averaged away but the noise samples.
        settings: what was traced of every fact, with the noise's scale and the layers of this model.
        given: how many facts were given.
        skipped: index of a fact that was left out, and why.
        executions: how it was computed; several where a run went on in another way than it began.
        provenance: how the traces were computed.
        weights: fingerprint of the model's weights.
    """

    traces: tuple[FactTrace, ...]
    settings: Survey
    given: int
    skipped: dict[int, str]
    executions: tuple[Execution, ...]
    provenance: Provenance
    weights: str = field(repr=False)

    @property
    def metric(self) -> Metric:
        """What effects are measured in."""
        return self.settings.metric

    @property
    def layers(self) -> tuple[int, ...]:
        """The layer numbers of every trace's layer axis."""
        return self.settings.layers or ()

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
        """The states and modules that were restored with nothing severed, in order."""
        return tuple(c for c in self._restored if not has_units(c))

    @cached_property
    def unit_components(self) -> tuple[Component, ...]:
        """The components with heads or neurons that were restored, in order."""
        return tuple(c for c in self._restored if has_units(c))

    @property
    def _restored(self) -> tuple[Component, ...]:
        return tuple(dict.fromkeys(measure.component for measure in self.measures if not measure.severed))

    @property
    def comparable(self) -> bool:
        """Whether states or modules were traced from both sides, of facts enough to be compared."""
        return set(self.sides) == set(SIDES) and len(self.facts) >= FEWEST_TESTED and bool(self.components)

    def of(self, corrupt: Side, component: Component, sever: Module | Sequence[Module] = ()) -> list[FactTrace]:
        """The traces of one measure, one a fact.

        Raises:
            ComponentError: it was not traced.
        """
        measure = Measure(corrupt, component, (sever,) if isinstance(sever, str) else tuple(sever))  # pyright: ignore[reportArgumentType]
        traces = self._by_measure.get(measure)
        if traces is None:
            there = "; ".join(f"{m.corrupt}, {m.component}{', severed ' + '+'.join(m.severed) if m.severed else ''}" for m in self.measures)
            raise ComponentError(f"{corrupt!r}, {component!r}, severed {measure.severed} was not traced; there is {there}.")
        return traces

    def role_effects(self, corrupt: Side, component: Component, role: Role, sever: Module | Sequence[Module] = ()) -> list[FloatArray]:
        """For each fact the effects of its tokens of a role, ``[token layer]`` or ``[token layer unit]``; a fact may have none."""
        check_choice("role", role, ROLES, ComponentError)
        of_facts: list[FloatArray] = []
        for trace in self.of(corrupt, component, sever):
            positions = role_positions(trace.subject_positions, trace.relation_positions, len(trace.labels))[role]
            effects = trace.effect.swapaxes(0, 1)[list(positions)]
            of_facts.append(effects[~np.isnan(effects).any(tuple(range(1, effects.ndim)))])
        return of_facts

    def effects_at(self, place: Place, corrupt: Side, component: Component, sever: Module | Sequence[Module] = ()) -> FloatArray:
        """Effects at the early site (the last corrupted token) or the late one (the last token), ``[fact layer]`` or ``[fact layer unit]``."""
        check_choice("place", place, PLACES, ComponentError)
        role = last_corrupted(corrupt) if place == "last corrupted token" else "last token"
        return np.concatenate(self.role_effects(corrupt, component, role, sever))

    def to_dataframe(self, variant: IntervalVariant = "ours") -> pd.DataFrame:
        """Average indirect effects: one row a corruption, component, severing, role and layer, and unit of heads and neurons.

        The column ``unit`` is there where heads or neurons were traced, and empty in the rows of other components.

        Args:
            variant: ``"ours"``: means of effects, intervals over facts. ``"meng2022_code"``, as that program's notebook of average effects:
                the mean *score* of the role's tokens less the mean corrupted probability of *all* facts (so longer facts, which have more
                tokens of a pooled role, shift its mean), and ``1.96 sd / sqrt(facts)`` with the sd of the scores.
        """
        if variant not in self._averages:
            self._averages[variant] = self._average(variant)
        return self._averages[variant].copy()

    def _average(self, variant: IntervalVariant) -> pd.DataFrame:
        rows: list[dict[str, Any]] = []
        for measure in self.measures:
            window, units = self.of(*measure)[0].window, self.of(*measure)[0].units
            for role in ROLES:
                values = self.role_effects(*measure[:2], role, measure.severed)
                low_score = 0.0
                if variant == "meng2022_code":
                    corrupted = [float(np.mean(trace.corrupted_score)) for trace in self.of(*measure)]
                    values, low_score = [v + low for v, low in zip(values, corrupted, strict=True)], float(np.mean(corrupted))
                tokens = sum(map(len, values))
                if not tokens:
                    continue
                what = {"corrupt": measure.corrupt, "component": measure.component, "severed": "+".join(measure.severed) or "none", "window": window}
                counted = {"facts": sum(len(v) > 0 for v in values), "tokens": tokens}
                for place, mean, low, high in _intervals(values, self.layers, units, variant):
                    numbers = {"effect": mean - low_score, "low": low - low_score, "high": high - low_score}
                    rows.append(what | {"role": role} | place | numbers | counted)
        frame = pd.DataFrame(rows)
        return frame.astype({"unit": "Int64"}) if "unit" in frame else frame

    def total_effects(self, variant: IntervalVariant = "ours") -> pd.DataFrame:
        """Average total effect of each corruption, with the clean and corrupted scores, in the metric.

        Args:
            variant: of the interval; ``"meng2022_code"`` is ``1.96 sd / sqrt(facts)`` of the total effects, for which the program shows none.
        """
        rows: list[dict[str, Any]] = []
        for side in self.sides:
            traces = next(traces for measure, traces in self._by_measure.items() if measure.corrupt == side)
            clean = np.array([trace.clean_score for trace in traces])
            totals = np.array([trace.total_effect for trace in traces])
            mean, low, high = (float(x) for x in mean_interval([totals[i : i + 1] for i in range(len(totals))], variant=variant))
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

    @cached_property
    def _averages(self) -> dict[IntervalVariant, pd.DataFrame]:
        """Averages computed so far: figures, tables and pages ask for the same ones, and each is thousands of resamples."""
        return {}

    @cached_property
    def _by_measure(self) -> dict[Measure, list[FactTrace]]:
        return dict(map_reduce(self.traces, lambda trace: Measure(trace.corrupt, trace.component, trace.severed)))


def _intervals(
    values: Sequence[FloatArray], layers: Sequence[int], units: Sequence[int], variant: IntervalVariant
) -> Iterator[tuple[dict[str, int], float, float, float]]:
    """Mean and interval of every layer, and of every unit where there are some.

    Args:
        values: for each fact ``[token layer]`` or ``[token layer unit]``.
    """
    if not units:
        for layer, *numbers in zip(layers, *mean_interval(values, variant=variant), strict=True):
            yield {"layer": layer}, *numbers
        return
    for number, layer in enumerate(layers):  # one at a time: an interval's draws of all neurons would be gigabytes
        for unit, *numbers in zip(units, *mean_interval([v[:, number] for v in values], variant=variant), strict=True):
            yield {"layer": layer, "unit": unit}, *numbers
