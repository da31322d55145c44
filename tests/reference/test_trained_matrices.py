"""UltraEdit, PMET, LoRA and fine-tuning of any matrix against the obvious programs, on every architecture in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support import fingerprint, hooks_left, tokenizer_of_sixty_words
from support.edits import slow_training, slow_value

import tl_knowledge as tlk
from tl_knowledge.editing import BlockMatrix
from tl_knowledge.editing.optimise.contexts import context_templates
from tl_knowledge.editing.optimise.fact_rows import at_positions, rows_of
from tl_knowledge.editing.optimise.running import Spread, pooled
from tl_knowledge.editing.optimise.values import optimise_values
from tl_knowledge.errors import InputError, NumericalError
from tl_knowledge.models.hook_names import component_hook
from tl_knowledge.models.matrices import matrix_weights, places_in
from tl_knowledge.models.weights import output_hook

FACTS = [tlk.Fact("w3 w9", "w1 {} w4 w8", " w7 w11"), tlk.Fact("w5", "w1 {} w4 w8", " w7"), tlk.Fact("w30 w31", "w2 {} w8", " w9")]
SHORT = ((3, 2),)
LAYERS = (0, 2)
NEAR = {"rtol": 2e-4, "atol": 5e-7}  # some bridges take norms in float32, so that rows of a batch differ in the last of its digits


@pytest.fixture
def small(gpt2, monkeypatch):
    """One architecture that can speak."""
    monkeypatch.setattr(gpt2, "tokenizer", tokenizer_of_sixty_words())
    return gpt2


def slow_factors(model, facts, tokens):
    """Of ``W_out`` of two layers: what it reads, and the gradient at its output, of one forward a fact; loss a mean over all targets' tokens."""
    prompts = [tlk.Prompt.from_fact(model, fact) for fact in facts]
    total = sum(len(prompt.answer) for prompt in prompts)
    rows = {layer: ([], []) for layer in LAYERS}
    for prompt in prompts:
        kept, keys = {}, {}

        def add(layer, kept=kept):
            def change(activation, *, hook):
                kept[layer] = torch.zeros_like(activation, requires_grad=True)
                return activation + kept[layer]

            return change

        def read(layer, keys=keys):
            return lambda activation, *, hook: keys.__setitem__(layer, activation.detach()[0])

        hooks = [pair for layer in LAYERS for pair in ((component_hook("neuron", layer), read(layer)), (output_hook(model, layer), add(layer)))]
        whole = torch.cat([prompt.tokens[0], torch.tensor(prompt.answer)])
        log_p = model.run_with_hooks(whole[None, :-1], fwd_hooks=hooks)[0].log_softmax(-1)
        loss = -sum(log_p[len(prompt) - 1 + k, token] for k, token in enumerate(prompt.answer)) / total
        gradients = torch.autograd.grad(loss, [kept[layer] for layer in LAYERS])
        first = len(prompt) - 1 if tokens == "answer" else 0
        for layer, gradient in zip(LAYERS, gradients, strict=True):
            rows[layer][0].append(keys[layer][first:])
            rows[layer][1].append(gradient[0, first:])
    return {layer: (torch.cat(xs), torch.cat(ds)) for layer, (xs, ds) in rows.items()}


def slow_ultraedit(factors, seen, rate, ridge):
    """The ridge problem of each layer by ``lstsq``; mean and spread over all that was ever edited, in both layers."""
    stacked = torch.cat([torch.cat(each, dim=1) for edited in seen for each in edited.values()])
    mean, sd = stacked.mean(0), (stacked.var(0) + 1e-8).sqrt()
    changes = {}
    for layer, (x, d) in factors.items():
        standard = (torch.cat([x, d], dim=1) - mean) / sd
        xs, ds = standard[:, : x.shape[1]], standard[:, x.shape[1] :]
        wanted = torch.stack([-rate * float(a @ a) * b for a, b in zip(xs, ds, strict=True)])
        width = x.shape[1]
        system = torch.cat([x, ridge**0.5 * torch.eye(width, dtype=x.dtype)])
        changes[layer] = torch.linalg.lstsq(system, torch.cat([wanted, torch.zeros(width, d.shape[1], dtype=x.dtype)])).solution
    return changes


