"""MEND and KE against the obvious program: their formulas, and one update of their training, in float64 on three architectures."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pandas as pd
import pytest
import torch
from support import build, fingerprint, hooks_left, tokenizer_of_sixty_words
from support.edits import TEXTS, training_cases, weight_gradient

import tl_knowledge as tlk
from tl_knowledge.editing import KE, MEND, BlockMatrix, LowRank, TrainedEditor, TrainingCurve, TrainingSettings
from tl_knowledge.editing.optimise.gradient_factors import target_gradients
from tl_knowledge.editing.training.outcome import changes_as_hooks, drift
from tl_knowledge.editing.training.samples import TrainingData
from tl_knowledge.editing.training.trainer import Trainer
from tl_knowledge.models.ledger import unedited_fingerprint
from tl_knowledge.models.matrices import held_matrix, matrix_weights
from tl_knowledge.results.digest import values_of

CASES, HELD = training_cases(), training_cases(40, 2)
SETTINGS = TrainingSettings(steps=4, learning_rate=1e-3, accumulate=4, clip=0.5, validate_every=4, validation_samples=2, seed=3)
METHODS = {"mend": replace(MEND.small(), layers=(1, 2), training=SETTINGS), "ke": replace(KE.small(), layers=(1, 2), training=SETTINGS)}


@pytest.fixture(params=["bridge-gpt2", "bridge-llama", "bridge-gptneox"])
def three(request):
    model = build(request.param)
    before, model.tokenizer = model.tokenizer, tokenizer_of_sixty_words()
    yield model
    model.tokenizer = before


def gradient_of(model, fact, places):
    return target_gradients(model, [tlk.Prompt.from_fact(model, fact)], places)[0]


def test_an_untrained_mend_is_the_gradient_of_standardised_factors(three):
    mend = METHODS["mend"]
    network, places = mend.network(three), mend.places(three)
    seen = [gradient_of(three, case.rewrite, places) for case in CASES]
    for gradient in seen:
        network.see(gradient)
    changes = network.changes(tlk.Prompt.from_fact(three, CASES[0].rewrite), seen[0])
    for name in ("W_in", "W_out"):
        rows = [kept(each.factors[place]) for each in seen for place in places if place.name == name]
        everything = torch.cat(rows)
        for place in (place for place in places if place.name == name):
            z = (kept(seen[0].factors[place]) - everything.mean(0)) / (everything.std(0) + 1e-7)
            d_in = changes[place].left.shape[0]
            torch.testing.assert_close(changes[place].dense, -1e-4 * z[:, :d_in].T @ z[:, d_in:], rtol=1e-9, atol=1e-12)


def kept(factors):
    """Token by token: those at which neither factor is zero."""
    rows = [torch.cat([x, d]) for x, d in zip(factors.inputs, factors.gradients, strict=True) if bool(x.any()) and bool(d.any())]
    return torch.stack(rows)


def raw(model, mend):
    """MEND with networks that leave the factors as they are."""
    network = mend.network(model)
    tensors = {name: each.detach().clone() for name, each in network.state_dict().items()}
    for name, each in tensors.items():
        if name.endswith("count"):
            each.fill_(2)
        if name.endswith("squares"):
            each.fill_((1 - 1e-7) ** 2)  # a standard deviation of one, with what is added to it
    provenance = tlk.Edit.planned(model, mend, {}).provenance
    settings = {name: value for name, value in values_of(mend).items() if name != "editor"}
    table = TrainingCurve(pd.DataFrame(columns=["step", "split", "edit_loss", "kl", "loss", "success"]), "MEND", provenance)
    return mend.with_editor(
        TrainedEditor("MEND", settings, tensors, unedited_fingerprint(model), torch.zeros(0, dtype=torch.int64), table, provenance)
    )


def test_with_raw_factors_one_edit_is_a_step_of_gradient_descent(three):
    mend = raw(three, replace(METHODS["mend"], rate=0.01))
    facts = [case.rewrite for case in CASES[:2]]
    edit = tlk.plan_edit(three, facts, mend)
    for place in mend.places(three):
        slow = sum(weight_gradient(three, place, partial(nll, three, fact)) for fact in facts)
        torch.testing.assert_close(edit.changes[str(place)].dense, -0.01 * slow, rtol=1e-6, atol=1e-10)
    half = tlk.plan_edit(three, facts, replace(mend, scale=0.5))
    for name, change in edit.changes.items():
        torch.testing.assert_close(half.changes[name].dense * 2, change.dense, rtol=1e-12, atol=1e-15)


def nll(model, fact, tokens=None):
    """Mean negative log-likelihood of the target, in one sequence."""
    prompt = tlk.Prompt.from_fact(model, fact)
    whole = torch.cat([prompt.tokens[0], torch.tensor(prompt.answer)])
    log_p = model(whole[None, :-1])[0].log_softmax(-1)
    return -sum(log_p[len(prompt) - 1 + k, token] for k, token in enumerate(prompt.answer)) / len(prompt.answer)


def test_an_empty_edit_drifts_nowhere(three):
    text = tlk.Prompt.from_text(three, TEXTS[0]).tokens
    places = METHODS["mend"].places(three)
    draw = torch.Generator().manual_seed(0)
    some = {}
    for place in places:
        (d_in, d_out) = matrix_weights(three, place).shape
        some[place] = LowRank(*(torch.randn(size, dtype=torch.float64, generator=draw) for size in ((d_in, 1), (1, d_out))))
    nothing = {place: LowRank(0 * each.left, each.right) for place, each in some.items()}
    with torch.no_grad():
        assert float(drift(three, text, [])) == 0.0 == float(drift(three, text, changes_as_hooks(three, nothing)))
        assert float(drift(three, text, changes_as_hooks(three, some))) > 1e-3


def test_kes_change_is_the_masked_and_shifted_gradient(three):
    ke = METHODS["ke"]
    network, places = ke.network(three), ke.places(three)
    fact = CASES[0].rewrite
    prompt = tlk.Prompt.from_fact(three, fact)
    changes = network.changes(prompt, gradient_of(three, fact, places))
    condition = network._condition(prompt)
    for place, head in zip(places, network.heads, strict=True):
        g = weight_gradient(three, place, partial(nll, three, fact))
        n, m = g.shape
        said = head(condition).split([m, n, m, n, 1])
        a, b = (torch.outer(rows.softmax(0), columns) for columns, rows in (said[:2], said[2:4]))
        torch.testing.assert_close(changes[place].dense, torch.sigmoid(said[4]) * (g * a + b), rtol=1e-6, atol=1e-10)
    torch.testing.assert_close(condition, slow_condition(network, prompt), rtol=1e-9, atol=1e-12)


def slow_condition(network, prompt):
    """The LSTM a token and a direction at a time."""
    words = [network.embedding.weight[token] for token in [*prompt.tokens[0].tolist(), *prompt.answer]]
    ends = []
    for suffix, order in (("", words), ("_reverse", words[::-1])):
        w_ih, w_hh, b_ih, b_hh = (getattr(network.lstm, f"{name}_l0{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        h = c = torch.zeros(w_hh.shape[1], dtype=w_hh.dtype)
        for word in order:
            i, f, g, o = (w_ih @ word + b_ih + w_hh @ h + b_hh).chunk(4)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        ends.append(h)
    return torch.tanh(network.read.weight @ torch.cat(ends) + network.read.bias)


@pytest.mark.parametrize("name", METHODS)
def test_one_update_is_that_of_the_obvious_program(three, name):
    """Changes are written into the weights, their gradient is read there, and goes on to the networks by the chain rule."""
    method, before = METHODS[name], fingerprint(three)
    places, data = method.places(three), TrainingData.checked(three, CASES, HELD, TEXTS, SETTINGS)
    network, slow = method.network(three), method.network(three)
    first = {key: each.clone() for key, each in network.state_dict().items()}
    Trainer(name, network, partial(method._outcome, three, network), data, None, progress=False).run()
    assert fingerprint(three) == before and hooks_left(three) == []
    total = slow_gradients(three, slow, places, data)
    assert fingerprint(three) == before
    scale = min(1.0, SETTINGS.clip / float(sum((each**2).sum() for each in total) ** 0.5))
    rates = {id(p): group.get("lr", SETTINGS.learning_rate) for group in slow.parameter_groups() for p in group["params"]}
    moved = 0.0
    for (key, own), parameter, gradient in zip(network.named_parameters(), slow.parameters(), total, strict=True):
        g = gradient * scale
        expected = first[key] - rates[id(parameter)] * g / (g.abs() + 1e-8)  # Adam's first step: moments m / (1 - b1) = g, v / (1 - b2) = g^2
        clear = g.abs() > 1e-7  # where the step is not all rounding
        torch.testing.assert_close(own.detach()[clear], expected[clear], rtol=1e-6, atol=1e-9)
        moved += float((own.detach() - first[key]).abs().sum())
    assert moved > 1e-3


def slow_gradients(model, network, places, data):
    """Of the outer loss, added up over the steps of one update."""
    parameters = list(network.parameters())
    total = [torch.zeros_like(each) for each in parameters]
    for step in range(1, SETTINGS.steps + 1):
        (sample,) = data.step(step)
        gradient = target_gradients(model, [sample.edit], places)[0]
        network.see(gradient)
        changes = network.changes(sample.edit, gradient)
        plain = model(sample.text)[0].log_softmax(-1).detach()

        def loss(sample=sample, plain=plain):
            whole = torch.cat([sample.asked.tokens[0], torch.tensor(sample.asked.answer)])
            log_p = model(whole[None, :-1])[0].log_softmax(-1)
            count = len(sample.asked.answer)
            edit = -log_p[-count:].gather(-1, whole[-count:, None]).mean()
            after = model(sample.text)[0].log_softmax(-1)
            return 0.1 * edit + (plain.exp() * (plain - after)).sum() / len(plain)

        originals = {place: held_matrix(model, place).detach().clone() for place in places}
        try:
            with torch.no_grad():
                for place in places:
                    held_matrix(model, place).add_(changes[place].dense)
            at_weights = {place: weight_gradient(model, place, loss) for place in places}
        finally:
            with torch.no_grad():
                for place, weights in originals.items():
                    held_matrix(model, place).copy_(weights)
        carried = sum((at_weights[place] * changes[place].dense).sum() for place in places)
        for number, own in enumerate(torch.autograd.grad(carried, parameters, allow_unused=True)):
            if own is not None:
                total[number] += own
    return total


def test_a_change_reaches_no_other_matrix(three):
    mend = METHODS["mend"]
    assert mend.places(three) == tuple(BlockMatrix(layer, name) for layer in (1, 2) for name in ("W_in", "W_out"))
