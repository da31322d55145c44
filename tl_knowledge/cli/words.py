"""What options take whose types live in modules that need torch; ``tests/unit/test_cli.py`` holds these to those."""

from __future__ import annotations

__all__ = [
    "BACKENDS",
    "CORPORA",
    "DTYPES",
    "EDIT_SETS",
    "MEMORY_BUDGET",
    "PROTOCOLS",
    "RUNNERS",
    "SIDES",
    "TRACE_VARIANTS",
    "TRAINED_METHODS",
    "TRAINING_SETS",
]

SIDES = ("subject", "relation")
TRACE_VARIANTS = ("ours", "meng2022_code")
PROTOCOLS = ("single", "batch", "sequential")
RUNNERS = ("local", "ray")
EDIT_SETS = ("factlm", "counterfact", "zsre")
TRAINING_SETS = ("factlm", "counterfact", "zsre")
TRAINED_METHODS = ("mend", "ke")
MEMORY_BUDGET = 2**28
BACKENDS = ("auto", "hooked_transformer", "bridge")
DTYPES = ("float32", "float16", "bfloat16", "float64")
CORPORA = ("factlm", "wikipedia", "wikitext")
