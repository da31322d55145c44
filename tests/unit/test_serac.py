"""SERAC's training: its loss, and what is drawn for it; what the file refuses; and its memory."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from support import bert_directory, fingerprint, tokenizer_of_sixty_words
from support.edits import TEXTS

import tl_knowledge as tlk
from tl_knowledge.editing import SERAC, SeracEdit, TrainingSettings
from tl_knowledge.editing.serac_network import network_of
from tl_knowledge.editing.serac_training import ScopeData, serac_outcome
from tl_knowledge.editing.training.outcome import Sample
from tl_knowledge.errors import DataError, InputError, ModelStateError, PromptError

CASES = [
    tlk.EditCase(
        tlk.Fact(f"w{i}", "w1 {} w4", " w20 w9"), f" w{i % 3 + 21} w8", (tlk.Fact(f"w{i}", "w2 {}", " w20"),), (tlk.Fact("w5", "w1 {}", " w22"),)
    )
    for i in range(30, 40)
]
SETTINGS = TrainingSettings(steps=6, learning_rate=0.01, batch_size=3, accumulate=1, validate_every=2, validation_samples=3)
UNTRAINED = SERAC(training=SETTINGS, separator=" w41")


@pytest.fixture
def small(gpt2, monkeypatch):
    monkeypatch.setattr(gpt2, "tokenizer", tokenizer_of_sixty_words())
    return gpt2


def train(model, method=UNTRAINED, **training):
    method = replace(method, training=replace(method.training, **training))
    return method.train(model, CASES[3:], TEXTS, validation=CASES[:3], progress=False)


def sample_of(model, edit, asked, text):
    return Sample(tlk.Prompt.from_fact(model, edit), tlk.Prompt.from_fact(model, asked), tlk.Prompt.from_text(model, text).tokens)


def test_the_loss_is_the_obvious_one(speaking):
    network = UNTRAINED.network(speaking)
    encoder, other = network.scope, network.counterfactual
    edits = [CASES[0].rewrite, CASES[1].rewrite]
    examples = [(edits[0], edits[0].rephrase("w2 {}"), "w1 w7"), (edits[1], edits[1], "w1 w39 w4")]
    answer, near, apart, said = [], [], [], []
    for edit, inside, outside in examples:
        statement = f"{edit.text}{edit.target} w41 {inside.text}"
        answer.append([])
        likeliest = True
        for word in inside.target.split():
            tokens = torch.tensor([[int(each[1:]) for each in statement.split()]])
            log_p = other(tokens)[0, -1].detach().log_softmax(-1)
            answer[-1].append(-float(log_p[int(word[1:])]))
            likeliest &= int(log_p.argmax()) == int(word[1:])
            statement += f" {word}"
        vectors = [encoder([torch.tensor([int(each[1:]) for each in text.split()])])[0].detach() for text in (edit.text, inside.text, outside)]
        alike = [float((-((vectors[0] - vector) ** 2).sum()).exp()) for vector in vectors[1:]]
        near.append(-torch.tensor(alike[0], dtype=torch.float64).log())
        apart.append(-(1 - torch.tensor(alike[1], dtype=torch.float64)).log())
        said.append(likeliest and alike[0] > 0.5)
    outcome = UNTRAINED._outcome(speaking, network, [sample_of(speaking, *example) for example in examples], learn=False)
    assert float(outcome.edit_loss) == pytest.approx(sum(sum(each) / len(each) for each in answer) / 2, abs=1e-7)  # GPT-J turns positions in float32
    assert float(outcome.kl) == pytest.approx(float(sum(near) / 2 + sum(apart) / 2), abs=1e-8)
    assert outcome.success == sum(said) / 2 and outcome.count == 2 and not outcome.edit_loss.requires_grad


def test_a_success_is_in_scope_and_said(small):
    network = UNTRAINED.network(small)
    fact = CASES[0].rewrite
    statement = torch.tensor([[int(each[1:]) for each in f"{fact.text} w9 w41 {fact.text}".split()]])
    edit = fact.retarget(" w9")
    said = int(network.counterfactual(statement)[0, -1].argmax())
    asked = fact.retarget(f" w{said}")
    first = Sample(tlk.Prompt.from_fact(small, edit), tlk.Prompt.from_fact(small, asked), small.W_E.new_tensor([[1, 2]]).long())
    far = replace(first, asked=tlk.Prompt.from_fact(small, asked.rephrase("w2 w44 w45 {} w46 w47 w48")))
    scope = lambda least, *samples: serac_outcome(small, network.scope, network.counterfactual, samples, " w41", least).success  # noqa: E731
    assert scope(0.5, first) == 1.0
    far_said = int(network.counterfactual(torch.cat([statement[:, :5], far.asked.tokens], dim=1))[0, -1].argmax())
    far = replace(far, asked=replace(far.asked, answer=(far_said,)))
    assert scope(0.0, far) == 1.0 and scope(0.999999, far) == 0.0 and scope(0.999999, first, far) == 0.5


def test_what_is_out_of_scope_is_drawn_of_all_kinds(small):
    data = ScopeData.checked(small, CASES[3:], CASES[:3], TEXTS, SETTINGS)
    drawn = [small.tokenizer.decode(data.apart_from(CASES[4], random.Random(i))[0]) for i in range(800)]
    texts, near = {text: drawn.count(text) for text in TEXTS}, drawn.count("w1 w5")
    assert 20 < sum(texts.values()) < 60 and all(texts.values()) and 320 < near < 440
    others = {text for text in drawn if text not in texts} - {"w1 w5"}
    assert others == {f"w1 w{i} w4" for i in range(33, 40) if i != 34}  # never of its own fact
    alone = ScopeData.checked(small, [replace(CASES[4], neighbourhood=())], CASES[:3], TEXTS, SETTINGS)
    assert {small.tokenizer.decode(alone.apart_from(alone.cases[0], random.Random(i))[0]) for i in range(40)} == set(TEXTS)


def test_training_learns_and_leaves_the_model_alone(small):
    before = fingerprint(small)
    trained = train(small, steps=40, validate_every=10).trained
    losses = trained.curve.table[trained.curve.table["split"] == "validation"]["loss"].tolist()
    assert len(losses) == 4 and min(losses) < 0.8 * losses[0] and trained.curve.best["loss"] == min(losses)
    assert fingerprint(small) == before and trained.fingerprint == before


def test_nothing_is_learnt_from_a_validation(small):
    """A batch that is cut off at the validation's end counts for as many cases as it has."""
    held = [row for row in train(small, batch_size=2).trained.curve.table.to_dict("records") if row["split"] == "validation"]
    assert all(row["success"] in (0.0, 1 / 3, 2 / 3, 1.0) for row in held)
    data, network = ScopeData.checked(small, CASES[3:], CASES[:3], TEXTS, replace(SETTINGS, batch_size=2)), UNTRAINED.network(small)
    assert [len(batch) for batch in data.validations()] == [2, 1]
    before = {name: each.clone() for name, each in network.state_dict().items()}
    for batch in data.validations():
        assert UNTRAINED._outcome(small, network, batch, learn=False).count == len(batch)
    assert all(torch.equal(each, before[name]) for name, each in network.state_dict().items())


