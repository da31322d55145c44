"""Corruption settings, under the name they have for users of tracing."""

from tl_knowledge.runs.corruption import (
    GaussianNoise,
    MultivariateGaussianNoise,
    Noise,
    PromptSwap,
    StudentTNoise,
    UniformNoise,
    embedding_sd,
    subject_embedding_sd,
)

__all__ = [
    "GaussianNoise",
    "MultivariateGaussianNoise",
    "Noise",
    "PromptSwap",
    "StudentTNoise",
    "UniformNoise",
    "embedding_sd",
    "subject_embedding_sd",
]
