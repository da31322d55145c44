"""One contract for every edit that changes what is read, on every architecture: equal to the obvious loop, refused where it would not be, and gone
without a trace when it is taken off."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import get_type_hints

import pytest
import torch
from support import fingerprint, hooks_left, tokenizer_of_sixty_words
from support.edits import ready

import tl_knowledge as tlk
from tl_knowledge.editing import METHODS, Demonstrations, RereadEdit, method_class
from tl_knowledge.errors import InputError, ModelStateError, PromptError, UnsupportedModelError
from tl_knowledge.evaluation.scores import case_scores, read_candidates
from tl_knowledge.models import reread
from tl_knowledge.models.reread import Read

FACT = tlk.Fact("w3 w9", "w1 {} w4 w8", " w7 w11", paraphrases=("w2 {} w4",)).retarget(" w9 w2")
OTHER = tlk.Fact("w5", "w1 {} w4 w8", " w7").retarget(" w30")
CASE = tlk.EditCase(FACT, " w12", (FACT.rephrase("w2 {} w4"),), (tlk.Fact("w5", "w1 {} w4 w8", " w7"), tlk.Fact("w6", "w1 {} w4 w8 w9", " w7")))
GREEDY = {"max_new_tokens": 5, "do_sample": False, "stop_at_eos": False, "return_type": "tokens", "verbose": False}
READ = [name for name in METHODS if issubclass(get_type_hints(method_class(name).plan)["return"], RereadEdit)]
POOL = [
    tlk.EditCase(tlk.Fact(f"w{i}", "w1 {} w4", " w20"), " w21", (tlk.Fact(f"w{i}", "w2 {}", " w20"),), (tlk.Fact(f"w{i + 1}", "w1 {}", " w22"),))
    for i in range(30, 40)
]


def tokens_read(model, edit, row):
    """What stands in a row's place, spelled out; models of these tests have no BOS."""
    read = edit.reads(model, row)
    assert model.tokenizer.bos_token_id is None
    own = row.tolist() if read.first is None else [read.first, *row[1:].tolist()]
    return read.model, torch.tensor([read.context.tolist() + own])


def slow_logits(model, edit, row):
    """The row's own logits, by one plain forward of all that is read; the edit is not on the model."""
    reader, tokens = tokens_read(model, edit, row)
    with torch.no_grad():
        return reader(tokens)[0, -len(row) :]


def method_of(model, name):
    """A method that plans in a moment on a random model."""
    if name != "serac":
        return method_class(name).small()
    return ready(replace(tlk.editing.SERAC.small(), separator=" w41", least=0.999), model)


@pytest.fixture
def edit(speaking, request):
    return tlk.plan_edit(speaking, FACT, method_of(speaking, request.param))


each = pytest.mark.parametrize("edit", READ, indirect=True)


@each
def test_calls_of_the_model_equal_the_obvious_loop(speaking, edit, tmp_path):
    before, attributes = fingerprint(speaking), set(vars(speaking))
    prompt = tlk.Prompt.from_fact(speaking, FACT)
    plain, expected = speaking(prompt.tokens).detach(), slow_logits(speaking, edit, prompt.tokens[0])
    assert float((plain[0] - expected).abs().max()) > 1e-6
    with edit.applied(speaking):
        called, hooked, flat = speaking(prompt.tokens), speaking.run_with_hooks(prompt.tokens), speaking(prompt.tokens[0])
        loss = speaking(prompt.tokens, return_type="loss")
        texts = [speaking(prompt.text)] if hasattr(speaking, "original_model") else []  # the other class' fixture cannot tokenise
        assert fingerprint(speaking) != before
    for logits in (called, hooked, flat, *texts):
        torch.testing.assert_close(logits[0], expected, rtol=0, atol=1e-12)
    own = expected[:-1].log_softmax(-1).gather(-1, prompt.tokens[0, 1:, None])
    torch.testing.assert_close(loss, -own.mean(), rtol=1e-6, atol=1e-6)  # TransformerLens' loss is in float32
    assert torch.equal(speaking(prompt.tokens), plain) and fingerprint(speaking) == before
    assert set(vars(speaking)) == attributes and hooks_left(speaking) == []
    loaded = type(edit).load(edit.save(tmp_path / "edit"))
    assert (loaded.method, loaded.settings, loaded.fingerprint, loaded.digest()) == (edit.method, edit.settings, edit.fingerprint, edit.digest())
    with loaded.applied(speaking):
        assert torch.equal(speaking(prompt.tokens), called)
    assert edit.method in repr(edit) and len(edit.top(1)) == 1 and edit.plot().data and edit.facts_written == 1


