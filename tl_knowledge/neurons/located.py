"""The neurons of many facts (or grammatical paradigms): how many, how much they are shared, where they are, how far they overlap."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from scipy import sparse

from tl_knowledge.drawing import HeatMap, heat_maps
from tl_knowledge.errors import DataError, InputError
from tl_knowledge.neurons.figures import layer_bars
from tl_knowledge.neurons.neuron_set import NeuronSet
from tl_knowledge.neurons.selection import CoarseCounts, neurons_of_relation
from tl_knowledge.neurons.settings import LocationSettings
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.result import TableResult
from tl_knowledge.results.statistics import largest_rows, mean_interval, scalar_interval
from tl_knowledge.wording import counted, relation_words

__all__ = ["LocatedNeurons"]


@dataclass(frozen=True, eq=False)
class LocatedNeurons(TableResult):
    """Refined neurons of every group of prompts: a fact's wordings, a paradigm's sentences.

    Attributes:
        table: one row a group: ``relation name prompts neurons share r1_squared probability``: the number of prompts and of refined neurons, the
            sharing threshold they were refined with (the tau of Niu et al. 2024), ``R1^2``, and the mean clean probability of the targets.
        sets: the refined neurons, in the table's order.
        settings: how they were located.
        provenance: what they were located with.
        coarse: in how many of each group's prompts every neuron of a coarse set is.
    """

    ranked_by: ClassVar[str] = "share"
    table: pd.DataFrame
    sets: tuple[NeuronSet, ...]
    settings: LocationSettings
    provenance: Provenance
    coarse: tuple[CoarseCounts, ...] = ()

    def __getitem__(self, name: str) -> NeuronSet:
        """The neurons of the group of that name.

        Raises:
            DataError: no group, or several, of that name.
        """
        sets = [neurons for neurons, row in zip(self.sets, self.table["name"], strict=True) if row == name]
        if len(sets) != 1:
            raise DataError(f"{counted(len(sets), 'group')} are called {name!r}; there are {', '.join(map(repr, self.table['name'][:10]))}.")
        return sets[0]

    @property
    def relations(self) -> tuple[str, ...]:
        """Relations (paradigms), in order of their first group."""
        return tuple(dict.fromkeys(map(str, self.table["relation"])))

    def of_relation(self, relation: str) -> tuple[NeuronSet, ...]:
        """The sets of a relation's groups.

        Raises:
            DataError: no group of that relation.
        """
        sets = tuple(neurons for neurons, name in zip(self.sets, self.table["relation"], strict=True) if name == relation)
        if not sets:
            raise DataError(f"no group has relation {relation!r}; there are {', '.join(self.relations)}.")
        return sets

    def relation_neurons(self, relation: str, *, shared_by: float = 0.5) -> NeuronSet:
        """Neurons in more than a share of a relation's sets: what is the relation's own rather than one fact's.

        Raises:
            DataError: no group of that relation.
            InputError: a share outside (0, 1].
        """
        sets = self.of_relation(relation)
        if not 0 < shared_by <= 1:
            raise InputError(f"shared_by={shared_by} is no share of the facts; pass a number in (0, 1], usually 0.5.")
        return neurons_of_relation(sets, shared_by, self.settings.attribution.variant)

    def shares(self) -> pd.DataFrame:
        """In which share of a group's prompts every neuron is (Wen and Bai, table 2: p%): by group, the most shared first.

        Returns:
            ``relation name layer neuron share refined``, one row for each neuron of any prompt's coarse set; ``refined``: whether it was kept.

        Raises:
            DataError: loaded from a file of a version that did not keep them.
        """
        if len(self.coarse) != len(self.sets):
            raise DataError("these neurons were saved without the shares of their prompts; locate_neurons() again.")
        columns = ["relation", "name", "layer", "neuron", "share", "refined"]
        rows: list[tuple[object, ...]] = []
        for relation, name, counts, kept in zip(self.table["relation"], self.table["name"], self.coarse, self.sets, strict=True):
            by_share = sorted(counts.counts, key=lambda row: (-row[2], row[0], row[1]))
            rows += [(relation, name, layer, neuron, count / counts.total, (layer, neuron) in kept) for layer, neuron, count in by_share]
        return pd.DataFrame(rows, columns=columns)  # pyright: ignore[reportArgumentType]

    def headline(self) -> str:
        """How many neurons, of how many groups."""
        neurons, groups = float(self.table["neurons"].mean()), f"{counted(len(self.sets), 'group')} of {counted(len(self.relations), 'relation')}"
        return f"{neurons:.1f} neurons a group, {groups}; {self.settings.attribution}; {self.provenance.model}"

    def top(self, k: int = 10) -> pd.DataFrame:
        """The k neurons in most groups, with the share of groups that have them."""
        counts = Counter(neuron for neurons in self.sets for neuron in neurons)
        rows = [{"layer": layer, "neuron": number, "share": count / len(self.sets)} for (layer, number), count in sorted(counts.items())]
        return largest_rows(pd.DataFrame(rows, columns=["layer", "neuron", "share"]), k, self.ranked_by)  # pyright: ignore[reportArgumentType]

    def summary(self) -> pd.DataFrame:
        """As `statistics`."""
        return self.statistics()

    def statistics(self) -> pd.DataFrame:
        """By relation ``|KN|``, ``tau`` and ``R1^2`` (Niu et al. 2024), means over groups with 95% bootstrap intervals."""
        rows: list[dict[str, object]] = []
        for relation in self.relations:
            of_it = self.table.loc[self.table["relation"] == relation]
            row: dict[str, object] = {"relation": relation, "groups": len(of_it), "prompts": int(of_it["prompts"].sum())}
            for name, column in (("KN", "neurons"), ("tau", "share"), ("R1^2", "r1_squared")):
                mean, low, high = scalar_interval(of_it[column])
                row |= {name: mean, f"{name}_low": low, f"{name}_high": high}
            rows.append(row)
        return pd.DataFrame(rows)

    def layer_distribution(self) -> pd.DataFrame:
        """Which share of the neurons each layer has (Wen and Bai, figure 5), with 95% bootstrap intervals over groups."""
        counts = np.array([neurons.layer_histogram() for neurons in self.sets], dtype=float)
        totals = counts.sum(1)
        # A group's neurons are its draws: the share is all groups' neurons in the layer over all their neurons.
        values = [
            np.repeat(np.eye(counts.shape[1]), row.astype(int), axis=0) if total else np.zeros((0, counts.shape[1]))
            for row, total in zip(counts, totals, strict=True)
        ]
        mean, low, high = mean_interval(values)
        return pd.DataFrame({"layer": range(counts.shape[1]), "share": mean, "low": low, "high": high, "neurons": counts.sum(0).astype(int)})

    def overlap(self) -> pd.DataFrame:
        """Mean Jaccard index of the sets of two relations' groups, relation by relation; a group is not compared with itself.

        NaN where a relation has no two groups with neurons to compare.
        """
        shared, sizes = _shared_counts(self.sets)
        with np.errstate(invalid="ignore"):
            jaccard = shared / (sizes[:, None] + sizes[None, :] - shared)
        np.fill_diagonal(jaccard, np.nan)
        relations = self.relations
        members = [np.flatnonzero(self.table["relation"].to_numpy() == relation) for relation in relations]
        matrix = np.array([[_mean(jaccard[np.ix_(first, second)]) for second in members] for first in members])
        return pd.DataFrame(matrix, index=list(relations), columns=list(relations))  # pyright: ignore[reportArgumentType]

    def plot(self) -> go.Figure:
        """Bars: the share of the neurons in every layer."""
        return layer_bars({self.provenance.model: self.layer_distribution()}, {self.provenance.model: len(self.sets)})

    def plot_overlap(self) -> go.Figure:
        """Heat map: how far two relations' groups share their neurons."""
        frame = self.overlap()
        names = [relation_words(name) for name in frame.index]
        chart = HeatMap(frame.to_numpy(), names, names, "", "relation", "relation", colours="MLP")
        subtitle = f"mean over pairs of different groups; {counted(len(self.sets), 'group')}; {self.provenance.model}"
        return heat_maps([chart], title="Overlap of the neurons of two relations", subtitle=subtitle, colour_axis="Jaccard index")


def _shared_counts(sets: Sequence[NeuronSet]) -> tuple[np.ndarray, np.ndarray]:
    """How many neurons every two sets share, ``[group group]``, and how many each has."""
    rows = [row for row, neurons in enumerate(sets) for _ in neurons]
    columns = [layer * neurons.d_mlp + number for neurons in sets for layer, number in neurons]
    shape = (len(sets), sets[0].n_layers * sets[0].d_mlp)
    incidence = sparse.csr_array((np.ones(len(rows)), (np.array(rows, int), np.array(columns, int))), shape=shape)
    return (incidence @ incidence.T).toarray(), np.array([len(neurons) for neurons in sets], dtype=float)


def _mean(values: np.ndarray) -> float:
    """Mean of what is not NaN; NaN of nothing."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")
