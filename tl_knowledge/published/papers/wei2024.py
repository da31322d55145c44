"""Wei et al. 2024, "Does Knowledge Localization Hold True?"."""

from __future__ import annotations

from tl_knowledge.published.data import COUNTERFACT, KNOWN_1000
from tl_knowledge.published.experiment import Experiment, printed
from tl_knowledge.published.papers.meng2022 import CONTEXTS, MOMENTS, NO_EDITOR
from tl_knowledge.published.protocols.editing import RelationSideProtocol
from tl_knowledge.published.protocols.tracing import TraceProtocol

__all__ = ["EXPERIMENTS"]

ROLES = ("subject tokens", "first relation token", "last relation token", "last token")

SIDES = (
    "the program's file of relation prompts is not public: these are made from the relations' names and CounterFact",
    "the paper does not print the unedited row, which its entity columns of table 1 are close to",
    CONTEXTS,
    MOMENTS,
)
_TABLE_1 = printed("""
row   | entity_ES | entity_PS | relation_ES | relation_PS
FT    | 23.92     | 25.44     | 98.79       | 79.03
KN    | 22.53     | 24.61     | 97.52       | 76.16
MEND  | 22.33     | 24.63     | 100         | 83.24
ROME  | 27.92     | 28.12     | 99.99       | 84.47
MEMIT | 24.15     | 24.63     | 91.36       | 76.24
""")
_TABLE_2 = printed("""
row   | entity_ES | entity_PS | relation_ES | relation_PS
ROME  | 99.93     | 96.6      | 96.12       | 74.46
MEMIT | 93.88     | 79.6      | 97.28       | 76.01
""")

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
    Experiment(
        "wei2024-table1",
        "Edited from the relation's side: both sides' reliability and generality",
        "Wei et al. 2024, table 1",
        COUNTERFACT,
        {"gpt2-xl": 7500, "gpt-j-6b": 7500},
        RelationSideProtocol(),
        {"gpt2-xl": _TABLE_1},
        without={"MEND": NO_EDITOR},
        differs=SIDES,
        factlm_cases=10,
    ),
    Experiment(
        "wei2024-table2",
        "Edited from the entity's side: both sides' reliability and generality",
        "Wei et al. 2024, table 2",
        COUNTERFACT,
        {"gpt2-xl": 7500},
        RelationSideProtocol(("rome", "memit"), "entity"),
        {"gpt2-xl": _TABLE_2},
        differs=SIDES,
        factlm_cases=10,
    ),
)
