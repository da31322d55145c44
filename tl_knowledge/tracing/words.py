"""What components are called in figures and pages, and whose colour they have."""

from __future__ import annotations

from tl_knowledge.models.hook_names import Component

__all__ = ["COLOUR_SCALES", "COMPONENT_WORDS"]

COLOUR_SCALES: dict[Component, str] = {
    **dict.fromkeys(("resid_post", "resid_pre"), "residual"),
    **dict.fromkeys(("mlp_out", "mlp_in", "neuron"), "MLP"),
    **dict.fromkeys(("attn_out", "head", "q", "k", "v", "z", "pattern", "attn_scores"), "attention"),
}
"""The role whose colour a component has in figures."""
COMPONENT_WORDS: dict[Component, str] = {
    "resid_post": "residual state",
    "mlp_out": "MLP output",
    "attn_out": "attention output",
    "head": "head",
    "neuron": "neuron",
    "resid_pre": "residual state entering a block",
    "mlp_in": "MLP input",
    "q": "head's query",
    "k": "head's key",
    "v": "head's value",
    "z": "head's z",
    "pattern": "head's attention pattern",
    "attn_scores": "head's attention scores",
}
