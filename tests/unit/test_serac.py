"""SERAC's training: its loss, what it goes on from, what it refuses; and its memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support import bert_directory, tokenizer_of_sixty_words

import tl_knowledge as tlk
from tl_knowledge.editing import SERAC, SeracEdit, SeracSettings, TrainedSerac, train_serac
from tl_knowledge.editing.serac_training import Example, _Training
from tl_knowledge.errors import DataError, InputError, ModelStateError

CASES = [
    tlk.EditCase(
        tlk.Fact(f"w{i}", "w1 {} w4", " w20 w9"), f" w{i % 3 + 21} w8", (tlk.Fact(f"w{i}", "w2 {}", " w20"),), (tlk.Fact("w5", "w1 {}", " w22"),)
    )
    for i in range(30, 40)
]
SETTINGS = SeracSettings(steps=6, check_every=2, accumulate=1, batch_size=3, learning_rate=0.01, held_out=0.3, separator=" w41")


@pytest.fixture
def small(gpt2, monkeypatch):
    monkeypatch.setattr(gpt2, "tokenizer", tokenizer_of_sixty_words())
    return gpt2


def test_the_loss_is_the_obvious_one(speaking):
    training = _Training(speaking, SETTINGS, CASES[3:], CASES[:3], None)
    encoder, other = training.modules
    edits = [CASES[0].rewrite, CASES[1].rewrite]
    examples = [Example(edits[0], edits[0].rephrase("w2 {}"), "w1 w7"), Example(edits[1], edits[1], "w1 w39 w4")]
    answer, near, apart = [], [], []
    for example in examples:
        statement = f"{example.edit.text}{example.edit.target} w41 {example.inside.text}"
        answer.append([])
        for word in example.inside.target.split():
            tokens = torch.tensor([[int(each[1:]) for each in statement.split()]])
            answer[-1].append(-float(other(tokens)[0, -1].detach().log_softmax(-1)[int(word[1:])]))
            statement += f" {word}"
        texts = (example.edit.text, example.inside.text, example.outside)
        vectors = [encoder([torch.tensor([int(each[1:]) for each in text.split()])])[0].detach() for text in texts]
        alike = [float((-((vectors[0] - vector) ** 2).sum()).exp()) for vector in vectors[1:]]
        near.append(-torch.tensor(alike[0], dtype=torch.float64).log())
        apart.append(-(1 - torch.tensor(alike[1], dtype=torch.float64)).log())
    expected = 0.1 * sum(sum(each) / len(each) for each in answer) / 2 + float(sum(near) / 2 + sum(apart) / 2)
    assert float(training._loss(examples).detach()) == pytest.approx(expected, abs=1e-8)  # transformers' GPT-J turns positions in float32


def test_training_learns_and_leaves_the_model_alone(small):
    before = tlk.models.description.weight_fingerprint(small)
    trained = train_serac(small, CASES, replace(SETTINGS, steps=40, check_every=10), progress=False)
    assert trained.losses["step"].tolist() == [10, 20, 30, 40] and trained.losses["held_out"].min() < 0.8 * trained.losses["held_out"].iloc[0]
    assert tlk.models.description.weight_fingerprint(small) == before and trained.fingerprint == before


def test_a_training_that_was_killed_goes_on(small, tmp_path, monkeypatch):
    whole = train_serac(small, CASES, SETTINGS, progress=False)
    looks, kept = [], _Training._look

    def killed(self):
        kept(self)
        looks.append(self.step)
        if len(looks) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(_Training, "_look", killed)
        train_serac(small, CASES, SETTINGS, store=tmp_path / "run", progress=False)
    again = train_serac(small, CASES, SETTINGS, store=tmp_path / "run", progress=False)
    assert looks == [2, 4] and again == whole and again.losses.equals(whole.losses)
    assert train_serac(small, CASES, SETTINGS, store=tmp_path / "run", progress=False) == whole  # finished: read, not trained
    assert train_serac(small, CASES, replace(SETTINGS, seed=1), progress=False) != whole
    with pytest.raises(DataError, match="holds a run with other seed"):
        train_serac(small, CASES, replace(SETTINGS, seed=1), store=tmp_path / "run", progress=False)


def test_the_best_weights_are_kept_and_patience_ends(small):
    wild = replace(SETTINGS, steps=40, check_every=1, patience=3, learning_rate=3.0)
    trained = train_serac(small, CASES, wild, progress=False)
    losses = trained.losses["held_out"]
    best = int(losses.argmin())
    assert len(losses) < 40 and best == len(losses) - 1 - wild.patience
    training = _Training(small, replace(wild, steps=best + 1), CASES, CASES, None)
    assert set(training.best) == set(trained.weights)
    short = train_serac(small, CASES, replace(wild, steps=best + 1), progress=False)
    assert short.content == trained.content


def test_a_trained_file_comes_back(small, tmp_path):
    trained = train_serac(small, CASES, SETTINGS, progress=False)
    loaded = TrainedSerac.load(trained.save(tmp_path / "serac"))
    assert loaded == trained and loaded.losses.equals(trained.losses)
    fact = tlk.Fact("w12", "w1 {} w4", " w9")
    edits = [tlk.plan_edit(small, fact, SERAC(each)) for each in (trained, loaded)]
    assert edits[0].digest() == edits[1].digest() and torch.equal(edits[0].vectors, edits[1].vectors)
    with pytest.raises(InputError, match=r"was trained on the fact 'w31 w4'|SERAC was trained on the fact 'w1 w31 w4'"):
        tlk.plan_edit(small, CASES[1].rewrite, SERAC(loaded))
    with pytest.raises(InputError, match="SERAC was trained on the fact 'w1 w30 w4'"):
        tlk.evaluate(small, CASES[:1], SERAC(loaded), progress=False)
    only_settings = TrainedSerac(trained.settings, trained.fingerprint, trained.content)
    with pytest.raises(InputError, match=r"load them with TrainedSerac.load\(path\)"):
        tlk.plan_edit(small, fact, SERAC(only_settings))


def test_the_most_similar_edit_answers(small):
    trained = train_serac(small, CASES, SETTINGS, progress=False)
    facts = [tlk.Fact(f"w{i}", "w1 {} w4", f" w{i + 1}") for i in (10, 13, 16)]
    together = tlk.plan_edit(small, facts, SERAC(trained, least=0.0))
    apart = [tlk.plan_edit(small, fact, SERAC(trained, least=0.0)) for fact in facts]
    prompts = [tlk.Prompt.from_text(small, text) for text in ("w1 w10 w4", "w1 w16 w4", "w2 w13", "w1 w13 w4")]
    vectors = [together.vectors @ together.vectors.T]
    assert vectors[0].shape == (3, 3)
    for prompt in prompts:
        read = together.reads(small, prompt.tokens[0])
        distances = ((together.vectors - _encode(small, together, prompt.tokens[0])) ** 2).sum(-1)
        assert tuple(read.context.tolist()) == together.contexts[int(distances.argmin())]
        with together.applied(small):
            expected = small(prompt.tokens)
        for edit in reversed(apart):
            edit.write_into(small)
        assert torch.equal(small(prompt.tokens), expected)
        for edit in apart:
            edit.revert(small)


def _encode(model, edit, row):
    from tl_knowledge.editing.serac_weights import modules_of

    return modules_of(model, edit.training, edit.content, edit.weights)[0]([row])[0]


def test_what_does_not_fit_is_refused(small, tmp_path):
    trained = train_serac(small, CASES, SETTINGS, progress=False)
    facts = [tlk.Fact(f"w{i}", "w1 {} w4", " w9") for i in (10, 13)]
    with pytest.raises(InputError, match="2 facts are more than the memory of most_edits=1"):
        tlk.plan_edit(small, facts, SERAC(trained, most_edits=1))
    first, second = (tlk.plan_edit(small, fact, SERAC(trained, most_edits=1)) for fact in facts)
    with first.applied(small), pytest.raises(ModelStateError, match="the memory is full: 1 edits are in it"):
        second.write_into(small)
    with first.applied(small), pytest.raises(ModelStateError, match="edits are in the model"):
        train_serac(small, CASES, SETTINGS, progress=False)
    with pytest.raises(DataError, match="one case cannot be both trained on and held out"):
        train_serac(small, CASES[:1], SETTINGS, progress=False)
    with pytest.raises(InputError, match="there is no text encoder"):
        train_serac(small, CASES, replace(SETTINGS, scope=str(tmp_path / "nothing")), progress=False)
    for wrong in ({"steps": 0}, {"learning_rate": 0.0}, {"held_out": 1.0}):
        with pytest.raises(InputError, match=r"SeracSettings\("):
            replace(SETTINGS, **wrong)
    with pytest.raises(InputError, match="is no memory"):
        SERAC(trained, least=1.0)


def test_another_model_is_refused(small, factlm):
    trained = train_serac(small, CASES, SETTINGS, progress=False)
    with pytest.raises(ModelStateError, match="this SERAC was trained for other weights"):
        tlk.plan_edit(factlm, tlk.load_edit_cases()[0].rewrite, SERAC(trained))
    with pytest.raises(InputError, match="'factlm' has other tokens than"):
        train_serac(small, CASES, replace(SETTINGS, counterfactual="factlm"), progress=False)


def test_a_text_encoder_can_be_the_scope(factlm, tmp_path):
    cases = tlk.load_edit_cases()
    settings = replace(SETTINGS, scope=str(bert_directory(tmp_path)), counterfactual="factlm", separator=".\n", steps=2, learning_rate=1e-4)
    trained = train_serac(factlm, cases[10:14], settings, progress=False)
    edit = tlk.plan_edit(factlm, cases[0].rewrite, SERAC(trained))
    assert isinstance(edit, SeracEdit) and edit.vectors.shape == (1, 16)
    prompt = tlk.Prompt.from_fact(factlm, cases[0].rewrite)
    read = edit.reads(factlm, prompt.tokens[0])
    assert read.model is not factlm and read.strength == pytest.approx(1, abs=1e-5)
    assert edit.text_read(factlm, prompt).endswith(" Germany.\nA Very Private Affair was created in the country of")