@each
@pytest.mark.parametrize("cached", [True, False])
def test_generation_equals_the_obvious_loop(speaking, edit, cached):
    prompt = tlk.Prompt.from_fact(speaking, FACT)
    reader, slow = tokens_read(speaking, edit, prompt.tokens[0])
    for _ in range(5):
        slow = torch.cat([slow, reader(slow)[:, -1].argmax(-1, keepdim=True)], dim=1)
    with edit.applied(speaking):
        generated = speaking.generate(prompt.batch(2), use_past_kv_cache=cached, **GREEDY)
    assert generated.tolist() == [prompt.tokens[0].tolist() + slow[0, -5:].tolist()] * 2


@each
def test_answers_are_read_behind_the_prompt(speaking, edit):
    prompt = tlk.Prompt.from_fact(speaking, FACT)
    answers = [prompt.answer, (4,), (6, 7, 8)]
    expected = []
    for answer in answers:
        reader, tokens = tokens_read(speaking, edit, prompt.tokens[0])
        whole = torch.cat([tokens, torch.tensor([answer[:-1]], dtype=torch.long)], dim=1)
        logits = reader(whole)[0, -len(answer) :].detach().log_softmax(-1)
        expected.append((-logits.gather(-1, torch.tensor(answer)[:, None]).mean().item(), tuple(logits.argmax(-1).tolist())))
    with edit.applied(speaking):
        found = tlk.evaluation.read_answers(speaking, [(prompt, answer) for answer in answers])
    for answer, (nll, predicted) in zip(found, expected, strict=True):
        assert answer.nll == pytest.approx(nll, abs=1e-12) and answer.predicted == predicted


@each
def test_what_cannot_be_exact_is_refused(speaking, edit):
    prompt = tlk.Prompt.from_fact(speaking, FACT)
    before, hook = speaking(prompt.tokens), ("blocks.1.hook_mlp_out", lambda activation, *, hook: None)
    with pytest.raises(InputError, match=r"has no hooks; use `with edit.applied\(model\):`"):
        edit.hooks()
    edit.write_into(speaking)
    with pytest.raises(ModelStateError, match=r"a hook is on .* while an edit that changes what is read is on"):
        speaking.run_with_hooks(prompt.tokens, fwd_hooks=[hook])
    with pytest.raises(ModelStateError, match="a hook is on"):
        speaking.run_with_cache(prompt.tokens)
    with pytest.raises(ModelStateError, match="a hook is on"), speaking.hooks(fwd_hooks=[hook]):
        tlk.evaluation.read_answers(speaking, [(prompt, (4,))])
    with pytest.raises(ModelStateError, match=r"a hook at 'blocks.1.hook_mlp_out' was given"):
        tlk.evaluation.read_answers(speaking, [(prompt, (4,))], hooks=[hook])
    with pytest.raises(ModelStateError, match="cannot take stop_at_layer= meanwhile"):
        speaking(prompt.tokens, stop_at_layer=2)
    with pytest.raises(ModelStateError, match="cannot take attention_mask="):
        speaking(prompt.tokens, attention_mask=torch.ones_like(prompt.tokens))
    with pytest.raises(InputError, match="return_type 'both' is not there"):
        speaking(prompt.tokens, return_type="both")
    with pytest.raises(ModelStateError, match="positions and activations would be those of another text"):
        tlk.trace(speaking, prompt, 0.1, progress=False)
    with pytest.raises(ModelStateError, match=r"positions (and activations )?would be"):
        tlk.plan_edit(speaking, OTHER, tlk.FineTune(layer=1, steps=1))
    with pytest.raises(ModelStateError, match="cannot be copied or pickled"):
        copy.deepcopy(speaking.forward)  # as copying the model does
    if hasattr(speaking, "original_model"):
        with pytest.raises(InputError, match="texts of different lengths would be padded"):
            speaking(["w1 w2", "w1"])
        with pytest.raises(ModelStateError, match=r"hf_generate\(\) does not know of the edit"):
            speaking.hf_generate(prompt.tokens)
    with pytest.raises(ModelStateError, match="already on the model"):
        edit.write_into(speaking)
    edit.revert(speaking)
    with pytest.raises(ModelStateError, match="not on this model"):
        edit.revert(speaking)
    assert torch.equal(speaking(prompt.tokens), before) and hooks_left(speaking) == []


