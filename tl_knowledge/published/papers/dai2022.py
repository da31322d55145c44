"""Dai et al. 2022, "Knowledge Neurons in Pretrained Transformers"."""

from __future__ import annotations

from tl_knowledge.published.data import PARAREL
from tl_knowledge.published.experiment import Experiment, printed
from tl_knowledge.published.protocols.neurons import LocationProtocol, NeuronEffectProtocol

__all__ = ["EXPERIMENTS"]

BERT = "bert-base-cased"

EXPERIMENTS = (
    Experiment(
        "dai2022-table3",
        "How many knowledge neurons a fact has, and how many two facts share",
        "Dai et al. 2022, table 3",
        PARAREL,
        {BERT: 1000},
        LocationProtocol(threshold=0.2, shared_by=0.7, adapt="relation", variant="dai2022"),
        {
            BERT: printed("""
row                        | neurons a fact | neurons in common
all facts                  | 4.13           | -
two facts of one relation  | -              | 1.23
two facts of two relations | -              | 0.09
""")
        },
    ),
    Experiment(
        "dai2022-figure4",
        "Suppressing knowledge neurons",
        "Dai et al. 2022, figure 4 and section 4.3",
        PARAREL,
        {BERT: 1000},
        NeuronEffectProtocol(threshold=0.2, shared_by=0.7, variant="dai2022", factor=0.0),
        {BERT: printed("row | relative change\nown fact | -29.03")},
    ),
    Experiment(
        "dai2022-figure5",
        "Amplifying knowledge neurons",
        "Dai et al. 2022, figure 5 and section 4.3",
        PARAREL,
        {BERT: 1000},
        NeuronEffectProtocol(threshold=0.2, shared_by=0.7, variant="dai2022", factor=2.0),
        {BERT: printed("row | relative change\nown fact | 31.17")},
    ),
)