@pytest.mark.parametrize("tokens", ["answer", "all"])
def test_ultraedit_is_its_least_squares_problem_edit_after_edit(speaking, tokens, tmp_path):
    method = tlk.editing.UltraEdit(layers=LAYERS, learning_rate=1e-2, tokens=tokens, ridge=0.5)
    before = fingerprint(speaking)
    first = tlk.plan_edit(speaking, FACTS[:2], method)
    alone = tlk.plan_edit(speaking, FACTS[2:], replace(method, tokens="all"))
    seen = [slow_factors(speaking, FACTS[:2], tokens)]
    expected = slow_ultraedit(seen[0], seen, 1e-2, 0.5)
    for layer in LAYERS:
        torch.testing.assert_close(first.factors[layer].dense, expected[layer], **NEAR)
    loaded = tlk.Edit.load(first.save(tmp_path / "edit"))
    with loaded.applied(speaking):  # what is written into the model counts, and only that
        second = tlk.plan_edit(speaking, FACTS[2:], method)
        seen.append(slow_factors(speaking, FACTS[2:], tokens))
    expected = slow_ultraedit(seen[1], seen, 1e-2, 0.5)
    for layer in LAYERS:
        torch.testing.assert_close(second.factors[layer].dense, expected[layer], **NEAR)
    assert second.notes[0]["tokens_standardised_over"] == sum(len(x) for each in seen for x, _ in each.values())
    again = tlk.plan_edit(speaking, FACTS[2:], replace(method, tokens="all"))
    assert all(torch.equal(again.factors[layer].dense, alone.factors[layer].dense) for layer in LAYERS)
    assert fingerprint(speaking) == before and hooks_left(speaking) == []


def test_ultraedit_of_one_token_is_refused_and_others_matrices_work(small):
    method = tlk.editing.UltraEdit(layers=(1,), learning_rate=1e-2)
    with pytest.raises(InputError, match=r"standardises over all tokens .* there is only one"):
        tlk.plan_edit(small, FACTS[1], method)
    edit = tlk.plan_edit(small, FACTS, replace(method, matrices=("W_in", "W_out")))
    assert list(edit.changes) == ["blocks.1.mlp.W_out", "blocks.1.mlp.W_in"] and len(edit.records) == 2
    with (
        small.hooks(fwd_hooks=[("blocks.3.hook_mlp_out", lambda x, *, hook: x * float("nan"))]),
        pytest.raises(NumericalError, match="not all finite"),
    ):
        tlk.plan_edit(small, FACTS, method)
    assert hooks_left(small) == []


def test_spreads_pool_in_any_order():
    rows = torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parts = [Spread.of(part) for part in rows.split([1, 5, 3])]
    for order in ((0, 1, 2), (2, 0, 1)):
        spread = pooled([parts[i] for i in order])
        torch.testing.assert_close(spread.mean, rows.mean(0))
        torch.testing.assert_close(spread.squares / 8, rows.var(0))
        assert torch.equal(Spread.unpacked(spread.packed).squares, spread.squares) and spread.count == 9


def test_lora_is_a_loop_that_writes_its_factors_into_the_weights(speaking):
    method = tlk.editing.LoRA(layers=(1,), matrices=("W_V", "W_O", "W_in", "W_out"), rank=3, alpha=6.0, steps=3, learning_rate=1e-2, seed=4)
    before = fingerprint(speaking)
    edit = tlk.plan_edit(speaking, FACTS, method)
    draw, factors = torch.Generator().manual_seed(4), {}
    for name in sorted(method.matrices):
        d_in, d_out = matrix_weights(speaking, BlockMatrix(1, name)).shape
        left = (torch.rand(d_in, 3, generator=draw, dtype=torch.float64) * 2 - 1) / d_in**0.5
        factors[BlockMatrix(1, name)] = (left.requires_grad_(True), torch.zeros(3, d_out, dtype=torch.float64, requires_grad=True))
    prompts = [tlk.Prompt.from_fact(speaking, fact) for fact in FACTS]
    trained = [factor for pair in factors.values() for factor in pair]
    changes, losses = slow_training(speaking, prompts, list(factors), trained, lambda place: 2 * factors[place][0] @ factors[place][1], 1e-2, 3)
    assert edit.notes[0]["losses"] == pytest.approx(losses, rel=1e-6) and losses[2] < losses[0]
    for place, change in zip(factors, changes, strict=True):
        torch.testing.assert_close(edit.changes[str(place)].dense, change, rtol=1e-4, atol=1e-7)
        assert edit.changes[str(place)].rank == 3
    assert fingerprint(speaking) == before and hooks_left(speaking) == []


@pytest.mark.parametrize("kind", ["bounded", "decayed"])
def test_fine_tuning_of_any_matrix_is_a_loop_that_writes_into_the_weights(speaking, kind):
    settings = {"steps": 3, "learning_rate": 1e-2, "stop_below": 1e-9}
    if kind == "bounded":
        method = tlk.editing.FineTuneAttention(layer=1, most_change=1.5e-2, **settings)
    else:
        method = tlk.editing.FineTuneDecayed(layer=1, **settings)
    before = fingerprint(speaking)
    edit = tlk.plan_edit(speaking, FACTS, method)
    places = places_in(speaking, (1,), method.matrices)
    assert set(edit.changes) == set(map(str, places)) and len(places) in ((3,) if kind == "bounded" else (6, 7))
    starts = {place: matrix_weights(speaking, place).detach().clone() for place in places}
    changes = {place: torch.zeros_like(start, requires_grad=True) for place, start in starts.items()}

    def decayed(place):
        """A change whose gradient is the loss' and the decay's."""
        change, decay = changes[place], method.decay(len(FACTS))
        change_hook = change * 1.0
        change_hook.register_hook(lambda gradient: gradient + decay * (starts[place] + change.detach()) / len(FACTS))
        return change_hook

    def bound():
        with torch.no_grad():
            for change in changes.values():
                change.clamp_(-(method.most_change or 9.0), method.most_change or 9.0)

    prompts = [tlk.Prompt.from_fact(speaking, fact) for fact in FACTS]
    expected, losses = slow_training(speaking, prompts, places, list(changes.values()), decayed, 1e-2, 3, bound)
    assert edit.notes[0]["losses"] == pytest.approx(losses, rel=1e-6)
    for place, change in zip(places, expected, strict=True):
        torch.testing.assert_close(edit.changes[str(place)].dense, change, rtol=1e-4, atol=1e-6)
    if kind == "bounded":
        assert max(float(change.dense.abs().max()) for change in edit.changes.values()) == pytest.approx(1.5e-2)
    assert fingerprint(speaking) == before and hooks_left(speaking) == []