def test_a_trained_file_comes_back(small, tmp_path):
    trained = train(small)
    loaded = SERAC.load(trained.save(tmp_path / "serac"))
    assert loaded == trained and loaded.trained.curve.table.equals(trained.trained.curve.table)
    fact = tlk.Fact("w12", "w1 {} w4", " w9")
    edits = [tlk.plan_edit(small, fact, each) for each in (trained, loaded)]
    assert edits[0].digest() == edits[1].digest() and torch.equal(edits[0].vectors, edits[1].vectors)
    with pytest.raises(InputError, match=r"1 of 1 cases are of facts .* that this SERAC was trained or validated on"):
        tlk.evaluate(small, CASES[4:5], loaded, progress=False)
    with pytest.raises(InputError, match="trained with other separator than these settings have"):
        replace(loaded, separator=" w42")
    assert replace(loaded, least=0.25, most_edits=3).trained is loaded.trained  # these two are not trained
    with pytest.raises(DataError, match="holds a trained SERAC, not a MEND"):
        tlk.editing.MEND.load(tmp_path / "serac.safetensors")


def test_the_most_similar_edit_answers(small):
    trained = replace(train(small), least=0.0)
    facts = [tlk.Fact(f"w{i}", "w1 {} w4", f" w{i + 1}") for i in (10, 13, 16)]
    together = tlk.plan_edit(small, facts, trained)
    apart = [tlk.plan_edit(small, fact, trained) for fact in facts]
    prompts = [tlk.Prompt.from_text(small, text) for text in ("w1 w10 w4", "w1 w16 w4", "w2 w13", "w1 w13 w4")]
    vectors = [together.vectors @ together.vectors.T]
    assert vectors[0].shape == (3, 3)
    for prompt in prompts:
        read = together.reads(small, prompt.tokens[0])
        network = network_of(small, together.scope, together.counterfactual, together.content, together.weights)
        distances = ((together.vectors - network.scope([prompt.tokens[0]])[0]) ** 2).sum(-1)
        assert tuple(read.context.tolist()) == together.contexts[int(distances.argmin())]
        with together.applied(small):
            expected = small(prompt.tokens)
        for edit in reversed(apart):
            edit.write_into(small)
        assert torch.equal(small(prompt.tokens), expected)
        for edit in apart:
            edit.revert(small)


