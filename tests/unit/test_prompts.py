"""Spans: exactly the tokens of the subject, whatever the tokenizer does to it."""

from __future__ import annotations

import warnings

import pytest
import torch

import tl_knowledge as tlk
from tl_knowledge.errors import MissingSpaceWarning, PromptError, SubjectNotFoundError, TargetError
from tl_knowledge.prompts.spans import template_of


def text_of(prompt: tlk.Prompt, span: str) -> str:
    return "".join(dict.fromkeys(prompt.labels[p] for p in prompt.span(span)))


@pytest.mark.parametrize("bos", [True, False])
def test_spans_of_a_fact(factlm, bos):
    prompt = tlk.Prompt.from_fact(factlm, tlk.Fact("Steve Jobs", "{} works for", " Apple"), prepend_bos=bos)
    assert "".join(prompt.labels[p] for p in prompt.subject) == "Steve Jobs"
    assert "".join(prompt.labels[p] for p in prompt.relation) == " works for"
    assert prompt.has_bos is bos
    assert (int(prompt.tokens[0, 0]) == factlm.tokenizer.bos_token_id) is bos
    assert prompt.subject.first == int(bos)
    assert prompt.last.positions == (len(prompt) - 1,)
    assert set(prompt.subject) | set(prompt.relation) == set(range(int(bos), len(prompt)))


def test_tokens_equal_transformer_lens(factlm):
    prompt = tlk.Prompt.from_text(factlm, "The capital of France is", subject="France")
    torch.testing.assert_close(prompt.tokens, factlm.to_tokens("The capital of France is"))


def test_leading_space_belongs_to_the_subject(factlm):
    prompt = tlk.Prompt.from_text(factlm, "The capital of France is", subject="France")
    assert text_of(prompt, "subject").strip() == "France"
    with_space = tlk.Prompt.from_text(factlm, "The capital of France is", subject=" France")
    assert with_space.subject.positions == prompt.subject.positions


def test_repeated_subject(factlm):
    text = "Paris is Paris"
    every = tlk.Prompt.from_text(factlm, text, subject="Paris")
    first = tlk.Prompt.from_text(factlm, text, subject="Paris", occurrence=0)
    last = tlk.Prompt.from_text(factlm, text, subject="Paris", occurrence=-1)
    assert set(every.subject) == set(first.subject) | set(last.subject)
    assert first.subject.last < last.subject.first
    with pytest.raises(SubjectNotFoundError, match=r"occurs 2 times.*occurrence 2 does not exist"):
        tlk.Prompt.from_text(factlm, text, subject="Paris", occurrence=2)


def test_the_templates_place_wins_over_a_repeated_subject(factlm):
    prompt = tlk.Prompt.from_fact(factlm, tlk.Fact("Paris", "Unlike Paris, {} is in", " France"))
    assert prompt.subject.first > 3
    assert text_of(prompt, "subject").strip() == "Paris"


def test_template_with_two_places(factlm):
    prompt = tlk.Prompt.from_fact(factlm, tlk.Fact("Paris", "{} and {} again in", " France"))
    assert "".join(prompt.labels[p] for p in prompt.subject) == "Paris Paris"
    assert "".join(prompt.labels[p] for p in prompt.relation) == " and again in"


def test_subject_inside_a_word_is_refused(factlm):
    with pytest.raises(SubjectNotFoundError, match=r"subject 'apita' does not align with the tokens \[' capital'\].*pass subject_span"):
        tlk.Prompt.from_text(factlm, "The capital of France is", subject="apita")
    prompt = tlk.Prompt.from_text(factlm, "The capital of France is", subject_span=(2, 3))
    assert text_of(prompt, "subject") == " capital"


def test_subject_before_an_apostrophe(factlm):
    prompt = tlk.Prompt.from_text(factlm, "France's capital city is", subject="France")
    assert text_of(prompt, "subject") == "France"


def test_characters_split_over_several_byte_tokens(factlm):
    prompt = tlk.Prompt.from_text(factlm, "Kyōto 東京 is in", subject="東京")
    ids = factlm.tokenizer("東京", add_special_tokens=False)["input_ids"]
    assert len(ids) > len("東京")  # the case at hand: more tokens than characters
    assert len(prompt.subject) >= len(ids)
    assert factlm.tokenizer.decode(prompt.tokens[0, list(prompt.subject)]).strip() == "東京"


