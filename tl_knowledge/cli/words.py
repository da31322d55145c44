"""What options take whose types live in modules that need torch; ``tests/unit/test_cli_words.py`` holds these to those."""

from __future__ import annotations

__all__ = [
    "BACKENDS",
    "CORPORA",
    "DTYPES",
    "EDIT_SETS",
    "EVALUATED_SETS",
    "INTERVALS",
    "MEASURES",
    "MEMORY_BUDGET",
    "METRICS",
    "PERTURBATION_VARIANTS",
    "PROBLEMS",
    "PROTOCOLS",
    "RELATION_SIDE_METHODS",
    "RUNNERS",
    "SIDES",
    "SWEEP_VARIANTS",
    "TRACE_VARIANTS",
    "TRAINED_METHODS",
    "TRAINING_SETS",
]

SIDES = ("subject", "relation")
METRICS = ("probability", "log_probability", "logit", "logit_difference", "kl", "rank")
TRACE_VARIANTS = ("ours", "meng2022_code")
SWEEP_VARIANTS = ("ours", "hase2023")
PERTURBATION_VARIANTS = ("ours", "wen_bai")
PROBLEMS = ("error_injection", "tracing_reversal", "fact_erasure", "fact_amplification", "fact_forcing")
RELATION_SIDE_METHODS = ("ft", "kn", "rome", "memit")
PROTOCOLS = ("single", "batch", "sequential")
RUNNERS = ("local", "ray")
INTERVALS = ("ours", "meng2022_code")
EDIT_SETS = ("factlm", "counterfact", "zsre")
EVALUATED_SETS = (*EDIT_SETS, "factlm_chains", "ripple_edits", "mquake")
MEASURES = ("subject-facts", "ripples", "multi-hop", "portability", "essence", "ability", "extraction")
TRAINING_SETS = ("factlm", "counterfact", "zsre")
TRAINED_METHODS = ("mend", "ke", "serac")
MEMORY_BUDGET = 2**28
BACKENDS = ("auto", "hooked_transformer", "bridge")
DTYPES = ("float32", "float16", "bfloat16", "float64")
CORPORA = ("factlm", "wikipedia", "wikitext")
