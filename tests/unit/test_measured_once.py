"""``circuits.measured_once``: what a site does is measured once for circuits of one corrupted run, and anew for any other."""

from __future__ import annotations

import pytest
import torch

import tl_knowledge as tlk
from tl_knowledge.circuits import measured

SAMPLES = 2


@pytest.fixture(scope="module")
def prompt(factlm):
    return tlk.Prompt.from_fact(factlm, tlk.load_facts("factlm")[0])


@pytest.fixture
def sites(monkeypatch):
    """How many sites have been measured."""
    counted = []

    def counting(measure):
        return lambda contrast, nodes, budget: counted.append(len(nodes)) or measure(contrast, nodes, budget)

    for name in ("measure_nodes", "measure_needs"):
        monkeypatch.setattr(measured, name, counting(getattr(measured, name)))
    return counted


def circuit(model, prompt, **asked):
    of_trace = {name: asked.pop(name) for name in ("seed", "target") if name in asked}
    traced = tlk.trace(model, prompt, component="attn_out", samples=SAMPLES, progress=False, **of_trace)
    return tlk.circuits.from_trace(model, prompt, traced, progress=False, **{"limit": 5, "rank": "either"} | asked)


def assert_same(one, other):
    assert one.nodes == other.nodes
    for what in ("effect", "need"):
        torch.testing.assert_close(getattr(one, what), getattr(other, what), rtol=0, atol=1e-5)


def test_circuits_of_one_run_measure_a_site_once_and_are_the_same(factlm, prompt, sites):
    neurons = tlk.neurons.NeuronSet.of(factlm, [(2, 5), (3, 7)])

    def both():
        of_neurons = tlk.circuits.from_neurons(factlm, prompt, neurons, samples=SAMPLES, limit=5, progress=False)
        return of_neurons, circuit(factlm, prompt), circuit(factlm, prompt, limit=8, rank="need", threshold=0.1)

    apart = both()
    each = sum(sites)
    sites.clear()
    with tlk.circuits.measured_once():
        together = both()
    assert 0 < sum(sites) < each / 2
    for one, other in zip(together, apart, strict=True):
        assert_same(one, other)


def test_another_run_is_measured_anew(factlm, prompt, sites):
    """Each circuit is that of a call by itself, and every one measures all that it asks for."""
    case = tlk.load_edit_cases("factlm")[0]
    edit, longer = (tlk.plan_edit(factlm, case.rewrite, tlk.FineTune(2, steps=steps), progress=False) for steps in (1, 3))
    other_tokens = tlk.Prompt.from_tokens(prompt.tokens.flip(1), subject=prompt.subject.positions, target=prompt.target_token)
    same_tokens = tlk.Prompt.from_tokens(prompt.tokens, subject=prompt.subject.positions, target=prompt.target_token)

    def edited():
        with edit.applied(factlm):
            return circuit(factlm, prompt)

    def hooked():
        factlm.add_hook("blocks.1.hook_mlp_out", lambda out, hook: 0.5 * out)
        try:
            return circuit(factlm, prompt)
        finally:
            factlm.reset_hooks()

    def of_edit(planned):
        return tlk.circuits.from_edit(factlm, tlk.Prompt.from_fact(factlm, case.rewrite), planned, limit=5, progress=False)

    ways = [
        lambda: circuit(factlm, prompt),
        lambda: circuit(factlm, prompt, seed=1),
        lambda: circuit(factlm, prompt, metric="log_probability"),
        lambda: circuit(factlm, prompt, metric=lambda logits: logits[..., 5]),
        lambda: circuit(factlm, prompt, metric=lambda logits: logits[..., 7]),
        lambda: circuit(factlm, prompt, target=prompt.target_token + 1),
        lambda: circuit(factlm, same_tokens, seed=2),
        lambda: circuit(factlm, other_tokens, seed=2),
        lambda: circuit(tlk.load_model("factlm"), prompt),
        lambda: of_edit(edit),
        lambda: of_edit(longer),
        edited,
        hooked,
    ]
    alone = [way() for way in ways]
    counts = list(sites)
    sites.clear()
    with tlk.circuits.measured_once():
        together = [way() for way in ways]
    assert sites == counts
    for one, other in zip(together, alone, strict=True):
        assert_same(one, other)


def test_one_inside_another_goes_on_with_what_is_there(factlm, prompt, sites):
    with tlk.circuits.measured_once():
        circuit(factlm, prompt)
        counted = sum(sites)
        with tlk.circuits.measured_once():
            circuit(factlm, prompt)
        circuit(factlm, prompt)
    assert sum(sites) == counted > 0


def test_nothing_is_kept_afterwards(factlm, prompt, sites):
    with tlk.circuits.measured_once():
        circuit(factlm, prompt)
    counted = sum(sites)
    circuit(factlm, prompt)
    assert sum(sites) == 2 * counted > 0
