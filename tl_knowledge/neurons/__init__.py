"""Knowledge neurons: attribution, selection, sets, location over many facts, effects, syntax."""

from tl_knowledge.neurons.attribution import attribute_neurons, mean_activation
from tl_knowledge.neurons.effects import NeuronEffects, measure_neuron_effects
from tl_knowledge.neurons.groups import PromptGroup, agreement_groups, determiner, fact_groups, punctuation_groups
from tl_knowledge.neurons.locate import locate_neurons
from tl_knowledge.neurons.located import LocatedNeurons, compare_layers
from tl_knowledge.neurons.neuron_set import NeuronSet
from tl_knowledge.neurons.result import NeuronAttribution
from tl_knowledge.neurons.selection import adapt_sharing, coarse_neurons, select_neurons, shared_neurons

__all__ = [
    "LocatedNeurons",
    "NeuronAttribution",
    "NeuronEffects",
    "NeuronSet",
    "PromptGroup",
    "adapt_sharing",
    "agreement_groups",
    "attribute_neurons",
    "coarse_neurons",
    "compare_layers",
    "determiner",
    "fact_groups",
    "locate_neurons",
    "mean_activation",
    "measure_neuron_effects",
    "punctuation_groups",
    "select_neurons",
    "shared_neurons",
]