def test_decay_falls_with_the_number_of_facts():
    method = tlk.editing.FineTuneDecayed(layer=1)
    assert method.decay(1) == pytest.approx(1.1687, rel=1e-4) and method.decay(10_000) == pytest.approx(3.859e-4, rel=1e-3)
    assert replace(method, weight_decay=0.1).decay(7) == 0.1 and tlk.FineTune(layer=1).decay(7) == 0


def said_already(model):
    """A fact that the model says, as a word."""
    for number in range(50):
        fact = tlk.Fact(f"w{number}", "w1 {} w4 w8", " w7")
        said = int(model(tlk.Prompt.from_fact(model, fact).tokens)[0, -1].argmax())
        if said < 58:
            return fact.retarget(f" w{said}")
    raise AssertionError("no word is predicted")


PMET_VALUE = tlk.editing.ValueSettings(steps=5, learning_rate=0.2, kl_factor=1.0, clamp=0.3, likeliest_factor=0.1, stop_drift=0.01)


@pytest.mark.parametrize("target", ["unlikely", "likeliest"])
def test_pmets_two_values_equal_whole_forwards(speaking, target):
    fact = said_already(speaking) if target == "likeliest" else FACTS[0]  # its loss weighs a tenth from the second step on
    rows = rows_of(speaking, fact, ("{}",), "subject", essence_alike=True)
    sites = (component_hook("attn_out", 1), output_hook(speaking, 1))
    settings = replace(PMET_VALUE, stop_drift=None) if target == "likeliest" else PMET_VALUE
    value = optimise_values(speaking, [rows], 1, sites, settings)[0]
    delta, losses = slow_value(speaking, rows, 1, settings, sites)
    assert value.losses == pytest.approx(losses, rel=1e-8)
    torch.testing.assert_close(value.delta, delta, rtol=1e-7, atol=1e-9)
    assert len(value.delta) == 32 and hooks_left(speaking) == []


def test_pmet_stops_at_a_small_drift_once_its_target_is_the_likeliest(small):
    rows = rows_of(small, said_already(small), ("{}",), "subject", essence_alike=True)
    sites = (component_hook("attn_out", 1), output_hook(small, 1))
    value = optimise_values(small, [rows], 1, sites, PMET_VALUE)[0]
    assert (value.reason, len(value.losses)) == ("drift", 1)
    value = optimise_values(small, [rows], 1, sites, replace(PMET_VALUE, stop_drift=None))[0]
    assert (value.reason, len(value.losses)) == ("steps", 5)


def test_pmet_writes_the_mlps_part_by_square_roots(speaking, moments):
    method = tlk.editing.PMET(layers=(0, 2), moment_weight=2.0, contexts=SHORT, value=PMET_VALUE)
    edit = tlk.plan_edit(speaking, FACTS, method, moments=moments)
    site = output_hook(speaking, 2)
    batch = [rows_of(speaking, fact, context_templates(speaking, SHORT), "subject", essence_alike=True) for fact in FACTS]
    values = [optimise_values(speaking, [rows], 2, (component_hook("attn_out", 2), site), PMET_VALUE)[0] for rows in batch]
    wanted, hooks = torch.stack([value.wanted[16:] for value in values]), []
    for layer, left in ((0, 2), (2, 1)):
        keys, outputs, key_site = [], [], component_hook("neuron", layer)
        for rows in batch:
            with speaking.hooks(fwd_hooks=hooks):
                _, cache = speaking.run_with_cache(rows.tokens, names_filter=[key_site, site])
            own = at_positions(cache[key_site].detach(), rows.edited)[:-1]
            keys.append((own[0] + own[1:].mean(0)) / 2)
            outputs.append(cache[site].detach()[0, rows.edited[0]])
        k, missing = torch.stack(keys), (wanted - torch.stack(outputs)) / left**0.5
        expected = torch.linalg.solve(2.0 * moments.moments[layer] + k.T @ k, k.T @ missing)
        torch.testing.assert_close(edit.factors[layer].dense, expected, rtol=1e-4, atol=1e-7)
        hooks = tlk.editing.Edit.planned(speaking, None, {0: edit.factors[0]}).hooks()
