"""Knowledge neurons: attribution, selection, sets, location over many facts, effects, syntax."""

from tl_knowledge.neurons.attribution import attribute_neurons, mean_activation
from tl_knowledge.neurons.context_gain import ContextGain, measure_context_gain
from tl_knowledge.neurons.effects import NeuronEffects, measure_neuron_effects
from tl_knowledge.neurons.groups import PromptGroup, agreement_groups, determiner, fact_groups, punctuation_groups
from tl_knowledge.neurons.locate import locate_neurons
from tl_knowledge.neurons.located import LocatedNeurons, compare_layers
from tl_knowledge.neurons.neuron_set import NeuronSet
from tl_knowledge.neurons.reliability import Reliability, measure_reliability
from tl_knowledge.neurons.result import NeuronAttribution
from tl_knowledge.neurons.selection import adapt_sharing, coarse_neurons, select_neurons, shared_neurons
from tl_knowledge.neurons.token_effects import TokenEffects, measure_token_effects, single_token_words
from tl_knowledge.neurons.view import neuron_view

__all__ = [
    "ContextGain",
    "LocatedNeurons",
    "NeuronAttribution",
    "NeuronEffects",
    "NeuronSet",
    "PromptGroup",
    "Reliability",
    "TokenEffects",
    "adapt_sharing",
    "agreement_groups",
    "attribute_neurons",
    "coarse_neurons",
    "compare_layers",
    "determiner",
    "fact_groups",
    "locate_neurons",
    "mean_activation",
    "measure_context_gain",
    "measure_neuron_effects",
    "measure_reliability",
    "measure_token_effects",
    "neuron_view",
    "punctuation_groups",
    "select_neurons",
    "shared_neurons",
    "single_token_words",
]
