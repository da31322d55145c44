"""The table of bad input, continued: what effects are measured in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import tl_knowledge as tlk
from tl_knowledge import errors
from tl_knowledge.runs.metric import Metric

FACT = tlk.Fact("France", "The capital of {} is", " Paris")
QUIET: dict[str, Any] = {"progress": False}
STORED: dict[str, Any] = {"store": "never-made", **QUIET}


def first(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, 0]


def sweep(**kwargs: Any) -> Any:
    return tlk.localised.sweep_layers("factlm", tlk.load_edit_cases()[:1], lambda layer, _: tlk.FineTune(layer=layer, steps=1), **kwargs)


BAD_METRICS: dict[str, tuple[Callable[[Any, Any], Any], type[Exception], str]] = {
    "trace: metric": (lambda m, p: tlk.trace(m, p, metric="logits"), errors.ComponentError, "metric 'logits' is unknown, did you mean 'logit'. Pass"),
    "trace: no metric": (lambda m, p: tlk.trace(m, p, metric=3), errors.InputError, r"trace\(metric=...\): 3 is an int; pass one of 'probability'"),
    "trace: a class": (lambda m, p: tlk.trace(m, p, metric=tlk.Fact), errors.InputError, "metric=Fact is a class; pass a function of logits"),
    "trace: no other answer": (lambda m, p: tlk.trace(m, p, metric="logit_difference"), errors.TargetError, "has no other answer; pass against="),
    "trace: no other answers": (lambda m, p: tlk.trace(m, p, metric="logit_difference", against=[]), errors.TargetError, "has no other answer"),
    "trace: another answer of another metric": (
        lambda m, p: tlk.trace(m, p, metric="logit", against=7),
        errors.InputError,
        "against=7 is what a logit difference takes off; pass metric='logit_difference' with it",
    ),
    "trace: another answer outside": (
        lambda m, p: tlk.trace(m, p, metric="logit_difference", against=[7, 60]),
        errors.TargetError,
        "token 60 is outside the model's vocabulary of 60",
    ),
    "trace: another model's metric": (
        lambda m, p: tlk.trace(m, p, metric=Metric("logit_difference against ' Rome' [1344]", (1344,))),
        errors.TargetError,
        "token 1344 is outside the model's vocabulary of 60",
    ),
    "trace: a made metric of no other answer": (
        lambda m, p: tlk.trace(m, p, metric=Metric("logit_difference")),
        errors.TargetError,
        "has no other answer; pass against=",
    ),
    "trace: another model's answer of the same number": (
        lambda m, p: tlk.trace(m, p, metric=Metric("logit_difference against ' Rome' [7]", (7,))),
        errors.TargetError,
        r"metric=logit_difference against ' Rome' \[7\] is logit_difference against .* \[7\] in this model",
    ),
    "trace: a made metric of no word": (lambda m, p: tlk.trace(m, p, metric=Metric("logits")), errors.ComponentError, "metric 'logits' is unknown"),
    "trace: against itself": (
        lambda m, p: tlk.trace(m, p, metric="logit_difference", against=[7, 5]),
        errors.TargetError,
        "the answer's token 5 is among those of against=",
    ),
    "trace: several tokens": (
        lambda m, p: tlk.trace(m, p, metric="kl", multi_token=True),
        errors.InputError,
        "metric=kl reads one position, and multi_token=True scores several; pass 'probability' or 'log_probability'",
    ),
    "trace: screen of a rank": (lambda m, p: tlk.trace(m, p, metric="rank", engine="screen"), errors.InputError, "metric='rank' counts tokens"),
    "trace: screen of no gradient": (
        lambda m, p: tlk.trace(m, p, metric=lambda logits: logits.argmax(-1), engine="screen"),
        errors.InputError,
        "has no gradient in the logits",
    ),
    "trace: function's shape": (
        lambda m, p: tlk.trace(m, p, metric=lambda logits: logits),
        errors.InputError,
        r"metric=<lambda> gave shape \(11, 60\) for logits \[11, 60\]; return one number a row, a tensor of shape \[11\]",
    ),
    "trace: function's kind": (lambda m, p: tlk.trace(m, p, metric=lambda logits: 3.0), errors.InputError, "metric=<lambda> gave float for logits"),
    "trace: function of all rows": (
        lambda m, p: tlk.trace(m, p, metric=lambda logits: logits[:, 5] - logits[:, 5].mean()),
        errors.InputError,
        "for it alone; rows are different runs: compute each number from its own row",
    ),
    "trace: function that is not finite": (
        lambda m, p: tlk.trace(m, p, metric=lambda logits: (logits[:, 5] - logits[:, 5]).log()),
        errors.NumericalError,
        "metric=<lambda> gave -inf for finite logits",
    ),
    "trace_facts: stored function": (
        lambda m, p: tlk.trace_facts("factlm", FACT, metric=first, **STORED),
        errors.InputError,
        "metric=first is a function, which a stored run cannot know again; pass a word as metric, or leave out store=",
    ),
    "trace_facts: several tokens": (
        lambda m, p: tlk.trace_facts("factlm", FACT, metric="rank", multi_token=True, **QUIET),
        errors.InputError,
        "metric=rank reads one position",
    ),
    "measure_attention_knockout: against itself": (
        lambda m, p: tlk.measure_attention_knockout("factlm", FACT, metric="logit_difference", against=" Paris", **QUIET),
        errors.TargetError,
        "measured against itself",
    ),
    "attribute_neurons: rank": (lambda m, p: tlk.attribute_neurons(m, p, metric="rank"), errors.InputError, "takes gradients, and metric='rank'"),
    "attribute_neurons: no gradient": (
        lambda m, p: tlk.attribute_neurons(m, p, metric=lambda logits: logits.argmax(-1), steps=2),
        errors.InputError,
        "has no gradient in the logits",
    ),
    "attribute_neurons: activation": (
        lambda m, p: tlk.attribute_neurons(m, p, method="activation", metric="kl"),
        errors.InputError,
        "takes no gradient, so that metric=kl would change nothing",
    ),
    "attribute_neurons: against itself": (
        lambda m, p: tlk.attribute_neurons(m, p, metric="logit_difference", against=5),
        errors.TargetError,
        "measured against itself",
    ),
    "locate_neurons: stored function": (
        lambda m, p: tlk.locate_neurons("factlm", FACT, metric=first, **STORED),
        errors.InputError,
        "metric=first is a function",
    ),
    "circuits.from_facts: stored function": (
        lambda m, p: tlk.circuits.from_facts("factlm", FACT, metric=first, **STORED),
        errors.InputError,
        "metric=first is a function",
    ),
    "localised.sweep_layers: stored function": (lambda m, p: sweep(metric=first, **STORED), errors.InputError, "metric=first is a function"),
    "localised.sweep_layers: the program's": (
        lambda m, p: sweep(metric="kl", variant="hase2023", **QUIET),
        errors.InputError,
        "variant='hase2023' measures probabilities, not metric=kl",
    ),
}
