"""Mean attribution by neuron and group: which neurons "this" has and "these" has not (Niu et al. 2024, determiners; Wen and Bai, marks)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go

from tl_knowledge.door import public
from tl_knowledge.drawing import HeatMap, heat_maps
from tl_knowledge.engine.prefix import prefix_engine
from tl_knowledge.engine.progress import progress_bar
from tl_knowledge.engine.rows import MEMORY_BUDGET
from tl_knowledge.errors import DataError
from tl_knowledge.models.description import check_same_weights
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.neurons.groups import PromptGroup
from tl_knowledge.neurons.locate import as_groups, attributed_groups
from tl_knowledge.neurons.located import LocatedNeurons
from tl_knowledge.neurons.settings import LocationSettings
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.results.provenance import Provenance, provenance_of
from tl_knowledge.results.result import TableResult
from tl_knowledge.results.statistics import scalar_interval
from tl_knowledge.wording import counted, with_relation_names

__all__ = ["GroupScores", "measure_group_scores"]


@dataclass(frozen=True, eq=False)
class GroupScores(TableResult):
    """Mean attribution of chosen neurons in every group of prompts.

    Attributes:
        table: one row for each group and neuron: ``relation name layer neuron score low high prompts``: the mean score over the group's prompts, in
            probability of the answer, with its 95% bootstrap interval over prompts (none for one).
        settings: how the neurons were located.
        provenance: what they were scored with.
    """

    ranked_by: ClassVar[str] = "score"
    either_sign: ClassVar[bool] = True
    table: pd.DataFrame
    settings: LocationSettings
    provenance: Provenance

    def headline(self) -> str:
        """How many neurons, of how many groups."""
        groups = self.table.groupby(["relation", "name"]).ngroups
        neurons = self.table.groupby(["layer", "neuron"]).ngroups
        return f"mean scores of {counted(neurons, 'neuron')} in {counted(groups, 'group')}; {self.settings.attribution}; {self.provenance.model}"

    def matrix(self) -> pd.DataFrame:
        """Mean scores, a row a neuron ``(layer, neuron)`` and a column a group; where several relations have a name, ``relation: name``."""
        table = self.table
        names = table["name"].astype(str)
        if table["relation"].nunique() > 1:
            names = table["relation"].astype(str) + ": " + names
        order = list(dict.fromkeys(names))
        return table.assign(group=names).pivot(index=["layer", "neuron"], columns="group", values="score")[order]  # pyright: ignore

    def summary(self) -> pd.DataFrame:
        """As `matrix`, its index as columns."""
        return self.matrix().reset_index()

    def plot(self) -> go.Figure:
        """Heat map: neurons by groups."""
        frame = self.matrix()
        rows = [f"layer {layer}, {neuron}" for layer, neuron in frame.index]
        chart = HeatMap(frame.to_numpy(), rows, [with_relation_names(str(name)) for name in frame.columns], "", "neuron", "group", colours="MLP")
        subtitle = f"mean over each group's prompts; {self.settings.attribution}; {self.provenance.model}"
        return heat_maps([chart], title="Attribution by neuron and group", subtitle=subtitle, colour_axis="score")


@public
def measure_group_scores(
    model: AnyModel,
    groups: Fact | PromptGroup | Iterable[Fact] | Iterable[PromptGroup],
    located: LocatedNeurons,
    *,
    memory_budget: float = MEMORY_BUDGET,
    progress: bool = True,
) -> GroupScores:
    """Score every group's prompts again, and average over them the scores of all neurons that any group has.

    Args:
        groups: those that were located, or others, to see what the neurons do there.
        located: whose neurons, and how they are scored.
        memory_budget: as `attribute_neurons`.

    Raises:
        DataError: no group, or no neuron in any located group.

    Example:
        >>> import tl_knowledge as tlk
        >>> model, facts = tlk.load_model("factlm"), tlk.load_facts("factlm")[:3]
        >>> located = tlk.locate_neurons(model, facts, steps=3, progress=False)
        >>> tlk.neurons.measure_group_scores(model, facts, located, progress=False).matrix().shape[1]
        3
    """
    model = as_model(model, masked=True, encoder_decoder=True)
    check_same_weights(model, located.provenance.weights, "located")
    members = as_groups(model, groups)
    neurons = sorted({neuron for some in located.sets for neuron in some})
    if not neurons:
        raise DataError("no located group has a neuron; lower the threshold or shared_by of locate_neurons().")
    scoring, rows = located.settings.attribution, list[dict[str, object]]()
    with progress_bar(what="group scores", unit="prompt", total=sum(len(group.prompts) for group in members), progress=progress) as bar:
        for group, scores in attributed_groups(model, members, scoring, memory_budget):
            for layer, neuron in neurons:
                mean, low, high = scalar_interval(scores.scores[:, layer, neuron].double().numpy())
                row: dict[str, object] = {"relation": group.relation, "name": group.name, "layer": layer, "neuron": neuron}
                rows.append(row | {"score": mean, "low": low, "high": high, "prompts": len(group.prompts)})
            bar.update(len(group.prompts))
    provenance = provenance_of(model, engine=prefix_engine(model), has_bos=members[0].prompts[0].has_bos, settings=located.settings)
    return GroupScores(pd.DataFrame(rows), located.settings, provenance)
