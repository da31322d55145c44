"""The tuned lens: what its training computes, what is kept, a run that was killed and goes on to the same weights, and what is refused."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from support import build, fingerprint, hooks_left, tokenizer_of_sixty_words

import tl_knowledge as tlk
from tl_knowledge.errors import ComponentError, DataError, InputError, ModelStateError, NumericalError
from tl_knowledge.models.hook_names import state_hook
from tl_knowledge.runs.corpus_tokens import text_rows
from tl_knowledge.states import translators
from tl_knowledge.states.head import _ALONE, _whole_run, read_states
from tl_knowledge.states.translators import LensTraining, empty_translators

pytestmark = pytest.mark.touches_model

SETTINGS = tlk.states.LensSettings(steps=9, batch_size=4, validate_every=3)


@pytest.fixture
def small(gpt2, monkeypatch):
    monkeypatch.setattr(gpt2, "tokenizer", tokenizer_of_sixty_words())
    return gpt2


def train(model, texts, **more):
    return tlk.states.train_tuned_lens(model, texts[:40], **{"validation": texts[40:], "training": SETTINGS, "progress": False} | more)


def same(one, other):
    return torch.equal(one.weights, other.weights) and torch.equal(one.biases, other.biases) and one.curve.equals(other.curve)


def by_hand(model, rows, layer, weight, bias):
    """Mean KL over all tokens of some texts, row by row through the model's own last parts."""
    kls = []
    for row in rows:
        kept = {}
        sites = [state_hook(layer), state_hook(3)]
        keep = [(name, lambda x, *, hook, name=name, kept=kept: kept.__setitem__(name, x.detach()[0])) for name in sites]
        with torch.no_grad():
            log_p = model.run_with_hooks(row, fwd_hooks=keep)[0].log_softmax(-1)
        states = kept[sites[0]]
        moved = states + states @ weight + bias
        for i, state in enumerate(moved):
            said = model.run_with_hooks(torch.tensor([[0]]), fwd_hooks=[(state_hook(3), lambda _, *, hook, state=state: state[None, None])])
            log_q = said[0, 0].log_softmax(-1)
            kls.append((log_p[i].exp() * (log_p[i] - log_q)).sum())
    return torch.stack(kls).mean()


@pytest.mark.parametrize("memory_budget", [2.0**28, 30_000.0])
def test_losses_and_gradients_are_those_of_a_loop(speaking, texts, memory_budget):
    """In float64, on every architecture; a norm that computes in float32 all the same rounds."""
    rows = list(text_rows(speaking, texts[:3], 12))
    own = empty_translators(speaking, (-1, 2))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in own.parameters():
            parameter.copy_(0.05 * torch.randn(parameter.shape, generator=draw, dtype=parameter.dtype))
    before = fingerprint(speaking)
    training = LensTraining(speaking, own, rows, rows, SETTINGS, None, memory_budget, False)
    losses = training._losses(training._states(rows), learn=True)
    for number, layer in enumerate((-1, 2)):
        weight, bias = (each.detach().clone().requires_grad_() for each in own.of(number))
        loss = by_hand(speaking, rows, layer, weight, bias)
        gradients = torch.autograd.grad(loss, [weight, bias])
        assert losses[number] == pytest.approx(float(loss.detach()), abs=1e-6)
        for parameter, gradient in zip(own.of(number), gradients, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)
    assert fingerprint(speaking) == before and not hooks_left(speaking) and all(p.grad is None for p in speaking.parameters())


def test_states_are_read_alike_both_ways(model):
    states = torch.randn(6, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(3), requires_grad=True)
    assert _ALONE.refusal(model) is None
    short, whole = read_states(model, states), _whole_run(model, states)
    torch.testing.assert_close(short, whole.to(short), rtol=0, atol=1e-10)
    weights = torch.randn(short.shape, generator=torch.Generator().manual_seed(4), dtype=short.dtype)
    gradients = [torch.autograd.grad((each * weights).sum(), states)[0] for each in (short, whole)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-5)
    assert float(gradients[0].abs().max()) > 0


