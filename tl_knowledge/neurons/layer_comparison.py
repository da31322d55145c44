"""Where the neurons of several models are, or of facts beside syntax (Wen and Bai, figure 5; Niu et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go

from tl_knowledge.door import public
from tl_knowledge.errors import check_given
from tl_knowledge.neurons.figures import layer_bars
from tl_knowledge.neurons.located import LocatedNeurons
from tl_knowledge.neurons.settings import LocationSettings
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.result import TableResult
from tl_knowledge.wording import counted

__all__ = ["LayerComparison", "compare_layers"]


@dataclass(frozen=True, eq=False)
class LayerComparison(TableResult):
    """The share of the neurons that each layer has, side by side.

    Attributes:
        table: ``name layer share low high neurons``: one row a layer of each; shares with 95% bootstrap intervals over groups.
        groups: by name, how many groups of prompts.
        settings: by name, how the neurons were located.
        provenances: by name, what they were located with.
    """

    ranked_by: ClassVar[str] = "share"
    table: pd.DataFrame
    groups: dict[str, int]
    settings: dict[str, LocationSettings]
    provenances: dict[str, Provenance]

    def headline(self) -> str:
        """What is compared."""
        parts = [
            f"{name} ({counted(int(frame['neurons'].sum()), 'neuron')}, {counted(self.groups[name], 'group')})"
            for name, frame in self._by_name().items()
        ]
        return f"share of the neurons by layer: {', '.join(parts)}"

    def summary(self) -> pd.DataFrame:
        """For each the layer with most neurons, its share, and the mean layer of the neurons."""
        rows: list[dict[str, object]] = []
        for name, frame in self._by_name().items():
            total = int(frame["neurons"].sum())
            row: dict[str, object] = {"name": name, "groups": self.groups[name], "neurons": total, "layers": len(frame)}
            if total:
                best = frame.loc[frame["neurons"].idxmax()]
                row |= {"layer": int(best["layer"]), "share": float(best["share"]), "mean_layer": float((frame["layer"] * frame["share"]).sum())}
            rows.append(row)
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """Bars: the share of the neurons in every layer."""
        return layer_bars(self._by_name(), self.groups)

    def _by_name(self) -> dict[str, pd.DataFrame]:
        return {name: self.table.loc[self.table["name"] == name] for name in self.groups}


@public
def compare_layers(located: Mapping[str, LocatedNeurons]) -> LayerComparison:
    """Put the layers of several models' neurons side by side, or those of facts beside syntax.

    Args:
        located: by name, for tables and figures.

    Raises:
        DataError: nothing was given.

    Example:
        >>> import tl_knowledge as tlk
        >>> located = tlk.locate_neurons("factlm", tlk.load_facts()[:4], steps=5, progress=False)
        >>> comparison = tlk.neurons.compare_layers({"facts": located})
        >>> list(comparison.summary()["name"])
        ['facts']
    """
    names = check_given(located, "set of located neurons", "pass located neurons by name")
    frames = [located[name].layer_distribution() for name in names]
    for name, frame in zip(names, frames, strict=True):
        frame.insert(0, "name", name)
    return LayerComparison(
        pd.concat(frames, ignore_index=True),
        {name: len(located[name].sets) for name in names},
        {name: located[name].settings for name in names},
        {name: located[name].provenance for name in names},
    )
