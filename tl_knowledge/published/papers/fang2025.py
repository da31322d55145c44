"""Fang et al. 2025, "AlphaEdit: Null-Space Constrained Knowledge Editing"."""

from __future__ import annotations

from tl_knowledge.published.data import COUNTERFACT
from tl_knowledge.published.experiment import Experiment, printed
from tl_knowledge.published.papers.meng2022 import CONTEXTS, MOMENTS, ROME_CODE
from tl_knowledge.published.protocols.editing import EditProtocol
from tl_knowledge.published.workbench import Editor

__all__ = ["EXPERIMENTS"]

EXPERIMENTS = (
    Experiment(
        "fang2025-table1",
        "2,000 edits one batch of 100 after another",
        "Fang et al. 2025, table 1 (CounterFact)",
        COUNTERFACT,
        {"gpt2-xl": 2000},
        EditProtocol((ROME_CODE, Editor("MEMIT", "memit"), Editor("AlphaEdit", "alphaedit")), ("S", "ES", "PS", "NS"), "sequential", 100),
        {
            "gpt2-xl": printed("""
row       | ES   | PS   | NS
ROME      | 54.6 | 51.2 | 52.7
MEMIT     | 94.7 | 85.8 | 60.5
AlphaEdit | 99.5 | 94.0 | 66.4
""")
        },
        "1.96 sd / sqrt(n) over records",
        without={"FT, MEND, InstructEdit, PRUNE, RECT": "not run here"},
        differs=(CONTEXTS, MOMENTS, "ROME writes each fact of a batch after the other"),
        factlm_cases=40,
    ),
)
