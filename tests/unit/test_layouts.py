"""Weights laid out for several forwards: the same values, within a budget, and nothing of it stays on the model."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from support import BUILDERS, build
from support.interrupts import InterruptAt

import tl_knowledge as tlk
from tl_knowledge.editing.serac_network import copy_of
from tl_knowledge.engine import layouts
from tl_knowledge.engine.layouts import laid_out_weights, layout_room
from tl_knowledge.engine.rows import row_bytes
from tl_knowledge.runs import interventions
from tl_knowledge.runs.contrast import node_hooks, noise_contrast
from tl_knowledge.runs.metric import PROBABILITY
from tl_knowledge.runs.nodes import Node
from tl_knowledge.tracing import engines

OWN = [name for name in BUILDERS if name.startswith("ht-")]
WEIGHTS = ("W_Q", "W_K", "W_V", "W_O")

pytestmark = [
    pytest.mark.touches_model,
    pytest.mark.skipif(not OWN, reason="this version of TransformerLens has bridges only, which lay nothing out"),
]


def own_entries(model) -> list[set[str]]:
    return [set(vars(module)) for module in model.modules()]


def laid_out(model) -> list[tuple[int, str]]:
    return [(layer, name) for layer, block in enumerate(model.blocks) for name in WEIGHTS if name in vars(block.attn)]


@pytest.mark.parametrize("name", OWN)
def test_what_is_read_is_the_same_and_lies_as_it_is_multiplied(name, prompt):
    model = build(name)
    before, plain = own_entries(model), model(prompt.tokens)
    parameters = dict(model.named_parameters())
    with laid_out_weights(model, float("inf")):
        assert laid_out(model) and "forward" in vars(model.unembed)
        for layer, weights in laid_out(model):
            attention = model.blocks[layer].attn
            assert torch.equal(getattr(attention, weights), attention._parameters[weights])
            order = (2, 0, 1) if weights == "W_O" else (0, 2, 1)
            assert getattr(attention, weights).permute(order).is_contiguous()
        assert all(value is parameters[key] for key, value in model.named_parameters())
        torch.testing.assert_close(model(prompt.tokens), plain, rtol=0, atol=1e-13)
    assert own_entries(model) == before and torch.equal(model(prompt.tokens), plain)


def test_the_first_layers_that_fit_are_laid_out():
    model = build(OWN[0])
    one = model.blocks[0].attn.W_Q.nbytes
    for most, expected in ((0, 0), (one - 1, 0), (one, 1), (5 * one, 5)):
        with laid_out_weights(model, most):
            assert len(laid_out(model)) == expected and "forward" in vars(model.unembed)


@pytest.mark.parametrize("name", OWN)
def test_a_sweep_reads_them_and_gives_the_loops_numbers(name, prompt, monkeypatch):
    model, seen, real = build(name), set[int](), engines.run_rows

    def watched(*args, **kwargs):
        seen.add(len(laid_out(model)))
        return real(*args, **kwargs)

    monkeypatch.setattr(engines, "run_rows", watched)
    settings = {"samples": 2, "component": "attn_out", "progress": False}
    before = own_entries(model)
    loop = tlk.trace(model, prompt, 0.7, engine="loop", **settings)
    counts: list[set[int]] = []
    for budget in (2.0**18, 1.0):
        swept = tlk.trace(model, prompt, 0.7, memory_budget=budget, **settings)
        torch.testing.assert_close(swept.indirect_effect, loop.indirect_effect, rtol=0, atol=1e-12, equal_nan=True)
        counts.append(set(seen))
        seen.clear()
    assert max(counts[0]) > 0
    assert counts[1] == {0} and own_entries(model) == before


def test_room_is_left_where_all_copies_take_half_at_most():
    model = build(OWN[0])
    every = sum(getattr(block.attn, name).nbytes for block in model.blocks for name in WEIGHTS)
    assert [layout_room(model, budget) for budget in (1e9, 2 * every, 2 * every - 1, 0)] == [every, every, 0, 0]
    with model.hooks(fwd_hooks=[("hook_embed", lambda x, hook: None)]):
        assert layout_room(model, 1e9) == 0


@pytest.mark.parametrize("factor", [0.2, 1.5, 2.5, 40])
def test_copies_and_rows_of_interventions_stay_within_the_budget(prompt, monkeypatch, factor):
    """``factor`` times what one run's rows and all copies take; where not even one run fits, one runs, and nothing is copied."""
    model, batches = build(OWN[0]), list[tuple[int, int]]()
    real = interventions.InterventionBatch

    class Watched(real):
        def run(self):
            copied = sum(vars(block.attn)[name].nbytes for block in model.blocks for name in WEIGHTS if name in vars(block.attn))
            batches.append((len(self.runs), copied))
            return super().run()

    monkeypatch.setattr(interventions, "InterventionBatch", Watched)
    noise = tlk.GaussianNoise(0.7, seed=0)
    contrast = noise_contrast(model, prompt, torch.tensor([3]), prompt.subject.positions, noise, 4, node_hooks(model, ["attn_out"]), PROBABILITY)
    nodes = [Node("attn_out", layer, pos) for layer in range(model.cfg.n_layers) for pos in range(prompt.subject.first, len(prompt))]
    row = row_bytes(model, len(prompt), 1)
    budget = factor * (4 * row + layout_room(model, 1e9))
    scores = interventions.measure_nodes(contrast, nodes, budget)
    torch.testing.assert_close(scores, interventions.measure_nodes(contrast, nodes, 1e12), rtol=0, atol=1e-12)
    of_budget = batches[:-1]
    assert max(runs for runs, _ in of_budget) <= max(1, budget // (4 * row))
    assert all(4 * row * runs + copied <= budget or (runs == 1 and copied == 0) for runs, copied in of_budget)
    assert any(copied for _, copied in of_budget) == (factor in (1.5, 2.5))


def test_an_interrupt_anywhere_leaves_nothing():
    model = build(OWN[0])
    with laid_out_weights(model, float("inf")):
        assert laid_out(model)  # what is known of its unembedding is asked once
    before, raised, line = own_entries(model), True, 0
    while raised:
        line += 1
        interrupt = InterruptAt(line, ("layouts.py",))
        with suppress(KeyboardInterrupt), interrupt, laid_out_weights(model, float("inf")):
            pass
        assert own_entries(model) == before, f"line {line}"
        raised = interrupt.raised
    assert line > 4 * model.cfg.n_layers


def test_another_unembedding_hooks_and_half_precision_are_left_alone(monkeypatch):
    model = copy_of(build(OWN[0]))
    with model.hooks(fwd_hooks=[("hook_embed", lambda x, hook: None)]), laid_out_weights(model, float("inf")):
        assert not laid_out(model) and "forward" not in vars(model.unembed)
    with laid_out_weights(model.to(torch.bfloat16), float("inf")):
        assert not laid_out(model) and "forward" not in vars(model.unembed)
    model = copy_of(build(OWN[0]))
    monkeypatch.setattr(type(model.unembed), "forward", lambda self, x: 2 * self.hook_out(self.hook_in(x) @ self.W_U))
    with laid_out_weights(model, 0):
        assert "forward" not in vars(model.unembed)
    assert layouts._UNEMBEDDING.refusal(model) == "the unembedding does something else"
