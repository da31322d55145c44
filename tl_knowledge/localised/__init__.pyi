from .causal_neuron_edit import CausalNeuronEdit as CausalNeuronEdit
from .knowledge_neuron_edit import KnowledgeNeuronEdit as KnowledgeNeuronEdit
from .layer_sweep import LayerSweep as LayerSweep
from .layer_sweep import SweepSettings as SweepSettings
from .layer_sweep import sweep_layers as sweep_layers
from .objects import NeuronEditVariant as NeuronEditVariant
from .problems import EditingProblem as EditingProblem
from .problems import editing_problem as editing_problem
