"""Knowledge neurons: attribution, selection, sets, effects."""

from tl_knowledge.neurons.attribution import attribute_neurons, mean_activation
from tl_knowledge.neurons.effects import NeuronEffects, measure_neuron_effects
from tl_knowledge.neurons.neuron_set import NeuronSet
from tl_knowledge.neurons.result import NeuronAttribution
from tl_knowledge.neurons.selection import adapt_sharing, coarse_neurons, select_neurons

__all__ = [
    "NeuronAttribution",
    "NeuronEffects",
    "NeuronSet",
    "adapt_sharing",
    "attribute_neurons",
    "coarse_neurons",
    "mean_activation",
    "measure_neuron_effects",
    "select_neurons",
]
