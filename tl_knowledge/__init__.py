"""Locate knowledge in language models, edit it, and look at it, inside a TransformerLens workflow.

>>> import tl_knowledge as tlk
>>> model = tlk.load_model("factlm")
>>> prompt = tlk.Prompt.from_text(model, "The capital of France is", subject="France")
>>> result = tlk.trace(model, prompt, corrupt="subject")
"""

from tl_knowledge import errors, factlm
from tl_knowledge.datasets import load_corpus, load_edit_cases, load_facts, load_relations, paraphrases
from tl_knowledge.facts import EditCase, Fact, Relation
from tl_knowledge.hooks import corrupt, restore, sever
from tl_knowledge.loading import load_model
from tl_knowledge.model import HookedModel
from tl_knowledge.prompts import Prompt, Span
from tl_knowledge.tracing import (
    CausalTrace,
    GaussianNoise,
    MultivariateGaussianNoise,
    PromptSwap,
    StudentTNoise,
    TraceComparison,
    UniformNoise,
    compare,
    embedding_sd,
    subject_embedding_sd,
    trace,
)

__version__ = "0.1.0"

__all__ = [
    "CausalTrace",
    "EditCase",
    "Fact",
    "GaussianNoise",
    "HookedModel",
    "MultivariateGaussianNoise",
    "Prompt",
    "PromptSwap",
    "Relation",
    "Span",
    "StudentTNoise",
    "TraceComparison",
    "UniformNoise",
    "compare",
    "corrupt",
    "embedding_sd",
    "errors",
    "factlm",
    "load_corpus",
    "load_edit_cases",
    "load_facts",
    "load_model",
    "load_relations",
    "paraphrases",
    "restore",
    "sever",
    "subject_embedding_sd",
    "trace",
]
