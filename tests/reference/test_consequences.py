"""Measures of an edit's consequences against what one would write by hand, on every architecture in float64."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from support import fingerprint, hooks_left
from support.edits import random_edit

import tl_knowledge as tlk
from tl_knowledge.datasets import EditTest, MinimalPair, Query
from tl_knowledge.evaluation.edit_tests import read_queries
from tl_knowledge.evaluation.generation import continued

PROMPTS = ("w3 w9 w4", "w11 w12", "w7 w7 w1 w30", "w20 w21 w22")
SUBJECT = tlk.Fact("w9 w4", "w3 {} w5", " w8", "r", ("{} w40", "w1 w2 {} w6"))


def plain(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens]))[0].double().log_softmax(-1)


def tokens_of(model, text):
    return tlk.Prompt.from_text(model, text).tokens[0].tolist()


def greedy(model, tokens, count):
    """One whole forward a token."""
    written = list(tokens)
    for _ in range(count):
        written.append(int(plain(model, written)[-1].argmax()))
    return written[len(tokens) :]


def test_queries_are_answered_by_what_comes_next(speaking):
    """The answer is the greedy continuation, token by token; a form that differs in its last token is none, and one form in two is enough."""
    queries, expected = [], []
    for text in PROMPTS:
        first, second = greedy(speaking, tokens_of(speaking, text), 2)
        right, wrong = f" w{first} w{second}", f" w{first} w{(second + 1) % 57}"
        for answers, said in ((((right,),), True), (((wrong,),), False), (((wrong, f" w{first}"),), True), (((wrong,), (right,)), True)):
            if max(first, second) < 57:  # the others stand for what the tokenizer does not know
                queries.append(Query(text, answers))
                expected.append(said)
    assert read_queries(speaking, queries) == expected and {True, False} <= set(expected)


def test_queries_are_answered_in_what_is_written(speaking):
    """All answers have to occur among so many greedy tokens, each in one of its forms."""
    prompts = [tlk.Prompt.from_text(speaking, text) for text in PROMPTS]
    texts = continued(speaking, prompts, 4)
    for text, prompt in zip(texts, prompts, strict=True):
        assert text == speaking.tokenizer.decode(greedy(speaking, prompt.tokens[0].tolist(), 4), skip_special_tokens=True)
    text, written = next((text, written) for text, written in zip(PROMPTS, texts, strict=True) if written.split())
    word = f" {written.split()[-1]}"
    absent = next(f" w{i}" for i in range(57) if f"w{i}" not in written)
    queries = [Query(text, answers) for answers in (((word,),), ((absent, word),), ((word,), (absent,)), ((absent,),))]
    assert read_queries(speaking, queries, length=4) == [True, True, False, False]


def test_every_question_is_asked_before_and_after_one_edit(speaking):
    """An answer is said where plain forwards write it, token by token; conditions are of the unedited model; the model is left as it was."""
    edit, texts = random_edit(speaking, [1], seed=3), (SUBJECT.text, *PROMPTS)

    def written(text):
        return tuple(greedy(speaking, tokens_of(speaking, text), 2))

    unedited = {text: written(text) for text in texts}
    with edit.applied(speaking):
        edited = {text: written(text) for text in texts}
    answers = {text: {" ".join(["", *(f"w{token}" for token in tokens)]) for tokens in (unedited[text], edited[text])} for text in texts}
    speakable = [text for text in texts if max(*unedited[text], *edited[text]) < 57]
    queries = [Query(text, ((answer,),)) for text in speakable for answer in sorted(answers[text])]
    wrong = Query(PROMPTS[0], ((f" w{(unedited[PROMPTS[0]][0] + 1) % 57}",),))
    tests = (*(EditTest(f"axis {i}", (query,), (wrong,) if i == 0 else ()) for i, query in enumerate(queries)), EditTest("wrong", (wrong,)))
    before = fingerprint(speaking)
    moved = tlk.evaluation.measure_consequences(speaking, tlk.EditCase(SUBJECT, " w9", (), (), tests=tests), edit)
    table = moved.table.set_index("axis")
    for i, query in enumerate(queries):
        said = [query.answers[0][0] == " " + " ".join(f"w{token}" for token in each[query.text]) for each in (unedited, edited)]
        row = table.loc[f"axis {i}"]
        assert ([row["said_before"], row["said_after"]], row["moved"]) == (said, said[1] - said[0]) and row["counts"] == (i > 0)
    assert not table.loc["wrong", ["said_before", "said_after"]].any()
    assert len(queries) > 2 and len(moved.questions()) == len(table) - 1
    assert fingerprint(speaking) == before and hooks_left(speaking) == []


def sentence_log_probability(model, text):
    tokens = tokens_of(model, text)
    return sum(float(plain(model, tokens[:i])[-1, tokens[i]]) for i in range(1, len(tokens)))


def test_general_ability_is_what_it_says(speaking):
    pairs = [MinimalPair(f"{text} w5", f"{text} w6", "p") for text in PROMPTS]
    case = tlk.EditCase(SUBJECT, " w9", (), ())
    measure = tlk.evaluation.GeneralAbility(pairs, PROMPTS[:2], PROMPTS)
    before = fingerprint(speaking)
    unedited = measure.read(speaking, case)
    by_hand = [plain(speaking, tokens_of(speaking, text))[-1] for text in PROMPTS]
    with random_edit(speaking, [1], seed=3).applied(speaking):
        read = measure.read(speaking, case)
        right = [sentence_log_probability(speaking, pair.good) > sentence_log_probability(speaking, pair.bad) for pair in pairs]
        total = sum(sentence_log_probability(speaking, text) for text in PROMPTS[:2])
        edited = [plain(speaking, tokens_of(speaking, text))[-1] for text in PROMPTS]
    perplexity = math.exp(-total / sum(len(tokens_of(speaking, text)) - 1 for text in PROMPTS[:2]))
    drift = sum(float(p.exp() * (p - q)) for old, new in zip(by_hand, edited, strict=True) for p, q in zip(old, new, strict=True)) / len(PROMPTS)
    scores, same = measure.scores(unedited, read), measure.scores(unedited, unedited)
    assert scores["blimp"] == 100 * sum(right) / len(right)
    assert scores["perplexity"] == pytest.approx(perplexity, rel=1e-10)
    assert scores["perplexity_rise"] == pytest.approx(100 * (perplexity / same["perplexity"] - 1), rel=1e-8)
    assert scores["next_token_KL"] == pytest.approx(100 * drift, rel=1e-9) and drift > 1e-4
    assert (same["perplexity_rise"], same["next_token_KL"]) == (0, 0)
    assert fingerprint(speaking) == before and hooks_left(speaking) == []


def test_extraction_reads_the_states_by_layer(speaking):
    case = tlk.EditCase(SUBJECT, " w9", tuple(SUBJECT.rephrase(template) for template in SUBJECT.paraphrases), ())
    old, measure = 8, tlk.evaluation.ExtractionAttacks(k=6)
    with random_edit(speaking, [1, 2], seed=5).applied(speaking):
        reading = measure.read(speaking, case)
        _, cache = speaking.run_with_cache(tlk.Prompt.from_fact(speaking, case.fact).tokens)
        logits = [speaking.unembed(speaking.ln_final(cache[f"blocks.{i}.hook_resid_post"]))[0, -1].double() for i in range(4)]
        answered = [plain(speaking, tokens_of(speaking, fact.text))[-1] for fact in (case.fact, *case.paraphrases)]
    ranks = [int((each > each[old]).sum()) for each in logits]
    assert reading.layers == (0, 1, 2, 3) and reading.ranks.tolist() == ranks
    assert reading.answered.tolist() == [int((each > each[old]).sum()) for each in answered] and reading.answered[0] == ranks[-1]
    scores = measure.scores(reading, reading)
    assert [scores[f"lens_{i}"] for i in range(4)] == [100 * (rank < 6) for rank in ranks]
    assert scores["extracted_lens"] == 100 * (min(ranks) < 6) and scores["old_lens_rank"] == min(ranks) and scores["old_rank"] == ranks[-1]
    if "gemma" not in str(getattr(speaking.cfg, "original_architecture", "")).lower():  # whose probabilities have a soft cap on the way
        chances = [each.softmax(-1) for each in logits]
        for step, (first, second) in enumerate(pairwise(chances)):
            rises = (second - first).tolist()
            at = rises[old]
            assert bool(reading.moved[step]) == (min(sum(r > at for r in rises), sum(r < at for r in rises)) < 6)
    few = tlk.evaluation.ExtractionAttacks(k=6, layers=(1, 2)).read(speaking, case)
    assert few.layers == (1, 2) and few.moved.shape == (1,) and few.answered.shape == (3,)
