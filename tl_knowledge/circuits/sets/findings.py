"""What a fact set's circuit is made of. Figures and comparisons read this."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from typing_extensions import override

from tl_knowledge.arrays import FloatArray
from tl_knowledge.circuits.sets.measure import Places
from tl_knowledge.circuits.sets.settings import FactSetSettings, RoleNode
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.result import Result
from tl_knowledge.results.statistics import interval_text, mean_interval, scalar_interval
from tl_knowledge.runs.roles import ROLES, roles_of_side
from tl_knowledge.wording import counted

__all__ = ["SHARES", "FactSetFindings", "rank_nodes", "scores_of"]

SHARES = ("faithfulness", "completeness", "restored")


@dataclass(frozen=True, eq=False)
class FactSetFindings(Result):
    """One circuit for many facts, and how much of each it explains.

    Attributes:
        nodes: in the order of their score: the mean over facts of need or effect.
        need: ``[fact component layer role]``, roles in the order of `tl_knowledge.runs.roles.ROLES`: the needs of the role's tokens, each site held
            alone at its corrupted value, added up, as a share of the fact's total effect; 0 where a fact has no such token.
        effect: the same of what each site, restored alone, gives back; NaN with ``rank="need"``, which does not measure it.
        facts: one row a fact: ``index subject template target relation clean_probability corrupted_probability total_effect``.
        places: where each fact's subject and relation are.
        growth: one row a fact and number of nodes: ``index nodes sites restored faithfulness completeness``, as shares of the fact's total
            effect, means over noise samples. See `tl_knowledge.circuits.paths.Shares`; ``sites`` are the fact's own, of all its tokens.
        given: how many facts were passed.
        skipped: index of a fact that was left out, and why.
        settings: how it was built.
        provenance: how it was computed.
    """

    ranked_by: ClassVar[str] = "score"
    nodes: tuple[RoleNode, ...]
    need: FloatArray
    effect: FloatArray
    facts: pd.DataFrame
    places: tuple[Places, ...]
    growth: pd.DataFrame
    given: int
    skipped: dict[int, str]
    settings: FactSetSettings
    provenance: Provenance

    @abstractmethod
    def plot(self) -> go.Figure:
        """The nodes, roles by layers."""

    @property
    def n_layers(self) -> int:
        """Of the model."""
        return int(self.need.shape[2])

    @property
    def shares(self) -> pd.DataFrame:
        """What the whole circuit explains of each fact: ``growth`` for all nodes, with the fact."""
        whole = self.growth[self.growth["nodes"] == len(self.nodes)]
        return self.facts.merge(whole.drop(columns="nodes"), on="index")

    @property
    def faithfulness(self) -> float:
        """Share of the total effect that is left when only the circuit is kept, mean over facts."""
        return float(self.shares["faithfulness"].mean())

    @property
    def completeness(self) -> float:
        """Share of the total effect that is lost when only the circuit is held at its corrupted values, mean over facts."""
        return float(self.shares["completeness"].mean())

    @override
    def headline(self) -> str:
        """How many nodes, what they keep of how many facts."""
        mean, low, high = scalar_interval(self.shares["faithfulness"])
        alone = f"kept alone they keep {mean:.0%}{interval_text(low, high, '.0%')} of the effect{self.settings.metric.remark}"
        kept = f"{alone}, held out they take {self.completeness:.0%}"
        return (
            f"{counted(len(self.nodes), 'node')} for {counted(len(self.facts), 'fact')}, {self.settings.corrupt} "
            f"corrupted; {kept}; {self.provenance.model}"
        )

    @override
    def to_dataframe(self) -> pd.DataFrame:
        """One row a node, in their order: place, score, need and effect with 95% intervals over facts, and in how many facts it has a site."""
        table = self.site_table()
        return table.query("node > 0").sort_values("node", ignore_index=True)

    def site_table(self) -> pd.DataFrame:
        """The same for every component, layer and role, of both sides; ``node`` is the place in the circuit, 0 for what is not in it."""
        order = {node: i for i, node in enumerate(self.nodes, start=1)}
        have = {role: sum(bool(places.of(role)) for places in self.places) for role in ROLES}
        cells = [RoleNode(c, layer, role) for c in self.settings.components for layer in range(self.n_layers) for role in ROLES]
        columns = {"node": [order.get(cell, 0) for cell in cells]}
        columns |= {name: [getattr(cell, name) for cell in cells] for name in ("component", "layer", "role")}
        columns |= {"score": scores_of(self.need, self.effect, self.settings).ravel().tolist()}
        for name, values in (("need", self.need), ("effect", self.effect)):
            ends = (values[0],) * 3 if np.isnan(values).all() else mean_interval([fact[None] for fact in values])
            columns |= {f"{name}{end}": array.ravel().tolist() for end, array in zip(("", "_low", "_high"), ends, strict=True)}
        return pd.DataFrame(columns | {"facts": [have[cell.role] for cell in cells]})

    @override
    def summary(self) -> pd.DataFrame:
        """One row for each number of nodes: faithfulness, completeness and what all restored give, each the mean over facts with its 95% interval
        and the smallest fact's."""
        rows: list[dict[str, float]] = []
        for count, own in self.growth.groupby("nodes"):
            row: dict[str, float] = {"nodes": int(count), "sites": float(own["sites"].mean())}  # pyright: ignore[reportArgumentType]
            for name in SHARES:
                mean, low, high = scalar_interval(own[name])
                row |= {name: mean, f"{name}_low": low, f"{name}_high": high, f"{name}_smallest": float(own[name].min())}
            rows.append(row | {"facts": len(own)})
        return pd.DataFrame(rows)


def scores_of(need: FloatArray, effect: FloatArray, settings: FactSetSettings) -> FloatArray:
    """What nodes rank by, ``[component layer role]``: the mean over facts of need, of effect, or the larger of both."""
    if settings.rank == "need":
        return need.mean(0)
    return effect.mean(0) if settings.rank == "effect" else np.maximum(need.mean(0), effect.mean(0))


def rank_nodes(need: FloatArray, effect: FloatArray, settings: FactSetSettings) -> tuple[RoleNode, ...]:
    """The nodes of the largest scores above 0, among the roles of the corrupted side; ties in the order of components, layers and roles."""
    scores, own = scores_of(need, effect, settings), set(roles_of_side(settings.corrupt))
    cells = [(c, layer, r) for c in range(scores.shape[0]) for layer in range(scores.shape[1]) for r in range(len(ROLES)) if ROLES[r] in own]
    ranked = sorted((cell for cell in cells if scores[cell] > 0), key=lambda cell: -scores[cell])
    return tuple(RoleNode(settings.components[c], layer, ROLES[r]) for c, layer, r in ranked[: settings.limit])
