"""Meng et al. 2022, "Locating and Editing Factual Associations in GPT" (ROME)."""

from __future__ import annotations

from tl_knowledge.published.data import COUNTERFACT, KNOWN_1000, ONE_FACT, ZSRE
from tl_knowledge.published.experiment import Experiment, printed
from tl_knowledge.published.protocols.editing import ZSRE_COLUMNS, EditProtocol
from tl_knowledge.published.protocols.tracing import OneTrace, TraceProtocol
from tl_knowledge.published.workbench import Editor

__all__ = ["CONTEXTS", "EXPERIMENTS", "HALF_WIDTHS", "HYPERNETWORKS", "MOMENTS", "NO_EDITOR", "ROME_CODE"]

ROME_CODE = Editor("ROME", "rome", (("variant", "meng2022_code"),), alone=True)
FT, FT_L = (Editor(label, name, (("variant", "meng2022_code"),)) for label, name in (("FT", "ft"), ("FT+L", "ft+l")))
NO_EDITOR = "a trained editor: no file of one comes with the package; tl-knowledge train makes one, and evaluate --method mend:editor=FILE scores it"
HYPERNETWORKS: dict[str, str] = dict.fromkeys(("KE", "KE-CF", "MEND", "MEND-CF"), NO_EDITOR)
HALF_WIDTHS = "1.96 sd / sqrt(n) over records"
CONTEXTS = "our contexts are drawn with a seed, the program's without one"
MOMENTS = "key moments over 10 tokens for each neuron of a layer; the program reads 100,000 Wikipedia articles"

_FIGURE_2_XL = printed("""
row                              | P clean | P corrupted | total effect | effect | layer
subject corrupted                | 27.0    | 8.47        | 18.6         | -      | -
resid_post at last subject token | -       | -           | -            | 8.7    | 15
mlp_out at last subject token    | -       | -           | -            | 6.6    | -
attn_out at last subject token   | -       | -           | -            | 1.6    | -
attn_out at last token           | -       | -           | -            | 16.5   | 32
""")

_TABLE_1_XL = printed("""
row      | token_reliability | token_generality | token_specificity
unedited | 22.2 (0.5)        | 21.3 (0.5)       | 24.2 (0.5)
FT       | 99.6 (0.1)        | 82.1 (0.6)       | 23.2 (0.5)
FT+L     | 92.3 (0.4)        | 47.2 (0.7)       | 23.4 (0.5)
KE       | 65.5 (0.6)        | 61.4 (0.6)       | 24.9 (0.5)
MEND     | 75.9 (0.5)        | 65.3 (0.6)       | 24.1 (0.5)
ROME     | 99.8 (0.0)        | 88.1 (0.5)       | 24.2 (0.5)
""")

