"""Meng et al. 2023, "Mass-Editing Memory in a Transformer" (MEMIT)."""

from __future__ import annotations

from tl_knowledge.published.data import MULTI_COUNTERFACT, ZSRE
from tl_knowledge.published.experiment import Experiment, printed
from tl_knowledge.published.papers.meng2022 import CONTEXTS, HALF_WIDTHS, MOMENTS, NO_EDITOR, ROME_CODE
from tl_knowledge.published.protocols.editing import ZSRE_COLUMNS, CategoryProtocol, EditProtocol, GrowthProtocol, LayerRangeProtocol
from tl_knowledge.published.workbench import Editor

__all__ = ["EXPERIMENTS", "MEMIT"]

MEMIT = Editor("MEMIT", "memit")
FT_W = Editor("FT-W", "ft-w", (("variant", "meng2022_code"), ("weight_decay", 0.0)))  # whose program decays nothing
FT_W_DIFFERS = "FT-W trains the norms and all biases of its block, too; here all its matrices and the bias of W_out"
WITHOUT_MEND = {"MEND": NO_EDITOR}
WITHOUT = {**WITHOUT_MEND, "FT-W": "published for GPT-J only, and this table is of GPT-NeoX, too"}

_TABLE_1 = printed("""
row      | token_reliability | token_generality | token_specificity
unedited | 26.4 (0.6)        | 25.8 (0.5)       | 27.0 (0.5)
FT-W     | 69.6 (0.6)        | 64.8 (0.6)       | 24.1 (0.5)
MEND     | 19.4 (0.5)        | 18.6 (0.5)       | 22.4 (0.5)
ROME     | 21.0 (0.7)        | 19.6 (0.7)       | 0.9 (0.1)
MEMIT    | 96.7 (0.3)        | 89.7 (0.5)       | 26.6 (0.5)
""")

_TABLE_2 = {
    "gpt-j-6b": printed("""
row      | S    | ES         | PS         | NS         | GE          | RS
unedited | 22.4 | 15.2 (0.7) | 17.7 (0.6) | 83.5 (0.5) | 622.4 (0.3) | 29.4 (0.2)
FT-W     | 67.6 | 99.4 (0.1) | 77.0 (0.7) | 46.9 (0.6) | 293.9 (2.4) | 15.9 (0.3)
MEND     | 23.1 | 15.7 (0.7) | 18.5 (0.7) | 83.0 (0.5) | 618.4 (0.3) | 31.1 (0.2)
ROME     | 50.3 | 50.2 (1.0) | 50.4 (0.8) | 50.2 (0.6) | 589.6 (0.5) | 3.3 (0.0)
MEMIT    | 85.8 | 98.9 (0.2) | 88.6 (0.5) | 73.7 (0.5) | 619.9 (0.3) | 40.1 (0.2)
"""),
    "gpt-neox-20b": printed("""
row      | S    | ES         | PS         | NS         | GE          | RS
unedited | 23.7 | 16.8 (1.9) | 18.3 (1.7) | 81.6 (1.3) | 620.4 (0.6) | 29.3 (0.5)
MEMIT    | 82.0 | 97.2 (0.8) | 82.2 (1.6) | 70.8 (1.4) | 606.4 (1.0) | 36.9 (0.6)
"""),
}

EXPERIMENTS = (
    Experiment(
        "meng2023-table1",
        "zsRE: 10,000 edits at once",
        "Meng et al. 2023, table 1",
        ZSRE,
        {"gpt-j-6b": 10_000},
        EditProtocol((FT_W, ROME_CODE, MEMIT), ZSRE_COLUMNS, "batch"),
        {"gpt-j-6b": _TABLE_1},
        HALF_WIDTHS,
        without=WITHOUT_MEND,
        differs=(CONTEXTS, MOMENTS, FT_W_DIFFERS),
    ),
    Experiment(
        "meng2023-table2",
        "CounterFact: 10,000 edits at once",
        "Meng et al. 2023, table 2",
        MULTI_COUNTERFACT,
        {"gpt-j-6b": 10_000, "gpt-neox-20b": 10_000},
        EditProtocol((ROME_CODE, MEMIT), protocol="batch"),
        _TABLE_2,
        HALF_WIDTHS,
        without=WITHOUT,
        differs=(CONTEXTS, MOMENTS),
    ),
    Experiment(
        "meng2023-figure5",
        "Scores against the number of edits",
        "Meng et al. 2023, figure 5",
        MULTI_COUNTERFACT,
        {"gpt-j-6b": 10_000},
        GrowthProtocol((MEMIT,)),
        differs=(CONTEXTS, MOMENTS),
    ),
    Experiment(
        "meng2023-figure6",
        "Which facts are harder: scores by relation",
        "Meng et al. 2023, figure 6",
        MULTI_COUNTERFACT,
        {"gpt-j-6b": 300},
        CategoryProtocol((ROME_CODE, MEMIT)),
        differs=("the paper draws 300 edits of each relation, all at once; here the first cases, one at a time",),
    ),
    Experiment(
        "meng2023-figure7",
        "Number and place of the edited layers",
        "Meng et al. 2023, figure 7",
        MULTI_COUNTERFACT,
        {"gpt-j-6b": 1000},
        LayerRangeProtocol(),
        differs=(CONTEXTS, MOMENTS),
    ),
)
