"""Edits that are hooks (GRACE, Transformer-Patcher) against plain Python, position by position, on every architecture in float64."""

from __future__ import annotations

import copy
import random
from dataclasses import replace

import pytest
import torch
from support import fingerprint, hooks_left
from support.memory_edits import (
    FACTS,
    MATRICES,
    NEURONS,
    OTHER,
    QUICK,
    TOKENS,
    applies,
    entries_of,
    plain_codebook,
    random_edits,
    slow_codebook_hooks,
)

import tl_knowledge as tlk
from tl_knowledge.editing import FineTuneDecayed, NeuronEdit
from tl_knowledge.editing.codebook import Codebook
from tl_knowledge.editing.codebook_edit import codebook_of
from tl_knowledge.editing.serac_network import copy_of
from tl_knowledge.engine.recording import record
from tl_knowledge.errors import InputError, ModelStateError
from tl_knowledge.models.routed import routed_on


@pytest.mark.parametrize("seed", range(12))
def test_a_codebook_is_the_papers_algorithm(seed):
    """Random streams of keys on a line and in the plane, so that all cases occur; each against plain Python."""
    draw = random.Random(seed)
    entries = []
    for _ in range(30):
        key = [round(draw.uniform(-4, 4), 1) + 10, draw.choice([0.0, 0.0, 1.0])]
        entries.append((key, [draw.gauss(0, 1)], draw.choice("abc"), draw.choice([0.3, 1.0])))
    book = Codebook.empty(torch.zeros(2, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    for count, (key, value, label, radius) in enumerate(entries, start=1):
        book = book.with_entry(*(torch.tensor(x, dtype=torch.float64) for x in (key, value)), label, radius)
        expected = plain_codebook(entries[:count])
        assert book.keys.tolist() == [entry[0] for entry in expected] and book.labels == tuple(entry[2] for entry in expected)
        assert book.values.tolist() == [entry[1] for entry in expected]
        assert book.radii.tolist() == pytest.approx([entry[3] for entry in expected], rel=1e-12)


def test_the_random_streams_meet_every_case():
    met = {"new": 0, "split": 0, "grown": 0, "same": 0}
    for seed in range(12):
        draw, entries = random.Random(seed), []
        for _ in range(30):
            key = [round(draw.uniform(-4, 4), 1) + 10, draw.choice([0.0, 0.0, 1.0])]
            entries.append((key, [draw.gauss(0, 1)], draw.choice("abc"), draw.choice([0.3, 1.0])))
            before, after = plain_codebook(entries[:-1]), plain_codebook(entries)
            grew = [entry[3] for entry in after[: len(before)]] != [entry[3] for entry in before]
            what = ("split" if grew else "new") if len(after) > len(before) else "grown" if grew else "same"
            met[what] += 1
    assert min(met.values()) >= 10


@pytest.mark.parametrize("matrix", MATRICES)
def test_edits_on_a_model_are_one_codebook_position_by_position(speaking, matrix):
    """Several edits, in a batch, against one hook that looks at each position alone; and each way to put them there."""
    edits, tokens = random_edits(speaking, matrix), TOKENS
    plain = speaking(tokens)
    book = plain_codebook([entry for edit in edits for entry in entries_of(edit)])
    expected = speaking.run_with_hooks(tokens, fwd_hooks=slow_codebook_hooks(edits[0].place, book))
    assert float((expected - plain).detach().abs().max()) > 1e-3
    for edit in edits:
        edit.write_into(speaking)
    written = speaking(tokens)
    for edit in reversed(edits[2:]):
        edit.revert(speaking)
    joined = speaking.run_with_hooks(tokens, fwd_hooks=[pair for edit in edits[2:] for pair in edit.hooks()])
    for edit in edits[:2]:
        edit.revert(speaking)
    hooked = speaking.run_with_hooks(tokens, fwd_hooks=[pair for edit in edits for pair in edit.hooks()])
    assert torch.equal(written, expected) and torch.equal(hooked, expected) and torch.equal(joined, expected)
    assert torch.equal(speaking(tokens), plain) and hooks_left(speaking) == []


@pytest.mark.parametrize("matrix", MATRICES)
def test_nothing_changes_outside_every_radius(speaking, matrix):
    """Bit for bit: the whole of another prompt, and the positions of the same one before the key."""
    edit = tlk.plan_edit(speaking, FACTS[0], replace(QUICK, matrix=matrix, radius=1e-3))
    prompt, other = (tlk.Prompt.from_fact(speaking, fact).tokens for fact in (FACTS[0], OTHER))
    plain, elsewhere = speaking(prompt), speaking(other)
    with edit.applied(speaking):
        assert torch.equal(speaking(other), elsewhere)
        edited = speaking(prompt)
    assert torch.equal(edited[:, :-1], plain[:, :-1]) and not torch.equal(edited[:, -1], plain[:, -1])


@pytest.mark.parametrize("matrix", MATRICES)
def test_edits_leave_in_any_order_and_leave_what_they_found(speaking, matrix):
    edits, tokens, before = random_edits(speaking, matrix), TOKENS, fingerprint(speaking)
    plain = speaking(tokens)
    for order in ([2, 0, 3, 1], [0, 1, 2, 3], [3, 2, 1, 0]):
        for edit in edits:
            edit.write_into(speaking)
        on = list(range(4))
        for gone in order:
            edits[gone].revert(speaking)
            on.remove(gone)
            assert routed_on(speaking) == [edits[i] for i in on]
            left = speaking(tokens)
            fresh = [load_like(edits[i]) for i in on]
            alone = speaking.run_with_hooks(tokens, fwd_hooks=[pair for edit in fresh for pair in edit.hooks()])
            assert torch.equal(left, alone)
        assert torch.equal(speaking(tokens), plain) and fingerprint(speaking) == before and hooks_left(speaking) == []


def load_like(edit):
    """The same edit, as one that nobody has used."""
    return replace(edit)


def test_a_sequence_of_plans_goes_on_from_the_codebook(speaking):
    """Same prompt, another target: the later one is said; another prompt with the same target near: the radius grows to reach it."""
    method = replace(QUICK, steps=40, learning_rate=0.5, radius=1e-3)
    prompt = tlk.Prompt.from_fact(speaking, FACTS[1])
    first = tlk.plan_edit(speaking, FACTS[1], method)
    first.write_into(speaking)
    again = tlk.plan_edit(speaking, FACTS[1].retarget(" w12"), method)
    assert again.notes[0]["key"] == "replaced" and again.notes[0]["distance"] == 0
    again.write_into(speaking)
    assert len(codebook_of(routed_on(speaking))) == 1
    assert again.notes[0]["target_probability"] == pytest.approx(
        float(speaking(prompt.tokens)[0, -1].softmax(-1)[prompt_token(speaking, " w12")]), rel=1e-6
    )
    wide = tlk.plan_edit(speaking, FACTS[2].retarget(" w12"), replace(method, radius=50.0))
    assert wide.notes[0]["key"] == "grown" and len(codebook_of([*routed_on(speaking), wide])) == 1
    with wide.applied(speaking):
        grown = codebook_of(routed_on(speaking))
        assert float(grown.radii[0]) == pytest.approx(1.01 * wide.notes[0]["distance"])
        said = float(speaking(tlk.Prompt.from_fact(speaking, FACTS[2]).tokens)[0, -1].softmax(-1)[prompt_token(speaking, " w12")])
        assert said == pytest.approx(wide.notes[0]["target_probability"], rel=1e-6)
    split = tlk.plan_edit(speaking, FACTS[2].retarget(" w13"), replace(method, radius=50.0))
    with split.applied(speaking):
        assert codebook_of(routed_on(speaking)).radii.tolist() == pytest.approx([split.notes[0]["distance"] / 2] * 2)
    again.revert(speaking)
    first.revert(speaking)
    assert hooks_left(speaking) == []


def prompt_token(model, text):
    return tlk.Prompt.from_fact(model, FACTS[1].retarget(text)).target_token


def test_the_value_is_that_of_a_plain_loop(speaking):
    """Adam by hand on one vector, written at the prompt's last position by a plain hook."""
    method = replace(QUICK, steps=5, learning_rate=0.1, start="warm", radius=1e-6)
    edit = tlk.plan_edit(speaking, FACTS[0], method)
    prompt = tlk.Prompt.from_fact(speaking, FACTS[0])
    answer, last = torch.tensor(prompt.answer), len(prompt) - 1
    tokens = torch.cat([prompt.tokens, answer[None, :-1]], dim=1)
    found: list = []
    speaking.run_with_hooks(tokens, fwd_hooks=[(edit.place.output, lambda x, *, hook: found.append(x.reshape(-1, x.shape[-1])[last].detach()))])
    value = found[0].clone().requires_grad_(True)
    optimiser, losses = torch.optim.Adam([value], lr=0.1), []

    def put(outputs, *, hook):
        changed = outputs.clone()
        changed.view(-1, changed.shape[-1])[last] = value
        return changed

    for step in range(5):
        log_p = speaking.run_with_hooks(tokens, fwd_hooks=[(edit.place.output, put)])[0].log_softmax(-1)
        loss = -torch.stack([log_p[last + i, token] for i, token in enumerate(answer)]).mean()
        losses.append(float(loss.detach()))
        if step < 4:
            (value.grad,) = torch.autograd.grad(loss, [value])
            optimiser.step()
    assert edit.notes[0]["losses"] == pytest.approx(losses, rel=1e-9)
    torch.testing.assert_close(edit.values[0], value.detach(), rtol=1e-8, atol=1e-10)


def test_a_full_codebook_is_an_error_and_leaves_the_model(speaking):
    method = replace(QUICK, steps=1, radius=1e-6, most_keys=2)
    before = fingerprint(speaking)
    with pytest.raises(InputError, match="would have 3 keys, and most_keys=2"):
        tlk.plan_edit(speaking, FACTS[:3], method)
    both, third = tlk.plan_edit(speaking, FACTS[:2], method), tlk.plan_edit(speaking, FACTS[2], method)
    both.write_into(speaking)
    inside = fingerprint(speaking)
    for attempt in (lambda: third.write_into(speaking), lambda: tlk.plan_edit(speaking, FACTS[3], method), lambda: applies(third, speaking)):
        with pytest.raises(InputError, match="would have 3 keys"):
            attempt()
        assert fingerprint(speaking) == inside and routed_on(speaking) == [both]
    both.revert(speaking)
    assert fingerprint(speaking) == before and hooks_left(speaking) == []


def tokens_of(model, *facts):
    return torch.cat([tlk.Prompt.from_fact(model, fact).tokens[:, :4] for fact in facts])


def test_neurons_add_their_formula_and_nothing_where_they_are_silent(speaking):
    edit = tlk.plan_edit(speaking, FACTS[:2], NEURONS)
    assert isinstance(edit, NeuronEdit) and edit.nonlinearity == "relu"
    tokens, plain = tokens_of(speaking, *FACTS[:2], OTHER), []
    place, layer = edit.place, len(speaking.blocks) - 1
    assert place.layer == layer

    def add(outputs, *, hook):
        reads, changed = plain.pop(), outputs.clone()
        flat, queries = changed.view(-1, changed.shape[-1]), reads.reshape(-1, reads.shape[-1])
        for position in range(len(flat)):
            for key, bias, value in zip(edit.keys, edit.biases, edit.values, strict=True):
                activation = max(float(key @ queries[position]) + float(bias), 0.0)
                flat[position] = flat[position] + activation * value
        return changed

    expected = speaking.run_with_hooks(tokens, fwd_hooks=[(place.query, lambda x, *, hook: plain.append(x.detach())), (place.output, add)])
    with edit.applied(speaking):
        torch.testing.assert_close(speaking(tokens), expected, rtol=1e-9, atol=1e-11)
    silent, before = replace(edit, biases=edit.biases - 1e6), speaking(tokens)
    with silent.applied(speaking):
        assert torch.equal(speaking(tokens), before)
    frame = edit.to_dataframe()
    at_edit = [max(float(k @ q) + float(b), 0.0) for k, q, b in zip(edit.keys, edit.queries, edit.biases, strict=True)]
    assert frame["activation"].tolist() == pytest.approx(at_edit)
    assert frame["key_norm"].tolist() == pytest.approx(edit.keys.norm(dim=-1).tolist())


def test_a_wrong_token_gets_a_neuron_and_a_right_one_none(speaking):
    prompt = tlk.Prompt.from_fact(speaking, FACTS[1])
    said = int(speaking(prompt.tokens)[0, -1].argmax())
    nothing = tlk.plan_edit(speaking, FACTS[1].retarget(f" w{said}"), NEURONS)
    assert len(nothing.keys) == 0 and nothing.notes[0]["stopped"] == "nothing was wrong"
    before = speaking(prompt.tokens)
    with nothing.applied(speaking):
        assert torch.equal(speaking(prompt.tokens), before)
    with pytest.raises(InputError, match=r"tokens of .* are wrong, and most_neurons=1"):
        tlk.plan_edit(speaking, FACTS[1].retarget(" w50 w51 w52"), replace(NEURONS, most_neurons=1))


def test_the_neurons_losses_are_the_papers(speaking):
    """The first loss, by hand from whole forwards: keys q / ||q||^2, activation 1, values gain times a draw."""
    edit = tlk.plan_edit(speaking, FACTS[1], replace(NEURONS, memory_weight=3.0))
    prompt = tlk.Prompt.from_fact(speaking, FACTS[1])
    place, last = edit.place, len(prompt) - 1
    query = record(speaking, prompt.tokens, [], [place.query])[place.query].reshape(-1, edit.keys.shape[1])[last]
    texts = [torch.tensor([[int(word[1:]) for word in text.split()]]) for text in NEURONS.corpus]
    stored = torch.cat([record(speaking, row, [], [place.query])[place.query].reshape(-1, len(query)) for row in texts])
    value = torch.randn(1, len(query), generator=torch.Generator().manual_seed(0), dtype=torch.float64)[0]

    def put(outputs, *, hook):
        changed = outputs.clone()
        flat = changed.view(-1, changed.shape[-1])
        flat[last] = flat[last] + value
        return changed

    log_p = speaking.run_with_hooks(prompt.tokens, fwd_hooks=[(place.output, put)])[0, last].log_softmax(-1)
    memory = stored @ (query / query.norm() ** 2)
    smoothed = -0.9 * log_p[prompt.target_token] - 0.1 * log_p.mean()
    expected = smoothed + torch.tensor(-1.0).exp() + 3.0 * ((memory - 1 + 3).exp().mean() + (memory + 3).exp().mean())
    assert edit.notes[0]["losses"][0] == pytest.approx(float(expected.detach()), rel=1e-6)


@pytest.mark.parametrize("matrix", MATRICES)
def test_hooks_of_a_weight_change_do_not_alter_what_an_edit_on_the_model_has_replaced(speaking, matrix):
    """Written, the change lies before the replacement; as hooks it would come after it. Where nothing was replaced both are the same."""
    codebook = random_edits(speaking, matrix, count=1)[0]
    same = "W_gate" if matrix == "W_in" and getattr(speaking.blocks[1].mlp, "W_gate", None) is not None else matrix  # of a gated MLP: the gate
    change = tlk.plan_edit(speaking, FACTS[1], FineTuneDecayed(layer=1, matrices=(same,), steps=2))
    with codebook.applied(speaking):
        with pytest.raises(ModelStateError, match="has replaced what"):
            speaking.run_with_hooks(TOKENS, fwd_hooks=change.hooks())
        with change.applied(speaking):
            assert bool(torch.isfinite(speaking(TOKENS)).all())
    far = replace(codebook, keys=codebook.keys + 1e6)
    with far.applied(speaking), torch.no_grad():
        hooked = speaking.run_with_hooks(TOKENS, fwd_hooks=change.hooks())
        with change.applied(speaking):
            torch.testing.assert_close(hooked, speaking(TOKENS), rtol=1e-9, atol=1e-12)


def test_a_change_in_place_between_two_codebooks_is_noticed(speaking):
    first, second = random_edits(speaking, "W_out", count=2)

    def halve(activation, *, hook):
        activation.mul_(0.5)

    with first.applied(speaking), torch.no_grad():
        speaking.run_with_hooks(TOKENS, fwd_hooks=second.hooks())
        with pytest.raises(ModelStateError, match="another hook lies between"):
            speaking.run_with_hooks(TOKENS, fwd_hooks=[(first.place.output, halve), *second.hooks()])


def test_a_model_is_not_copied_with_an_edit_that_nobody_would_know_of(speaking):
    edit = random_edits(speaking, "W_out", count=1)[0]
    with edit.applied(speaking), torch.no_grad():
        speaking(TOKENS)  # a bridge keeps what its last run read, which is not copied where it has a graph
        with pytest.raises(ModelStateError, match="cannot be copied or pickled"):
            copy.deepcopy(speaking)
    assert torch.equal(copy_of(speaking)(TOKENS), speaking(TOKENS))
