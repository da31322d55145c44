"""FactLM and its data: what the issue of a model organism promises, checked on what is shipped."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from support.places import FACTLM_LAYER

import tl_knowledge as tlk


@pytest.fixture(scope="module")
def facts():
    return tlk.load_facts("factlm")


def test_the_facts_are_many_and_share_subjects(facts):
    relations = tlk.datasets.load_relations("factlm")
    assert len(facts) >= 1500
    assert len(relations) >= 20
    assert all(len(r.templates) >= 4 and len(set(r.templates)) == len(r.templates) for r in relations)
    by_subject = Counter(f.subject for f in facts)
    assert sum(n >= 2 for n in by_subject.values()) >= 300
    assert len({(f.subject, f.relation) for f in facts}) == len(facts)


def test_objects_are_mostly_one_token(factlm, facts):
    several = sum(len(tlk.Prompt.from_fact(factlm, f).answer) > 1 for f in facts) / len(facts)
    assert 0.10 <= several <= 0.5


def test_paraphrases_were_held_out(facts):
    assert all(f.template not in f.paraphrases and len(f.paraphrases) == 2 for f in facts)


def accuracy(model, prompts):
    hits = 0
    for prompt in prompts:
        with torch.no_grad():
            hits += int(model(prompt.tokens)[0, -1].argmax()) == prompt.target_token
    return hits / len(prompts)


@pytest.mark.slow
def test_it_knows_its_facts_and_their_paraphrases(factlm, facts):
    sample = facts[::10]
    assert accuracy(factlm, [tlk.Prompt.from_fact(factlm, f) for f in sample]) >= 0.97
    assert accuracy(factlm, [p for f in sample for p in tlk.paraphrases(factlm, f)]) >= 0.92


def test_edit_cases(facts):
    cases = tlk.load_edit_cases("factlm")
    assert cases == tlk.load_edit_cases("factlm")
    assert len(cases) >= 200
    edited = {(c.fact.subject, c.fact.relation) for c in cases}
    for case in cases:
        assert case.target_new != case.fact.target
        assert case.rewrite.target == case.target_new
        assert len(case.paraphrases) == 2 and len(case.neighbourhood) == 5
        for neighbour in case.neighbourhood:
            assert neighbour.relation == case.fact.relation
            assert (neighbour.subject, neighbour.relation) not in edited
            assert neighbour.target != case.target_new


def test_the_corpus_is_large_enough_for_second_moments(factlm):
    corpus = tlk.load_corpus("factlm")
    tokens = sum(len(factlm.tokenizer(text)["input_ids"]) for text in corpus)
    assert tokens >= 10 * factlm.cfg.d_mlp
    assert max(len(factlm.tokenizer(text)["input_ids"]) for text in corpus) <= factlm.cfg.n_ctx


@pytest.mark.slow
def test_subject_and_relation_enter_at_different_places(factlm, facts):
    """The README's picture, in one number each: the subject is looked up at its last token, the relation elsewhere."""
    effects = {"subject": [], "relation": []}
    for fact in facts[::80]:
        prompt = tlk.Prompt.from_fact(factlm, fact)
        if not fact.template.startswith("{} "):
            continue
        for side, shares in effects.items():
            result = tlk.trace(factlm, prompt, corrupt=side, component="mlp_out", samples=5)
            shares.append(float(result.mean_effect[:, prompt.subject.last].max() / result.total_effect.mean()))
    assert len(effects["subject"]) >= 10
    assert sum(effects["subject"]) / len(effects["subject"]) > 0.4
    assert max(effects["relation"]) < 0.2


@pytest.mark.slow
def test_the_look_up_is_one_layer_and_not_the_first(factlm, facts):
    prompts = [tlk.Prompt.from_fact(factlm, fact) for fact in facts[::80]]
    traces = [tlk.trace(factlm, prompt, component="mlp_out", window=1, samples=5, progress=False) for prompt in prompts]
    shares = torch.stack([t.mean_effect[:, p.subject.last] / t.total_effect.mean() for t, p in zip(traces, prompts, strict=True)]).mean(0)
    assert shares.argmax() == FACTLM_LAYER and shares[FACTLM_LAYER] > 0.5 and shares[0] < 0.1, shares