def test_training_is_sgd_as_published(small, texts):
    """Three steps by hand: drawn texts, clipped sum of the layers' gradients, Nesterov momentum, decay towards the identity, a falling rate."""
    settings = replace(SETTINGS, steps=3, weight_decay=0.02, clip=0.3, batch_size=2)
    rows = list(text_rows(small, texts[:40], 2048))
    own = empty_translators(small, (0, 2))
    training = LensTraining(small, own, rows, rows[:2], settings, None, 2.0**28, False)
    training.run()
    expected = [torch.zeros_like(parameter) for parameter in own.parameters()]
    velocity, clipped = [torch.zeros_like(each) for each in expected], 0
    for step in (1, 2, 3):
        draw = random.Random(f"0/{step}")
        batch = [draw.choice(rows) for _ in range(2)]
        probe = empty_translators(small, (0, 2))
        with torch.no_grad():
            for parameter, value in zip(probe.parameters(), expected, strict=True):
                parameter.copy_(value)
        other = LensTraining(small, probe, rows, rows, settings, None, 2.0**28, False)
        other._losses(other._states(batch), learn=True)
        gradients = [parameter.grad for parameter in probe.parameters()]
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        clipped += int(norm > 0.3)
        rate = 0.1 * (3 - step + 1) / 3
        for i, raw in enumerate(gradients):
            gradient = raw * min(1.0, 0.3 / (float(norm) + 1e-6)) + 0.02 * expected[i]
            velocity[i] = 0.9 * velocity[i] + gradient if step > 1 else gradient
            expected[i] = expected[i] - rate * (gradient + 0.9 * velocity[i])
    assert clipped > 0
    for parameter, value in zip(own.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.detach(), value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_a_training_that_was_stopped_goes_on_to_the_same_weights(small, texts, tmp_path, monkeypatch, optimiser):
    training, before = replace(SETTINGS, optimiser=optimiser), fingerprint(small)
    whole = train(small, texts, training=training)
    steps, step = [], translators.LensTraining._step

    def stopped(self, state):
        steps.append(state.step)
        if len(steps) == 6:
            raise KeyboardInterrupt
        step(self, state)

    monkeypatch.setattr(translators.LensTraining, "_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(small, texts, training=training, store=tmp_path / "run")
    assert fingerprint(small) == before and hooks_left(small) == [] and torch.is_grad_enabled()
    went_on = train(small, texts, training=training, store=tmp_path / "run")
    assert steps == [*range(6), *range(3, 9)]  # from the validation at step 3
    assert same(went_on, whole) and went_on.best_step == whole.best_step
    assert same(train(small, texts, training=training, store=tmp_path / "run"), whole) and len(steps) == 12  # nothing left to do
    with pytest.raises(DataError, match="other weight_decay"):
        train(small, texts, training=replace(training, weight_decay=0.5), store=tmp_path / "run")
    with pytest.raises(DataError, match="other texts"):
        train(small, texts[1:], training=training, store=tmp_path / "run")


def test_it_learns_and_is_read_through(small, texts, prompt, tmp_path):
    lens = train(small, texts, training=replace(SETTINGS, steps=60, validate_every=20))
    frame = lens.to_dataframe()
    assert lens.layers == (-1, 0, 1, 2) and (frame["gain"] > 0).all() and lens.best_step > 0
    rows = list(text_rows(small, texts[40:], 2048))
    zero = torch.zeros(16, 16, dtype=torch.float64), torch.zeros(16, dtype=torch.float64)
    assert frame["logit_lens_kl"].tolist()[1] == pytest.approx(float(by_hand(small, rows, 0, *zero)), abs=1e-10)
    tuned = lens.weights[1] - torch.eye(16, dtype=torch.float64), lens.biases[1]
    assert frame["kl"].tolist()[1] == pytest.approx(float(by_hand(small, rows, 0, *tuned)), abs=1e-10)
    kept = tlk.states.TunedLens.load(lens.save(tmp_path / "lens"))
    read, again = (tlk.logit_lens(small, prompt, through=each) for each in (lens, kept))
    assert read.lens == "tuned lens" and read.table.equals(again.table) and sorted(set(read.table["layer"])) == [-1, 0, 1, 2, 3]
    plain = tlk.logit_lens(small, prompt)
    assert read.table.query("layer == 3").reset_index(drop=True).equals(plain.table.query("layer == 3").reset_index(drop=True))
    _, cache = small.run_with_cache(prompt.tokens)
    moved = cache[state_hook(0)][0, 4] @ lens.weights[1] + lens.biases[1]
    with torch.no_grad():
        said = small.unembed(small.ln_final(moved[None, None]))[0, 0].softmax(-1)
    assert read.table.query("layer == 0 and pos == 4")["probability"].item() == pytest.approx(float(said[5]), abs=1e-12)
    scores = tlk.states.measure_decoding(small, prompt, into=prompt, lenses={"tuned lens": kept})
    assert dict(scores.table.groupby("by").size()) == {"Patchscope": 5, "logit lens": 5, "tuned lens": 5}


def test_another_model_is_refused(small, texts, prompt):
    lens, other = train(small, texts), build("bridge-gptneox")
    for ask in (tlk.logit_lens, tlk.states.decode_states):
        with pytest.raises(ModelStateError, match="this tuned lens was trained for other weights"):
            ask(other, prompt, through=lens, **({"into": prompt} if ask is not tlk.logit_lens else {}))


def test_what_is_not_finite_stops_it_and_the_last_good_state_stays(small, texts, tmp_path, monkeypatch):
    losses = translators.LensTraining._losses

    def broken(self, states, *, learn):
        found = losses(self, states, learn=learn)
        for parameter in self.translators.parameters():
            if parameter.grad is not None and len(calls) == 5:  # the fourth step, after two validations
                parameter.grad[0] = float("nan")
        calls.append(learn)
        return found

    calls: list[bool] = []
    before = fingerprint(small)
    monkeypatch.setattr(translators.LensTraining, "_losses", broken)
    with pytest.raises(NumericalError, match=r"norm of the gradient of the tuned lens is nan after step \d; the state of step 3 is kept"):
        train(small, texts, store=tmp_path / "run", training=replace(SETTINGS, batch_size=40))  # one batch a validation
    monkeypatch.setattr(translators.LensTraining, "_losses", losses)
    assert fingerprint(small) == before and hooks_left(small) == []
    assert same(
        train(small, texts, store=tmp_path / "run", training=replace(SETTINGS, batch_size=40)),
        train(small, texts, training=replace(SETTINGS, batch_size=40)),
    )


@pytest.mark.usefixtures("without_type_checks")
def test_bad_questions_are_refused(small, texts):
    for more, error, words in (
        ({"validation": texts[:5]}, InputError, "5 of 5 validation texts are in the corpus"),
        ({"validation": []}, DataError, "validation has no text of two tokens"),
        ({"layers": [1, 3]}, ComponentError, "layer 3 is the last"),
        ({"layers": 9}, ComponentError, "layer 9 is outside"),
    ):
        with pytest.raises(error, match=words):
            train(small, texts, **more)
    for wrong, words in (
        ({"optimiser": "sdg"}, "did you mean 'sgd'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"learning_rate": -1.0}, "learning_rate"),
    ):
        with pytest.raises(InputError, match=words):
            tlk.states.LensSettings(**wrong)
