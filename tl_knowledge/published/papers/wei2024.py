"""Wei et al. 2024, "Does Knowledge Localization Hold True?"."""

from __future__ import annotations

from tl_knowledge.published.data import KNOWN_1000
from tl_knowledge.published.experiment import Experiment
from tl_knowledge.published.protocols.tracing import TraceProtocol

__all__ = ["EXPERIMENTS"]

ROLES = ("subject tokens", "first relation token", "last relation token", "last token")

EXPERIMENTS = (
    Experiment(
        "wei2024-figure2",
        "Average indirect effects when the relation's tokens are corrupted",
        "Wei et al. 2024, figure 2",
        KNOWN_1000,
        {"gpt2-xl": 1209},
        TraceProtocol(corrupt=("relation",), roles=ROLES),
        differs=("the paper counts 1,207 facts; the public file has 1,209",),
    ),
    Experiment(
        "wei2024-figure3",
        "The state at the last corrupted token, with MLPs or attention severed",
        "Wei et al. 2024, figure 3",
        KNOWN_1000,
        {"gpt2-xl": 1209},
        TraceProtocol(corrupt=("relation",), components=("resid_post",), sever=("mlp_out", "attn_out"), roles=ROLES),
        differs=("the program's second pass draws other noise than the one it recorded; ours draws the same",),
    ),
)
