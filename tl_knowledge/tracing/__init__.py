"""Causal tracing: corruption settings, single traces, traces of fact sets, knockouts, results."""

from tl_knowledge.tracing.average import Measure, TraceAverage
from tl_knowledge.tracing.corruption import (
    GaussianNoise,
    MultivariateGaussianNoise,
    PromptSwap,
    StudentTNoise,
    UniformNoise,
    embedding_sd,
    subject_embedding_sd,
)
from tl_knowledge.tracing.knockout import AttentionKnockout, attention_knockout
from tl_knowledge.tracing.perturbation import PerturbationTest, perturb_embeddings, perturbation_sd
from tl_knowledge.tracing.result import CausalTrace, TraceComparison, compare
from tl_knowledge.tracing.screen import ScreenCheck
from tl_knowledge.tracing.survey import FactTrace, fact_seed
from tl_knowledge.tracing.trace import trace
from tl_knowledge.tracing.trace_facts import trace_facts

__all__ = [
    "AttentionKnockout",
    "CausalTrace",
    "FactTrace",
    "GaussianNoise",
    "Measure",
    "MultivariateGaussianNoise",
    "PerturbationTest",
    "PromptSwap",
    "ScreenCheck",
    "StudentTNoise",
    "TraceAverage",
    "TraceComparison",
    "UniformNoise",
    "attention_knockout",
    "compare",
    "embedding_sd",
    "fact_seed",
    "perturb_embeddings",
    "perturbation_sd",
    "subject_embedding_sd",
    "trace",
    "trace_facts",
]
