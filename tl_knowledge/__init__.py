"""Locate knowledge in language models, edit it, and look at it, inside a TransformerLens workflow.

>>> import tl_knowledge as tlk
>>> model = tlk.load_model("factlm")
>>> prompt = tlk.Prompt.from_text(model, "The capital of France is", subject="France")
>>> result = tlk.trace(model, prompt, corrupt="subject")
"""

from tl_knowledge import errors, factlm
from tl_knowledge.datasets import (
    known_facts,
    load_blimp,
    load_context_pararel,
    load_corpus,
    load_counterfact,
    load_edit_cases,
    load_facts,
    load_known,
    load_lre,
    load_pararel,
    load_relations,
    load_zsre,
    of_relation,
    paraphrases,
    sample_facts,
    single_token_facts,
)
from tl_knowledge.facts import EditCase, Fact, MinimalPair, Relation, Statement
from tl_knowledge.hooks import corrupt, knock_out_attention, restore, scale_neurons, sever
from tl_knowledge.loading import load_model
from tl_knowledge.model import HookedModel
from tl_knowledge.neurons import NeuronAttribution, NeuronSet, adapt_sharing, attribute_neurons, coarse_neurons, mean_activation, select_neurons
from tl_knowledge.prompts import Prompt, Span
from tl_knowledge.tracing import (
    AttentionKnockout,
    CausalTrace,
    FactTrace,
    GaussianNoise,
    MultivariateGaussianNoise,
    PerturbationTest,
    PromptSwap,
    ScreenCheck,
    StudentTNoise,
    TraceAverage,
    TraceComparison,
    UniformNoise,
    attention_knockout,
    compare,
    embedding_sd,
    fact_seed,
    perturb_embeddings,
    perturbation_sd,
    subject_embedding_sd,
    trace,
    trace_facts,
)

__version__ = "0.1.0"

__all__ = [
    "AttentionKnockout",
    "CausalTrace",
    "EditCase",
    "Fact",
    "FactTrace",
    "GaussianNoise",
    "HookedModel",
    "MinimalPair",
    "MultivariateGaussianNoise",
    "NeuronAttribution",
    "NeuronSet",
    "PerturbationTest",
    "Prompt",
    "PromptSwap",
    "Relation",
    "ScreenCheck",
    "Span",
    "Statement",
    "StudentTNoise",
    "TraceAverage",
    "TraceComparison",
    "UniformNoise",
    "adapt_sharing",
    "attention_knockout",
    "attribute_neurons",
    "coarse_neurons",
    "compare",
    "corrupt",
    "embedding_sd",
    "errors",
    "fact_seed",
    "factlm",
    "knock_out_attention",
    "known_facts",
    "load_blimp",
    "load_context_pararel",
    "load_corpus",
    "load_counterfact",
    "load_edit_cases",
    "load_facts",
    "load_known",
    "load_lre",
    "load_model",
    "load_pararel",
    "load_relations",
    "load_zsre",
    "mean_activation",
    "of_relation",
    "paraphrases",
    "perturb_embeddings",
    "perturbation_sd",
    "restore",
    "sample_facts",
    "scale_neurons",
    "select_neurons",
    "sever",
    "single_token_facts",
    "subject_embedding_sd",
    "trace",
    "trace_facts",
]
