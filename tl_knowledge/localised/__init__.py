"""Editing that starts from where knowledge was located, and whether that helps."""

from tl_knowledge.localised.causal_neuron_edit import CausalNeuronEdit
from tl_knowledge.localised.knowledge_neuron_edit import KnowledgeNeuronEdit
from tl_knowledge.localised.layer_sweep import LayerSweep, sweep_layers
from tl_knowledge.localised.problems import EditingProblem, editing_problem

__all__ = ["CausalNeuronEdit", "EditingProblem", "KnowledgeNeuronEdit", "LayerSweep", "editing_problem", "sweep_layers"]
