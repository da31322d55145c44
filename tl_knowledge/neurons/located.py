"""The neurons of many facts (or grammatical paradigms): how many, how much they are shared, where they are, how far they overlap."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pyarrow as pa
from scipy import sparse

from tl_knowledge.drawing import HeatMap, grouped_bars, heat_maps
from tl_knowledge.errors import DataError, InputError
from tl_knowledge.neurons.neuron_set import NeuronSet
from tl_knowledge.neurons.selection import shared_neurons
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.statistics import largest_rows, mean_interval, scalar_interval
from tl_knowledge.results.storage import read_table, write_table

__all__ = ["LocatedNeurons", "compare_layers"]


@dataclass(frozen=True, eq=False)
class LocatedNeurons:
    """Refined neurons of every group of prompts: a fact's wordings, a paradigm's sentences.

    Attributes:
        table: one row a group: ``relation name prompts neurons share r1_squared probability``: the number of prompts and of refined neurons, the
            sharing threshold they were refined with (paper 002's tau), ``R1^2``, and the mean clean probability of the targets.
        sets: the refined neurons, in the table's order.
        provenance: how they were found.
    """

    table: pd.DataFrame
    sets: tuple[NeuronSet, ...]
    provenance: Provenance

    def __getitem__(self, name: str) -> NeuronSet:
        """The neurons of the group of that name.

        Raises:
            DataError: no group, or several, of that name.
        """
        found = [neurons for neurons, row in zip(self.sets, self.table["name"], strict=True) if row == name]
        if len(found) != 1:
            raise DataError(f"{len(found)} groups are called {name!r}; there are {', '.join(map(repr, self.table['name'][:10]))}.")
        return found[0]

    @property
    def relations(self) -> tuple[str, ...]:
        """Relations (paradigms), in order of their first group."""
        return tuple(dict.fromkeys(map(str, self.table["relation"])))

    def of_relation(self, relation: str) -> tuple[NeuronSet, ...]:
        """The sets of a relation's groups.

        Raises:
            DataError: no group of that relation.
        """
        found = tuple(neurons for neurons, name in zip(self.sets, self.table["relation"], strict=True) if name == relation)
        if not found:
            raise DataError(f"no group has relation {relation!r}; there are {', '.join(self.relations)}.")
        return found

    def relation_neurons(self, relation: str, *, shared_by: float = 0.5) -> NeuronSet:
        """Neurons in more than a share of a relation's sets: what is the relation's own rather than one fact's.

        Raises:
            DataError: no group of that relation.
            InputError: a share outside (0, 1].
        """
        return shared_neurons(self.of_relation(relation), shared_by)

    def to_dataframe(self) -> pd.DataFrame:
        """One row a group."""
        return self.table.copy()

    def top(self, k: int = 10) -> pd.DataFrame:
        """The k neurons in most groups, with the share of groups that have them."""
        counts: dict[tuple[int, int], int] = {}
        for neurons in self.sets:
            for neuron in neurons:
                counts[neuron] = counts.get(neuron, 0) + 1
        rows = [{"layer": layer, "neuron": number, "share": count / len(self.sets)} for (layer, number), count in sorted(counts.items())]
        return largest_rows(pd.DataFrame(rows, columns=["layer", "neuron", "share"]), k, "share")  # pyright: ignore[reportArgumentType]

    def statistics(self) -> pd.DataFrame:
        """Paper 002's characteristics by relation: ``|KN|``, ``tau`` and ``R1^2``, means over groups with 95% bootstrap intervals."""
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
        """Which share of the neurons each layer has (paper 000, figure 5), with 95% bootstrap intervals over groups."""
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
        return compare_layers({self.provenance.model: self})

    def plot_overlap(self) -> go.Figure:
        """Heat map: how far two relations' groups share their neurons."""
        frame = self.overlap()
        chart = HeatMap(frame.to_numpy(), list(frame.index), list(frame.columns), "", "relation", "relation", colors="Blues")
        subtitle = f"mean over pairs of different groups; {len(self.sets)} groups; {self.provenance.model}"
        figure = heat_maps([chart], title="Overlap of the neurons of two relations", subtitle=subtitle, color_axis="Jaccard")
        return figure.update_xaxes(tickvals=list(range(len(frame))), ticktext=list(frame.columns), tickangle=-60)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to one ``.parquet`` file; returns the path."""
        rows = self.table.to_dict(orient="records")
        pairs = [{"layer": [a for a, _ in neurons], "neuron": [b for _, b in neurons]} for neurons in self.sets]
        table = pa.Table.from_pylist([row | {"neurons_at": pair} for row, pair in zip(rows, pairs, strict=True)])
        shape = {"n_layers": self.sets[0].n_layers, "d_mlp": self.sets[0].d_mlp}
        return write_table(path, "LocatedNeurons", table, shape | {"provenance": self.provenance.to_dict()})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LocatedNeurons:
        """Read what `save` wrote.

        Raises:
            DataError: not such a file.
        """
        table, fields = read_table(path, "LocatedNeurons")
        rows: list[dict[str, Any]] = table.to_pylist()
        at = [row.pop("neurons_at") for row in rows]
        sets = [NeuronSet(frozenset(zip(a["layer"], a["neuron"], strict=True)), fields["n_layers"], fields["d_mlp"]) for a in at]
        return cls(pd.DataFrame(rows), tuple(sets), Provenance(**fields["provenance"]))


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


def compare_layers(located: Mapping[str, LocatedNeurons]) -> go.Figure:
    """Bars: the share of the neurons in every layer, of several models or of facts beside syntax (paper 000, figure 5; paper 002).

    Raises:
        InputError: nothing to draw.
    """
    if not located:
        raise InputError("there is nothing to compare; pass located neurons by name.")
    bars: dict[str, list[tuple[float, float, float]]] = {}
    for name, found in located.items():
        frame = found.layer_distribution()
        rows = frame[["share", "low", "high"]].to_numpy().tolist()
        bars[f"{name} ({int(frame['neurons'].sum())} neurons, {len(found.sets)} groups)"] = [(row[0], row[1], row[2]) for row in rows]
    layers = max(len(rows) for rows in bars.values())
    missing = (float("nan"), float("nan"), float("nan"))
    return grouped_bars(
        [str(layer) for layer in range(layers)],
        {name: [*rows, *[missing] * (layers - len(rows))] for name, rows in bars.items()},
        title="Where the neurons are",
        subtitle="share of all refined neurons; 95% bootstrap over groups",
        group_axis="layer",
        value_axis="share of the neurons",
    )