@each
def test_nothing_stays_after_an_interrupt(speaking, edit, monkeypatch):
    prompt = tlk.Prompt.from_fact(speaking, FACT)
    before, attributes = speaking(prompt.tokens), set(vars(speaking))
    with pytest.raises(KeyboardInterrupt), edit.applied(speaking):
        raise KeyboardInterrupt
    assert set(vars(speaking)) == attributes

    def interrupted(model):
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr("tl_knowledge.editing.reread.match_readers", interrupted)
    with pytest.raises(KeyboardInterrupt):
        edit.write_into(speaking)
    assert not edit.is_written_into(speaking) and set(vars(speaking)) == attributes

    def stops(*args):
        raise KeyboardInterrupt

    edit.write_into(speaking)
    ours = vars(speaking)["forward"]
    vars(speaking)["forward"] = stops
    with pytest.raises(ModelStateError, match=r"forward\(\) was replaced by something else since"):
        edit.revert(speaking)
    vars(speaking)["forward"] = ours
    edit.revert(speaking)
    assert set(vars(speaking)) == attributes

    with edit.applied(speaking), monkeypatch.context() as patch:
        patch.setattr(reread, "_check_length", stops)  # in the middle of a call, after rows have been read
        with pytest.raises(KeyboardInterrupt):
            speaking(prompt.tokens)
        assert reread.has_readers(speaking)
    assert torch.equal(speaking(prompt.tokens), before)


@each
def test_edits_stack_and_leave_in_any_order(speaking, edit):
    prompt = tlk.Prompt.from_fact(speaking, FACT)
    other, weights = tlk.plan_edit(speaking, FACT, tlk.editing.IKE(k=0, prompt_words="w40")), tlk.plan_edit(speaking, OTHER, tlk.FineTune.small())
    plain = speaking(prompt.tokens)
    with edit.applied(speaking):
        alone = speaking(prompt.tokens)
    edit.write_into(speaking)
    weights.write_into(speaking)
    other.write_into(speaking)
    both, first = speaking(prompt.tokens), edit.reads(speaking, prompt.tokens[0])
    if first.model is speaking:
        assert float((both - alone).detach().abs().max()) > 1e-6
    else:
        assert torch.equal(both, alone)  # another model answers, which reads its own edit alone
    edit.revert(speaking)
    weights.revert(speaking)
    last = speaking(prompt.tokens)
    torch.testing.assert_close(last[0], slow_logits_of(speaking, other, prompt), rtol=0, atol=1e-12)
    other.revert(speaking)
    assert torch.equal(speaking(prompt.tokens), plain)
    if first.model is speaking:
        contexts = [*first.context.tolist(), *other.context.tolist()]
        with weights.applied(speaking):
            tokens = torch.tensor([contexts + prompt.tokens[0].tolist()])
            torch.testing.assert_close(both, speaking(tokens)[:, len(contexts) :], rtol=0, atol=1e-12)


def slow_logits_of(model, edit, prompt):
    """`slow_logits` of an edit that is on the model."""
    with reread.as_it_is(model):
        return slow_logits(model, edit, prompt.tokens[0])


