"""From localisation to circuits: what carries a fact, which heads read it, and pages to look at."""

from tl_knowledge.circuits.build import from_edit, from_neurons, from_trace
from tl_knowledge.circuits.circuit import Circuit
from tl_knowledge.circuits.comparison import CircuitComparison, compare
from tl_knowledge.circuits.direct import DirectAttribution, attribute_directly
from tl_knowledge.circuits.heads import AttentionAnalysis, analyse_attention
from tl_knowledge.circuits.lens import LogitLens, logit_lens
from tl_knowledge.circuits.nodes import Edge, Node
from tl_knowledge.circuits.report import Report, report
from tl_knowledge.circuits.views import edit_view, effect_view

__all__ = [
    "AttentionAnalysis",
    "Circuit",
    "CircuitComparison",
    "DirectAttribution",
    "Edge",
    "LogitLens",
    "Node",
    "Report",
    "analyse_attention",
    "attribute_directly",
    "compare",
    "edit_view",
    "effect_view",
    "from_edit",
    "from_neurons",
    "from_trace",
    "logit_lens",
    "report",
]
