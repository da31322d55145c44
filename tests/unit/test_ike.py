"""IKE's demonstrations: which, of what kind, in what order."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support import tokenizer_of_sixty_words

import tl_knowledge as tlk
from tl_knowledge.editing import IKE, Demonstrations
from tl_knowledge.errors import InputError

FACT = tlk.Fact("w3", "w1 {} w4", " w7").retarget(" w9")
CASES = [
    tlk.EditCase(tlk.Fact(f"w{i}", "w1 {} w4", " w20"), " w21", (tlk.Fact(f"w{i}", "w2 {}", " w20"),), (tlk.Fact(f"w{i + 1}", "w5 {}", " w22"),))
    for i in range(30, 42)
]


@pytest.fixture
def small(gpt2, monkeypatch):
    monkeypatch.setattr(gpt2, "tokenizer", tokenizer_of_sixty_words())
    return gpt2


def demonstrations(model, method):
    return method._demonstrations(model, FACT, method.pool)


def test_the_nearest_cases_demonstrate_and_the_nearest_stands_last(small):
    found = demonstrations(small, IKE(k=8, pool=Demonstrations.from_cases(CASES)))

    def mean_state(text):
        tokens = torch.tensor([[int(word[1:]) for word in text.split()]])
        return small.run_with_cache(tokens)[1]["blocks.3.hook_out"][0].detach().double().mean(0)

    own = mean_state("w1 w3 w4 w9")
    alike = {case.fact.subject: float(torch.cosine_similarity(mean_state(f"{case.fact.text} w21"), own, dim=0)) for case in CASES}
    expected = sorted(alike, key=lambda subject: alike[subject])[-8:]
    assert [text.split()[3] for _, text, _ in found] == expected
    assert [similarity for _, _, similarity in found] == pytest.approx([alike[subject] for subject in expected], abs=1e-10)


def test_kinds_are_one_to_three_to_four_and_say_what_they_are(small):
    pool = Demonstrations.from_cases(CASES)
    found = demonstrations(small, IKE(k=8, pool=pool))
    assert sorted(kind for kind, _, _ in found) == ["copy", *["retain"] * 4, *["update"] * 3]
    for kind, text, _ in found:
        fact, prompt, *rest = text.split("\n")
        subject = fact.split()[3]
        asked = {"copy": f"w1 {subject} w4 w21", "update": f"w2 {subject} w21", "retain": f"w5 w{int(subject[1:]) + 1} w22"}[kind]
        assert fact == f"New Fact: w1 {subject} w4 w21" and prompt == f"Prompt: {asked}" and rest == ["", ""]
    assert demonstrations(small, IKE(k=8, pool=pool)) == found
    assert demonstrations(small, IKE(k=8, pool=pool, seed=1)) != found


def test_a_case_without_such_a_prompt_is_copied_and_the_edited_subject_is_no_neighbour(small):
    bare = [replace(case, paraphrases=(), neighbourhood=(tlk.Fact("w3", "w5 {}", " w7"),)) for case in CASES]
    found = demonstrations(small, IKE(k=8, pool=Demonstrations.from_cases(bare)))
    assert {kind for kind, _, _ in found} == {"copy"} and not any("w3 " in text for _, text, _ in found)


def test_a_pool_is_a_value_and_is_not_in_files(small):
    pool = Demonstrations.from_cases(CASES)
    assert pool == Demonstrations.from_cases(list(CASES)) != Demonstrations.from_cases(CASES[1:])
    edit = tlk.plan_edit(small, FACT, IKE(k=1, pool=pool, fact_words="", prompt_words="w50 "))
    assert edit.settings["pool"] == {"class": "Demonstrations", "count": 12, "content": pool.content}
    with pytest.raises(InputError, match="are not kept in files"):
        IKE(k=1, pool=Demonstrations(12, pool.content)).plan(small, [FACT], None)
    with pytest.raises(InputError, match=r"IKE\(k=13\) needs as many demonstrations, and 12 were given"):
        IKE(k=13, pool=pool)


def test_the_first_word_is_read_with_its_space(factlm):
    case = tlk.load_edit_cases()[0]
    edit = tlk.plan_edit(factlm, case.rewrite, IKE(k=0))
    text = f"New Fact: {case.rewrite.text}{case.target_new}\nPrompt: The capital of France is"
    tokens = factlm.tokenizer(text, add_special_tokens=False)["input_ids"]
    row = tlk.Prompt.from_text(factlm, "The capital of France is").tokens
    whole = torch.tensor([[factlm.tokenizer.bos_token_id, *tokens]])
    with torch.no_grad():
        expected = factlm(whole)[:, -row.shape[1] :]
        with edit.applied(factlm):
            torch.testing.assert_close(factlm(row), expected, rtol=0, atol=1e-5)
