"""Two fact sets' circuits: which sites they share, and where facts need more of one than of the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from typing_extensions import override

from tl_knowledge.arrays import FloatArray
from tl_knowledge.circuits.sets.figures import comparison_figure
from tl_knowledge.circuits.sets.findings import FactSetFindings
from tl_knowledge.circuits.sets.measure import sites_of
from tl_knowledge.circuits.sets.settings import RoleNode
from tl_knowledge.errors import ComponentError
from tl_knowledge.results.result import Result
from tl_knowledge.results.statistics import bootstrap_means, interval_text, scalar_interval
from tl_knowledge.runs.nodes import Node
from tl_knowledge.runs.roles import ROLES
from tl_knowledge.wording import counted

__all__ = ["FactSetComparison", "compare_sets"]

Key = tuple[str, str, str]


@dataclass(frozen=True, eq=False)
class FactSetComparison(Result):
    """Two fact sets' circuits over each other.

    Attributes:
        names: what the two are called.
    """

    ranked_by: ClassVar[str] = "difference"
    either_sign: ClassVar[bool] = True
    first: FactSetFindings
    second: FactSetFindings
    names: tuple[str, str]

    @override
    def headline(self) -> str:
        """How much the circuits share, and how many facts are in both sets."""
        shared = self.overlap()
        if not len(shared):
            return f"{self.names[0]} against {self.names[1]}: no fact is in both sets; {self.first.provenance.model}"
        mean, low, high = scalar_interval(shared["overlap"])
        words = f"{mean:.0%}{interval_text(low, high, '.0%')} of their sites are in both circuits, mean over {counted(len(shared), 'fact')}"
        return f"{self.names[0]} against {self.names[1]}: {words}; {self.first.provenance.model}"

    @override
    def to_dataframe(self) -> pd.DataFrame:
        """One row for each component, layer and role with sites in either circuit.

        ``component layer role``, then each circuit's mean need under its name, ``difference`` (second minus first) with its 95% interval ``low``
        and ``high``, and ``in <name>``: the share of the role's tokens, over the circuit's facts, that are its sites. Facts in both sets are
        their own control: the difference is taken within each; without any, facts of both sets are drawn independently.
        """
        differences = self._differences()
        covered = [_covered(circuit) for circuit in (self.first, self.second)]
        needs = [circuit.need.mean(0) for circuit in (self.first, self.second)]
        rows = [
            {"component": component, "layer": layer, "role": role}
            | {name: float(need[c, layer, r]) for name, need in zip(self.names, needs, strict=True)}
            | {name: float(values[c, layer, r]) for name, values in zip(("difference", "low", "high"), differences, strict=True)}
            | {f"in {name}": float(share[c, layer, r]) for name, share in zip(self.names, covered, strict=True)}
            for c, component in enumerate(self.first.settings.components)
            for layer in range(self.first.n_layers)
            for r, role in enumerate(ROLES)
            if covered[0][c, layer, r] > 0 or covered[1][c, layer, r] > 0
        ]
        return pd.DataFrame(rows)

    def overlap(self) -> pd.DataFrame:
        """One row a fact that is in both sets: ``subject template target``, how many sites each circuit has in it, and ``overlap``: of all of them,
        the share that is in both."""
        rows: list[dict[str, Any]] = []
        seconds = _sites(self.second)
        for key, first in _sites(self.first).items():
            if key in seconds:
                second = seconds[key]
                counts = {name: len(sites) for name, sites in zip(self.names, (first, second), strict=True)}
                shared = len(first & second) / max(1, len(first | second))
                rows.append(dict(zip(("subject", "template", "target"), key, strict=True)) | counts | {"overlap": shared})
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """Both circuits on one grid of layers and roles: what is in the first only, in the second only, and in both."""
        return comparison_figure(self.to_dataframe(), self.names, self.first.n_layers, self.headline())

    def _differences(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Mean difference of needs and the ends of its 95% interval, ``[component layer role]``."""
        rows = [{key: i for i, key in enumerate(_keys(circuit))} for circuit in (self.first, self.second)]
        common = [key for key in rows[0] if key in rows[1]]
        if common:
            paired = self.second.need[[rows[1][key] for key in common]] - self.first.need[[rows[0][key] for key in common]]
            mean, means, count = paired.mean(0), bootstrap_means(paired, np.ones_like(paired)), len(common)
        else:
            means, second = (bootstrap_means(c.need, np.ones_like(c.need), seed=s) for s, c in enumerate((self.first, self.second)))
            mean, means = self.second.need.mean(0) - self.first.need.mean(0), second - means
            count = min(len(self.first.need), len(self.second.need))
        low, high = np.quantile(means, [0.025, 0.975], axis=0) if count > 1 else (np.full_like(mean, np.nan),) * 2
        return mean, low, high


def compare_sets(first: FactSetFindings, second: FactSetFindings, names: tuple[str, str] | None) -> FactSetComparison:
    """Put two circuits over each other; see `FactSetCircuit.compare`."""
    for what, one, other in (
        ("components", first.settings.components, second.settings.components),
        ("layers", first.n_layers, second.n_layers),
        ("metric", first.settings.metric, second.settings.metric),
    ):
        if one != other:
            raise ComponentError(f"the circuits have other {what}: {one} and {other}; compare two that were built alike.")
    called = names or (first.settings.corrupt, second.settings.corrupt)
    if called[0] == called[1]:
        raise ComponentError(f"both circuits are called {called[0]!r}; pass names=, for example ('capitals', 'languages').")
    return FactSetComparison(first, second, called)


def _keys(circuit: FactSetFindings) -> list[Key]:
    return list(zip(circuit.facts["subject"], circuit.facts["template"], circuit.facts["target"], strict=True))


def _sites(circuit: FactSetFindings) -> dict[Key, set[Node]]:
    return {key: set(sites_of(circuit.nodes, places)) for key, places in zip(_keys(circuit), circuit.places, strict=True)}


def _covered(circuit: FactSetFindings) -> FloatArray:
    """The share of each role's tokens that are sites of the circuit, ``[component layer role]``; 0 where no fact has the role."""
    inside, count = np.zeros(circuit.need.shape[1:]), np.zeros(len(ROLES))
    for places in circuit.places:
        sites = set(sites_of(circuit.nodes, places))
        for r, role in enumerate(ROLES):
            count[r] += len(places.of(role))
            for c, component in enumerate(circuit.settings.components):
                for layer in range(circuit.n_layers):
                    inside[c, layer, r] += sum(site in sites for site in sites_of([RoleNode(component, layer, role)], places))
    return inside / np.maximum(count, 1)