def test_several_named_spans(factlm):
    prompt = tlk.Prompt.from_text(factlm, "The capital of France is", subject="France", spans={"noun": "capital"})
    assert text_of(prompt, "noun") == " capital"
    with pytest.raises(PromptError, match="has no span 'verb'; it has 'last', 'subject', 'noun', 'relation'"):
        prompt.span("verb")


def test_from_tokens():
    prompt = tlk.Prompt.from_tokens(torch.arange(6), subject=range(1, 3), target=7, has_bos=True)
    assert prompt.tokens.shape == (1, 6)
    assert prompt.batch(4).shape == (4, 6)
    assert prompt.subject.positions == (1, 2)
    assert prompt.relation.positions == (3, 4, 5)
    assert prompt.target_token == 7
    assert prompt.labels == ("0", "1", "2", "3", "4", "5")


def test_a_models_name_is_a_model(factlm):
    fact = tlk.load_facts(limit=1)[0]
    assert tlk.Prompt.from_fact("factlm", fact) == tlk.Prompt.from_fact(factlm, fact)
    assert tlk.Prompt.from_text("factlm", fact.text, subject=fact.subject) == tlk.Prompt.from_text(factlm, fact.text, subject=fact.subject)
    assert tlk.paraphrases("factlm", fact) == tlk.paraphrases(factlm, fact)
    assert tlk.known_facts("factlm", fact) == tlk.known_facts(factlm, [fact])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: tlk.Prompt.from_text(m, "The capital is", subject="France"), SubjectNotFoundError, "'France' does not occur in 'The capital is'"),
        (lambda m: tlk.Prompt.from_text(m, "  "), PromptError, "the prompt is '  '; pass a prompt"),
        (lambda m: tlk.Prompt.from_text(m, "a b " * 200), PromptError, "tokens; the model's context is 128: shorten"),
        (lambda m: tlk.Prompt.from_text(m, "France is", target=""), TargetError, "target '' has no tokens"),
        (lambda m: tlk.Prompt.from_text(m, "France is", subject_span=(3, 90)), SubjectNotFoundError, "pass positions from 0 to"),
        (lambda m: tlk.Prompt.from_tokens([]), PromptError, "has no tokens"),
        (lambda m: tlk.Prompt.from_tokens([1, 2]).target_token, TargetError, "has no target"),
        (lambda m: tlk.Fact("", "{} is", " x"), PromptError, "subject is ''"),
        (lambda m: tlk.Fact("a", "is", " x"), PromptError, "has no {}"),
        (lambda m: tlk.Fact("a", "{} is", " "), TargetError, "target is ' '"),
        (lambda m: tlk.Span("s", ()), PromptError, "at least one"),
        (lambda m: tlk.Span("s", (2, 1)), PromptError, "ascending"),
    ],
)
def test_bad_prompts_say_what_to_do(factlm, call, error, message):
    with pytest.raises(error, match=message):
        call(factlm)


def test_a_target_without_its_space_is_pointed_out(factlm):
    with pytest.warns(MissingSpaceWarning, match=r"target 'Paris' has no space before it.*pass ' Paris'"):
        tlk.Prompt.from_text(factlm, "The capital of France is", subject="France", target="Paris")
    with pytest.warns(MissingSpaceWarning):
        tlk.plan_edit(factlm, tlk.Fact("France", "The capital of {} is", "London"), tlk.FineTune(0, steps=1))
    prompt = tlk.Prompt.from_text(factlm, "The capital of France is", subject="France")
    with pytest.warns(MissingSpaceWarning):
        tlk.trace(factlm, prompt, samples=1, target="Paris", layers=[0], progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for text, target in (("The capital of France is", " Paris"), ("The capital of France is ", "Paris"), ("France is", "."), ("", " Paris")):
            if text:
                tlk.Prompt.from_text(factlm, text, target=target)


def test_a_subject_is_found_as_a_word(factlm):
    prompt = tlk.Prompt.from_text(factlm, "This is", subject="is")
    assert [prompt.labels[i] for i in prompt.subject] == [" is"]
    assert template_of("Paris, the Parisian Paris", "Paris") == "{}, the Parisian {}"
    assert template_of("unhappiness", "happi") == "un{}ness"
    with pytest.raises(tlk.errors.PromptError, match=r"has '\{\}' in it, which stands for the subject"):
        template_of("The capital of {} is France", "France")
    with pytest.raises(tlk.errors.InputError, match="half a character"):
        tlk.Prompt.from_text(factlm, "The capital of \ud800 is")
