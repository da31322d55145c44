"""Metrics that a caller brings along: functions with parameters of their own, metrics of other models, names of functions."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch

import tl_knowledge as tlk
from tl_knowledge import errors
from tl_knowledge.results.digest import function_digest
from tl_knowledge.runs.metric import Metric
from tl_knowledge.runs.scoring import row_scores

QUIET = {"samples": 2, "progress": False}


@pytest.fixture
def probe(gpt2):
    """A trained probe, whose parameters ask for gradients."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Linear(int(gpt2.cfg.d_vocab), 2, dtype=gpt2.W_E.dtype)


def test_a_log_probability_of_halves_is_in_single_precision():
    logits, answer = torch.tensor([[[1.0, 3.0, 2.0]]]), torch.tensor([[2]])
    found = row_scores(Metric("log_probability"), logits.bfloat16(), answer)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, logits[:, 0].log_softmax(-1)[:, 2], rtol=0, atol=0)
    for kind in ("probability", "log_probability"):
        assert row_scores(Metric(kind), logits, answer).dtype == torch.float32


def test_a_probe_is_a_metric(gpt2, prompt, probe):
    traces = [
        tlk.trace(gpt2, prompt, 0.5, metric=metric, **QUIET) for metric in (lambda rows: probe(rows)[:, 0], lambda rows: rows @ probe.weight[0])
    ]
    assert not traces[0].indirect_effect.requires_grad and traces[0].plot().data
    torch.testing.assert_close(traces[0].indirect_effect, traces[1].indirect_effect)  # the bias is in both runs
    fact = tlk.load_facts("factlm")[0]
    factlm = tlk.load_model("factlm")
    head = torch.nn.Linear(int(factlm.cfg.d_vocab), 1)
    average = tlk.trace_facts(factlm, [fact], components="mlp_out", layers=[0], metric=lambda rows: head(rows)[:, 0], **QUIET)
    assert average.plot().data


def test_gradients_of_a_probe_are_in_the_logits(gpt2, prompt, probe):
    for call in (
        lambda metric: tlk.attribute_neurons(gpt2, prompt, steps=2, metric=metric, progress=False),
        lambda metric: tlk.trace(gpt2, prompt, 0.5, engine="screen", metric=metric, **QUIET),
    ):
        call(lambda rows: probe(rows)[:, 0])
        with pytest.raises(errors.InputError, match="has no gradient in the logits"):
            call(lambda rows: probe(rows.detach())[:, 0])


def test_what_a_caller_s_own_module_holds_is_not_named_by_the_module():
    own = ModuleType("mymod")
    own.T = 3

    def scaled(logits):
        return logits[:, 0] / own.T

    def known(logits):
        return torch.nn.functional.relu(logits[:, 0])

    before = function_digest(scaled)
    own.T = 5
    assert function_digest(scaled) != before
    assert function_digest(known) == function_digest(known)


def test_a_function_keeps_its_name_as_long_as_its_values_are_the_same(gpt2, prompt, probe):
    weights = np.arange(60.0)
    functions = (lambda rows: rows @ torch.from_numpy(weights), weights), (lambda rows: probe(rows)[:, 0], probe.weight.data)
    for function, values in functions:
        traces = [tlk.trace(gpt2, prompt, 0.5, metric=function, **QUIET) for _ in range(2)]
        assert tlk.compare(*traces).plot().data
        before = function_digest(function)
        values[..., 0] += 1
        assert function_digest(function) != before


def test_a_module_of_a_caller_s_own_class_has_no_name_twice(probe):
    class Own(torch.nn.Linear):
        pass

    for module in (Own(3, 1), torch.nn.Sequential(Own(3, 1)), probe):
        if module is probe:
            probe.register_forward_hook(lambda *_: None)
        assert function_digest(lambda rows, m=module: m(rows)) != function_digest(lambda rows, m=module: m(rows))
