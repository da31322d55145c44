"""Wen and Bai, "A Study on Localization of Knowledge in Language Models"."""

from __future__ import annotations

from tl_knowledge.published.data import CONTEXT_PARAREL, COUNTERFACT, KNOWN_1000, PUNCTUATION
from tl_knowledge.published.experiment import Experiment, printed
from tl_knowledge.published.protocols.editing import EditProtocol
from tl_knowledge.published.protocols.neurons import LayerShareProtocol, NeuronEffectProtocol, PunctuationProtocol
from tl_knowledge.published.protocols.tracing import PerturbationProtocol, TraceProtocol
from tl_knowledge.published.workbench import Editor

__all__ = ["EXPERIMENTS"]

GPT2_AND_BERT = {"gpt2": 2100, "bert-base-uncased": 2100}

_TABLE_3 = {
    "gpt2": printed("""
row       | S    | ES    | EM   | PS   | PM   | NS   | NM
unedited  | 36.1 | 28.1  | -1.7 | 30.1 | -1.8 | 70.8 | 1.9
ROME      | 80.8 | 100.0 | 98.6 | 98.6 | 71.6 | 63.9 | 0.3
ROME last | 73.8 | 99.7  | 94.4 | 95.5 | 69.8 | 49.6 | -4.8
KN        | 50.5 | 70.7  | 3.6  | 66.0 | 3.8  | 33.2 | -3.4
CN        | 36.1 | 28.1  | -1.7 | 30.1 | -1.8 | 71.8 | 1.8
"""),
    "gpt2-medium": printed("""
row       | S    | ES    | EM   | PS   | PM   | NS   | NM
unedited  | 33.4 | 25.0  | -3.3 | 27.4 | -3.0 | 74.9 | 3.6
ROME      | 87.4 | 100.0 | 94.9 | 68.5 | 6.1  | 51.3 | -1.7
ROME last | 33.4 | 25.1  | -3.4 | 26.3 | -2.9 | 75.5 | 3.9
KN        | 50.3 | 51.7  | -0.3 | 47.3 | -0.7 | 52.1 | 0.8
"""),
}

EXPERIMENTS = (
    Experiment(
        "wen-bai-figure3",
        "Suppressing knowledge neurons: change of the right answer's probability by relation",
        "Wen and Bai, figure 3 and section 5.2",
        CONTEXT_PARAREL,
        GPT2_AND_BERT,
        NeuronEffectProtocol(variant="wen_bai", effect="absolute", factor=0.0),
    ),
    Experiment(
        "wen-bai-figure4",
        "Enhancing knowledge neurons: change of the right answer's probability by relation",
        "Wen and Bai, figure 4 and section 5.2",
        CONTEXT_PARAREL,
        GPT2_AND_BERT,
        NeuronEffectProtocol(variant="wen_bai", effect="absolute", factor=2.0),
        differs=("the bars of unrelated facts come from suppression, as in the program (a slip)",),
    ),
    Experiment(
        "wen-bai-figure5",
        "Where knowledge neurons lie, by layer",
        "Wen and Bai, figure 5",
        CONTEXT_PARAREL,
        GPT2_AND_BERT,
        LayerShareProtocol(),
    ),
    Experiment(
        "wen-bai-section5.4",
        "Noise on every token's embedding: drop of the right answer's probability",
        "Wen and Bai, section 5.4",
        CONTEXT_PARAREL,
        {"gpt2": 2100, "bert-base-uncased": 2100},
        PerturbationProtocol("wen_bai"),
        {"gpt2": printed("row | drop\nall relations | 9.5"), "bert-base-uncased": printed("row | drop\nall relations | 0.51")},
    ),
    Experiment(
        "wen-bai-table2",
        "Neurons that predict punctuation marks",
        "Wen and Bai, table 2 and section 5.5",
        PUNCTUATION,
        {"gpt2": 200, "bert-base-uncased": 200},
        PunctuationProtocol(),
        {"gpt2": printed("row | shared neurons\nall marks | 1")},
        differs=("the paper's sentences are not public; these are WikiText's",),
    ),
    Experiment(
        "wen-bai-table3",
        "CounterFact on small models: ROME, ROME in the second last layer, and edits of neurons",
        "Wen and Bai, table 3",
        COUNTERFACT,
        {"gpt2": 1000, "gpt2-medium": 1000},
        EditProtocol(
            (
                Editor("ROME", "rome", (("variant", "meng2022_code"),)),
                Editor("ROME last", "rome", (("variant", "meng2022_code"),), "second_last"),
                Editor("KN", "kn", (("variant", "meng2022_code"),)),
                Editor("CN", "cne", (("variant", "wen_bai"),)),
            )
        ),
        _TABLE_3,
        "the paper prints standard deviations over records, called 95% intervals",
        differs=(
            "the paper's ROME row of GPT-2 medium has PS, PM, NS and NM of Meng et al.'s FT+L row (68.5, 6.1, 51.3, -1.7); "
            "Meng et al.'s own ROME row has 96.4, 56.9, 71.8, 2.8",
            "the program's CN hands a (token, layer) pair on as (layer, neuron), so that it edits nothing: their CN row is the unedited model's",
        ),
    ),
    Experiment(
        "wen-bai-figure6",
        "Mean causal traces of GPT-2",
        "Wen and Bai, figure 6",
        KNOWN_1000,
        {"gpt2": 1000},
        TraceProtocol(noise=0.1, variant="meng2022_code"),
    ),
)
