"""Which neurons a function is asked about: a set, or everything that was located."""

from __future__ import annotations

import pandas as pd

from tl_knowledge.errors import ComponentError
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.neurons.located import LocatedNeurons
from tl_knowledge.neurons.neuron_set import Neuron, NeuronSet
from tl_knowledge.wording import counted

__all__ = ["neurons_of", "rows_of"]


def neurons_of(model: HookedModel, neurons: NeuronSet | LocatedNeurons) -> NeuronSet:
    """The set, or the neurons of all located groups together.

    Raises:
        ComponentError: no neuron, or neurons of another model's shape.
    """
    own = NeuronSet.of(model, [])
    if isinstance(neurons, LocatedNeurons):
        first, *others = neurons.sets
        for other in others:
            first = first | other
        neurons = first
    if not len(neurons) or neurons.shape != own.shape:
        raise ComponentError(
            f"a set of {counted(len(neurons), 'neuron')} of a model of {neurons.n_layers} x {neurons.d_mlp} cannot be "
            f"looked at in one of {own.n_layers} x "
            f"{own.d_mlp}; pass a set of this model that has neurons."
        )
    return neurons


def rows_of(table: pd.DataFrame, neuron: Neuron) -> pd.DataFrame:
    """A neuron's rows of a table with ``layer``, ``neuron`` and ``rank``, by rank."""
    return table.loc[(table["layer"] == neuron[0]) & (table["neuron"] == neuron[1])].sort_values("rank")
