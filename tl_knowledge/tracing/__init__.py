"""Causal tracing: corruption settings, the trace itself, its results."""

from tl_knowledge.tracing.corruption import (
    GaussianNoise,
    MultivariateGaussianNoise,
    Noise,
    PromptSwap,
    StudentTNoise,
    UniformNoise,
    embedding_sd,
    subject_embedding_sd,
)
from tl_knowledge.tracing.result import CausalTrace, TraceComparison, compare
from tl_knowledge.tracing.trace import trace

__all__ = [
    "CausalTrace",
    "GaussianNoise",
    "MultivariateGaussianNoise",
    "Noise",
    "PromptSwap",
    "StudentTNoise",
    "TraceComparison",
    "UniformNoise",
    "compare",
    "embedding_sd",
    "subject_embedding_sd",
    "trace",
]
