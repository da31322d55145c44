from .build import from_edit as from_edit
from .build import from_neurons as from_neurons
from .build import from_trace as from_trace
from .circuit import Circuit as Circuit
from .comparison import CircuitComparison as CircuitComparison
from .comparison import compare as compare
from .edges import Edge as Edge
from .parts import Node as Node