def test_what_does_not_fit_is_refused(small, tmp_path):
    trained = train(small)
    facts = [tlk.Fact(f"w{i}", "w1 {} w4", " w9") for i in (10, 13)]
    with pytest.raises(InputError, match="2 facts are more than the memory of most_edits=1"):
        tlk.plan_edit(small, facts, replace(trained, most_edits=1))
    first, second = (tlk.plan_edit(small, fact, replace(trained, most_edits=1)) for fact in facts)
    with first.applied(small), pytest.raises(ModelStateError, match="the memory is full: it holds 1 edit, and 1 more"):
        second.write_into(small)
    with first.applied(small), pytest.raises(ModelStateError, match=r"edits are written into this model|a copy would keep it, too"):
        train(small)
    with pytest.raises(InputError, match="there is no text encoder"):
        train(small, replace(UNTRAINED, scope=str(tmp_path / "nothing")))
    with pytest.raises(PromptError, match=r"an edit, a question about it and its answer have .* tokens"):
        train(small, replace(UNTRAINED, separator=" w41" * 200))


def test_another_model_is_refused(small, factlm):
    trained = train(small)
    with pytest.raises(ModelStateError, match="this SERAC was trained for other weights"):
        tlk.plan_edit(factlm, tlk.load_edit_cases()[0].rewrite, trained)
    with pytest.raises(InputError, match="'factlm' has other tokens than"):
        train(small, replace(UNTRAINED, counterfactual="factlm"))


def test_a_text_encoder_can_be_the_scope(factlm, tmp_path):
    cases = tlk.load_edit_cases()
    training = replace(SETTINGS, steps=2, learning_rate=1e-4)
    serac = SERAC(scope=str(bert_directory(tmp_path)), counterfactual="factlm", training=training)
    trained = serac.train(factlm, cases[10:14], tlk.load_corpus()[:3], validation=cases[14:16], progress=False)
    edit = tlk.plan_edit(factlm, cases[0].rewrite, trained)
    assert isinstance(edit, SeracEdit) and edit.vectors.shape == (1, 16)
    prompt = tlk.Prompt.from_fact(factlm, cases[0].rewrite)
    read = edit.reads(factlm, prompt.tokens[0])
    assert read.model is not factlm and read.strength == pytest.approx(1, abs=1e-5)
    assert edit.text_read(factlm, prompt).endswith(" Germany.\nA Very Private Affair was created in the country of")


def test_the_counterfactual_model_is_no_copy_of_somebodys_hooks(small):
    with (
        small.hooks(fwd_hooks=[("blocks.0.hook_attn_out", lambda activation, *, hook: activation * 0)]),
        pytest.raises(ModelStateError, match="a copy would keep it"),
    ):
        UNTRAINED.network(small)
    assert UNTRAINED.network(small).counterfactual is not small