_TABLE_4 = {
    "gpt2-xl": printed("""
row      | S    | ES          | EM         | PS         | PM         | NS         | NM          | GE          | RS
unedited | 30.5 | 22.2 (0.9)  | -4.8 (0.3) | 24.7 (0.8) | -5.0 (0.3) | 78.1 (0.6) | 5.0 (0.2)   | 626.6 (0.3) | 31.9 (0.2)
FT       | 65.1 | 100.0 (0.0) | 98.8 (0.1) | 87.9 (0.6) | 46.6 (0.8) | 40.4 (0.7) | -6.2 (0.4)  | 607.1 (1.1) | 40.5 (0.3)
FT+L     | 66.9 | 99.1 (0.2)  | 91.5 (0.5) | 48.7 (1.0) | 28.9 (0.8) | 70.3 (0.7) | 3.5 (0.3)   | 621.4 (1.0) | 37.4 (0.3)
KN       | 35.6 | 28.7 (1.0)  | -3.4 (0.3) | 28.0 (0.9) | -3.3 (0.2) | 72.9 (0.7) | 3.7 (0.2)   | 570.4 (2.3) | 30.3 (0.3)
KE       | 52.2 | 84.3 (0.8)  | 33.9 (0.9) | 75.4 (0.8) | 14.6 (0.6) | 30.9 (0.7) | -11.0 (0.5) | 586.6 (2.1) | 31.2 (0.3)
KE-CF    | 18.1 | 99.9 (0.1)  | 97.0 (0.2) | 95.8 (0.4) | 59.2 (0.8) | 6.9 (0.3)  | -63.2 (0.7) | 383.0 (4.1) | 24.5 (0.4)
MEND     | 57.9 | 99.1 (0.2)  | 70.9 (0.8) | 65.4 (0.9) | 12.2 (0.6) | 37.9 (0.7) | -11.6 (0.5) | 624.2 (0.4) | 34.8 (0.3)
MEND-CF  | 14.9 | 100.0 (0.0) | 99.2 (0.1) | 97.0 (0.3) | 65.6 (0.7) | 5.5 (0.3)  | -69.9 (0.6) | 570.0 (2.1) | 33.2 (0.3)
ROME     | 89.2 | 100.0 (0.1) | 97.9 (0.2) | 96.4 (0.3) | 62.7 (0.8) | 75.4 (0.7) | 4.2 (0.2)   | 621.9 (0.5) | 41.9 (0.3)
"""),
    "gpt-j-6b": printed("""
row      | S    | ES          | EM         | PS         | PM         | NS         | NM          | GE          | RS
unedited | 23.6 | 16.3 (1.6)  | -7.2 (0.7) | 18.6 (1.5) | -7.4 (0.6) | 83.0 (1.1) | 7.3 (0.5)   | 621.8 (0.6) | 29.8 (0.5)
FT       | 25.5 | 100.0 (0.0) | 99.9 (0.0) | 96.6 (0.6) | 71.0 (1.5) | 10.3 (0.8) | -50.7 (1.3) | 387.8 (7.3) | 24.6 (0.8)
FT+L     | 68.7 | 99.6 (0.3)  | 95.0 (0.6) | 47.9 (1.9) | 30.4 (1.5) | 78.6 (1.2) | 6.8 (0.5)   | 622.8 (0.6) | 35.5 (0.5)
MEND     | 63.2 | 97.4 (0.7)  | 71.5 (1.6) | 53.6 (1.9) | 11.0 (1.3) | 53.9 (1.4) | -6.0 (0.9)  | 620.5 (0.7) | 32.6 (0.5)
ROME     | 91.5 | 99.9 (0.1)  | 99.4 (0.3) | 99.1 (0.3) | 74.1 (1.3) | 78.9 (1.2) | 5.2 (0.5)   | 620.1 (0.9) | 43.0 (0.6)
"""),
    "gpt2-medium": printed("""
row      | S    | ES    | EM   | PS   | PM   | NS   | NM   | GE    | RS
unedited | 33.4 | 25.0  | -3.3 | 27.4 | -3.0 | 74.9 | 3.6  | 625.8 | 31.4
FT+L     | 68.0 | 100.0 | 94.9 | 68.5 | 6.1  | 51.3 | -1.7 | -     | -
ROME     | 87.4 | 100.0 | 94.9 | 96.4 | 56.9 | 71.8 | 2.8  | -     | -
"""),
    "gpt2-large": printed("""
row      | S    | ES    | EM   | PS   | PM   | NS   | NM
unedited | 32.8 | 23.9  | -4.0 | 27.4 | -3.5 | 75.7 | 4.3
FT+L     | 71.2 | 100.0 | 96.3 | 63.0 | 5.1  | 61.5 | 1.1
ROME     | 88.2 | 99.9  | 98.2 | 96.3 | 60.4 | 73.4 | 3.5
"""),
}

EXPERIMENTS = (
    Experiment(
        "meng2022-figure1",
        "Causal traces of one fact: the Space Needle is in downtown Seattle",
        "Meng et al. 2022, figure 1",
        ONE_FACT,
        {"gpt2-xl": 1},
        OneTrace(),
        {"gpt2-xl": printed("row | P clean\none fact | 97.638")},
        differs=("the noise is 3 sd of this fact's subject; the program's is that of all subjects of known_1000 (0.1346 on GPT-2 XL)",),
        factlm_cases=1,
    ),
    Experiment(
        "meng2022-figure2",
        "Average indirect effects of states, MLPs and attention by token role",
        "Meng et al. 2022, figures 1 and 2, section 2.2",
        KNOWN_1000,
        {"gpt2-xl": 1209, "gpt-j-6b": 1209, "gpt2-medium": 1209, "gpt2-large": 1209},
        TraceProtocol(),
        {"gpt2-xl": _FIGURE_2_XL},
        differs=("roles with several tokens are averaged token by token, as in the program", "facts count whose first object token is predicted"),
    ),
    Experiment(
        "meng2022-figure3",
        "The state at the last subject token, with MLPs or attention severed",
        "Meng et al. 2022, figure 3",
        KNOWN_1000,
        {"gpt2-xl": 1209},
        TraceProtocol(components=("resid_post",), sever=("mlp_out", "attn_out")),
        differs=("the program's second pass draws other noise than the one it recorded; ours draws the same",),
    ),
    Experiment(
        "meng2022-table1",
        "zsRE: accuracy of the tokens after one edit",
        "Meng et al. 2022, table 1",
        ZSRE,
        {"gpt2-xl": 10_000},
        EditProtocol((FT, FT_L, ROME_CODE), ZSRE_COLUMNS),
        {"gpt2-xl": _TABLE_1_XL},
        HALF_WIDTHS,
        without=HYPERNETWORKS,
        differs=(CONTEXTS, MOMENTS),
        factlm_cases=10,
    ),
    Experiment(
        "meng2022-table4",
        "CounterFact: one edit at a time",
        "Meng et al. 2022, table 4; medium and large: table 5",
        COUNTERFACT,
        {"gpt2-xl": 7500, "gpt-j-6b": 2000, "gpt2-medium": 7500, "gpt2-large": 7500},
        EditProtocol((FT, FT_L, Editor("KN", "kn", (("variant", "meng2022_code"),), alone=True), ROME_CODE), texts=True),
        _TABLE_4,
        HALF_WIDTHS,
        without=HYPERNETWORKS,
        differs=(CONTEXTS, MOMENTS),
        factlm_cases=10,
    ),
)