@pytest.mark.parametrize("edit", ["ike"], indirect=True)
def test_rows_that_nothing_stands_before_are_the_base_models_bit_for_bit(speaking, edit):
    rows = torch.randint(0, 57, (5, 6), generator=torch.Generator().manual_seed(0))
    rows[:, 0] = torch.tensor([1, 2, 1, 2, 2])
    inside = [i for i in range(5) if rows[i, 0] == 1]

    class Half(type(edit)):
        """The edit, for rows that begin with token 1."""

        def reads(self, model, tokens):
            return super().reads(model, tokens) if int(tokens[0]) == 1 else Read(model, self.context[:0])

    half = Half(*(getattr(edit, name) for name in ("context", "spaced", "statements", "method", "settings", "fingerprint", "notes", "provenance")))
    plain, written = speaking(rows), speaking.generate(rows[3:], **GREEDY)
    expected = {i: slow_logits(speaking, edit, rows[i]) for i in inside}
    with half.applied(speaking):
        found, both = speaking(rows), speaking.generate(rows[2:4], **GREEDY)
        assert torch.equal(speaking.generate(rows[3:], **GREEDY), written)
    for i in range(5):
        if i in inside:
            torch.testing.assert_close(found[i], expected[i], rtol=0, atol=1e-12)
        else:
            assert torch.equal(found[i], plain[i])
    assert torch.equal(both[1], written[0]) and both.shape == (2, 11)


@pytest.fixture
def small(gpt2, monkeypatch):
    """One architecture that can speak."""
    monkeypatch.setattr(gpt2, "tokenizer", tokenizer_of_sixty_words())
    return gpt2


@pytest.mark.parametrize("name", [*READ, "serac"])
def test_every_measure_goes_through_it(small, name):
    model, case = small, replace(CASE, generation=("w3 w9",))
    method = tlk.editing.IKE(k=1, pool=Demonstrations.from_cases(POOL), fact_words="", prompt_words="w50 ")
    if name == "serac":
        method = method_of(model, "serac")
    measures = [tlk.evaluation.GenerationScores(length=5), tlk.evaluation.EssenceDrift({FACT.subject: ["w3 w9 w4 w5"]})]
    report = tlk.evaluate(model, [case], method, measures=measures, progress=False)
    with tlk.plan_edit(model, case.rewrite, method).applied(model):
        inside = read_candidates(model, case)
        texts, essence = measures[0].read(model, case).texts, measures[1].read(model, case)
    scores = case_scores({}, inside)
    assert report.table["EM"].tolist() == [scores["EM"]] and report.table["base_EM"].tolist() != [scores["EM"]]
    assert [str(text) for text in texts] in [list(row) for column in report.table.columns if "texts" in column for row in report.table[column]]
    assert report.table["essence"].tolist() == [essence]
    growth = tlk.evaluation.measure_growth(model, [case], {"it": method}, [1], progress=False)
    assert growth.summary()["ES"].tolist() == report.table["ES"].tolist()
    assert not {"forward", "generate"} & set(vars(model))


def test_a_masked_model_is_refused(masked_model, small):
    edit = tlk.plan_edit(small, FACT, tlk.editing.IKE(k=0))
    with pytest.raises(UnsupportedModelError, match="fills masks"):
        edit.write_into(masked_model)


def test_a_context_that_is_too_long_is_refused(factlm):
    cases = tlk.load_edit_cases()
    method = tlk.editing.IKE(k=16, pool=Demonstrations.from_cases(cases[100:]))
    with pytest.raises(PromptError, match=r"IKE\(k=16\) reads \d+ tokens before the prompt .*the model's context is 128: pass a smaller k"):
        tlk.plan_edit(factlm, cases[0].rewrite, method)
    edit = tlk.plan_edit(factlm, cases[0].rewrite, replace(method, k=2))
    with edit.applied(factlm):
        with pytest.raises(PromptError, match=r"tokens that the edit puts before it the prompt has \d+ tokens; the context of factlm is 128: fewer"):
            factlm(factlm.to_tokens("The " * 60))
        with pytest.raises(PromptError, match="and 100 to be written"):
            factlm.generate("The", max_new_tokens=100, verbose=False)
