"""Niu et al. 2024, "What does the Knowledge Neuron Thesis Have to do with Knowledge?"."""

from __future__ import annotations

from tl_knowledge.published.data import BLIMP, COUNTERFACT, PARAREL
from tl_knowledge.published.experiment import Experiment, printed
from tl_knowledge.published.papers.meng2022 import CONTEXTS, MOMENTS, ROME_CODE
from tl_knowledge.published.protocols.editing import SymmetryProtocol
from tl_knowledge.published.protocols.neurons import AgreementProtocol, LocationProtocol, ReliabilityProtocol, WordProtocol

__all__ = ["EXPERIMENTS"]

BERT = "bert-base-cased"

EXPERIMENTS = (
    Experiment(
        "niu2024-table1-grammar",
        "Neurons of determiner-noun agreement: how many, how widely shared",
        "Niu et al. 2024, localisation characteristics (BLiMP)",
        BLIMP,
        {BERT: 100},
        AgreementProtocol(variant="niu2024"),
        {
            BERT: printed("""
row         | KN   | tau  | R1^2
det_n_agr_1 | 3.94 | 0.71 | 0.56
det_n_agr_2 | 1.86 | 0.62 | 0.56
dna_irr_1   | 5.53 | 0.73 | 0.64
dna_irr_2   | 2.45 | 0.67 | 0.55
dna_w_adj_1 | 8.88 | 0.78 | 0.67
dna_w_adj_2 | 2.26 | 0.67 | 0.57
""")
        },
        factlm_cases=25,
    ),
    Experiment(
        "niu2024-table1-facts",
        "Neurons of facts: how many, how widely shared",
        "Niu et al. 2024, localisation characteristics (ParaRel)",
        PARAREL,
        {BERT: 1000},
        LocationProtocol(threshold=0.2, shared_by=0.7, adapt="relation", variant="niu2024"),
        {
            BERT: printed("""
row   | KN     | tau   | R1^2
P101  | 0.167  | 0.515 | 0.399
P103  | 0.204  | 0.662 | 0.399
P106  | 1.292  | 0.607 | 0.365
P108  | 1.493  | 0.663 | 0.473
P1303 | 10.462 | 0.814 | 0.684
P140  | 2.008  | 0.689 | 0.263
""")
        },
    ),
    Experiment(
        "niu2024-words",
        "Words' probabilities when the singular and the plural neurons are suppressed",
        "Niu et al. 2024, effects of suppressing the singular and plural neurons",
        BLIMP,
        {BERT: 100},
        WordProtocol(variant="niu2024"),
        differs=("the paper tests each word unpaired and uncorrected; ours are paired and corrected for the number of words",),
        factlm_cases=25,
    ),
    Experiment(
        "niu2024-edit-effect",
        "Minimal pairs decided rightly before and after suppressing their neurons",
        "Niu et al. 2024, KN edit effect",
        BLIMP,
        {BERT: 100},
        ReliabilityProtocol(variant="niu2024"),
        {
            BERT: printed("""
row             | pre-edit | post-edit
det_n_agr_2     | 100      | 94.8
dna_irr_2       | 99.5     | 96.9
dna_w_adj_2     | 97.1     | 94.4
dna_w_adj_irr_2 | 97.4     | 95.4
""")
        },
        without={
            "T5-XL": "EasyEdit shows its decoder the answer before it scores it",
            "GPT-J, zsRE and CounterFact": "refined over EasyEdit's prompts, which are not public",
        },
        factlm_cases=25,
    ),
    Experiment(
        "niu2024-symmetry",
        "Edits of capitals, read the other way round: seven accuracies",
        "Niu et al. 2024, not robust for symmetric relations",
        COUNTERFACT,
        {"gpt2-xl": 200},
        SymmetryProtocol((ROME_CODE,)),
        differs=("the paper edits ParaRel's P36 and P1376; here CounterFact's edits of these relations", CONTEXTS, MOMENTS),
        factlm_cases=10,
    ),
)
