"""Hase et al. 2023, "Does Localization Inform Editing?"."""

from __future__ import annotations

from tl_knowledge.published.data import COUNTERFACT
from tl_knowledge.published.experiment import Experiment, printed
from tl_knowledge.published.papers.meng2022 import CONTEXTS, MOMENTS
from tl_knowledge.published.protocols.sweeps import SweepProtocol
from tl_knowledge.published.workbench import Editor

__all__ = ["EXPERIMENTS"]

ROME, MEMIT = Editor("ROME", "rome", (("variant", "meng2022_code"),)), Editor("MEMIT", "memit")
FT1, FT5 = Editor("FT, 1 layer", "ft+l"), Editor("FT, 5 layers", "ft+l", wide=True)
NOISE = 0.094  # GPT-J, in their program

EXPERIMENTS = (
    Experiment(
        "hase2023-table1",
        "How much of the rewrite score the layer, the tracing effect, and both explain",
        "Hase et al. 2023, table 1 and figures 3-4",
        COUNTERFACT,
        {"gpt-j-6b": 652},
        SweepProtocol(("error_injection",), (ROME, MEMIT), noise=NOISE),
        {
            "gpt-j-6b": printed("""
row                    | R2 layer | R2 tracing | R2 both
error injection: ROME  | 0.947    | 0.016      | 0.948
error injection: MEMIT | 0.677    | 0.024      | 0.678
""")
        },
        differs=(CONTEXTS, MOMENTS),
        factlm_cases=6,
    ),
    Experiment(
        "hase2023-figure6",
        "Five editing problems: what tracing adds to the layer",
        "Hase et al. 2023, figure 6",
        COUNTERFACT,
        {"gpt-j-6b": 652},
        SweepProtocol(("tracing_reversal", "fact_erasure", "fact_amplification", "fact_forcing"), (FT1, FT5, ROME, MEMIT), noise=NOISE),
        differs=(CONTEXTS, MOMENTS),
        factlm_cases=4,
    ),
)
