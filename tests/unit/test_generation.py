"""Generated texts: beginnings without doubles, kept in the report, compared with references; essence drift by hand; bad snippet files."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support import BUILDERS, tokenizer_of_sixty_words
from support.models import LONG_BUILDERS
from support.places import FACTLM_LAYER

import tl_knowledge as tlk
from tl_knowledge.engine.generation import _CACHED, written_tokens
from tl_knowledge.errors import DataError, InputError, SlowEngineWarning
from tl_knowledge.evaluation import words
from tl_knowledge.evaluation.run_key import run_key

SNIPPET = {"relation_id": "P36", "target_id": "Q90", "samples": [{"name": "France", "text": "Paris is its capital."}]}


@pytest.fixture
def case() -> tlk.EditCase:
    return replace(tlk.load_edit_cases()[0], generation=("France is", "Italy is", "France is"))


def test_texts_stay_in_the_report(factlm, case, tmp_path):
    measure = tlk.evaluation.GenerationScores(length=10)
    method = tlk.FineTune(layer=FACTLM_LAYER, steps=3)
    report = tlk.evaluate(factlm, [case, replace(case, generation=())], method, measures=measure, progress=False, store=tmp_path / "run")
    assert list(report.texts["case_id"]) == ["0", "0"] and [text.split(" is")[0] for text in report.texts["edited"]] == ["France", "Italy"]
    assert list(report.texts["unedited"]) == list(measure.read(factlm, case).texts)
    assert "texts" not in report.metrics and "GE" in report.scores
    for again in (tlk.EditReport.load(report.save(tmp_path / "report")), tlk.evaluate(factlm, [case, replace(case, generation=())], method,
                  measures=measure, progress=False, store=tmp_path / "run")):  # fmt: skip
        assert again.texts.equals(report.texts)
    with pytest.raises(InputError, match="no text was generated"):
        _ = tlk.evaluate(factlm, case, method, progress=False).texts


def test_repeated_beginnings_are_continued_once_but_in_the_programs_variant(factlm, case, monkeypatch):
    monkeypatch.setattr(words, "NEEDED", ())  # whether nltk is there or not: nothing is split here
    assert tlk.evaluation.GenerationScores(length=8).read(factlm, case).beginnings == ("France is", "Italy is")
    theirs = tlk.evaluation.GenerationScores(length=8, variant="meng2022_code").read(factlm, case)
    assert theirs.beginnings == case.generation and len(theirs.texts) == 3
    assert [len(factlm.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in theirs.texts] == [8, 8, 8]  # no BOS among them


def test_nltk_is_asked_for_before_anything_is_computed(monkeypatch):
    monkeypatch.setattr(words, "NEEDED", ("no_such_library",))
    with pytest.raises(InputError, match=r"there is no no_such_library; pip install 'tl-knowledge\[nltk\]'"):
        tlk.evaluation.GenerationScores(variant="meng2022_code")


def test_essence_drift_by_hand(factlm, case):
    text = f"{case.fact.subject} is a country in Europe"
    measure = tlk.evaluation.EssenceDrift({case.fact.subject: [text]})
    tokens = tlk.Prompt.from_text(factlm, text).tokens
    with torch.no_grad():
        logits = factlm(tokens)[0].double().log_softmax(-1)
    total = -sum(float(logits[i, tokens[0, i + 1]]) for i in range(tokens.shape[1] - 1))
    assert measure.read(factlm, case) == pytest.approx(math.exp(total / (tokens.shape[1] - 1)), rel=1e-5)
    report = tlk.evaluate(factlm, case, tlk.FineTune(layer=FACTLM_LAYER, steps=5), measures=measure, progress=False)
    row = report.table.iloc[0]
    assert row["essence_drift"] == pytest.approx(100 * (row["essence"] / row["base_essence"] - 1)) and row["base_essence_drift"] == 0
    assert np.isnan(tlk.evaluation.EssenceDrift({}).read(factlm, case))


def test_identifiers_of_objects_do_not_change_the_key_of_runs_that_read_no_snippets(factlm, case):
    settings, method = tlk.evaluation.EvaluationSettings("FineTune"), tlk.FineTune(layer=FACTLM_LAYER)
    with_id, generated = replace(case, target_new_id="Q1"), tlk.evaluation.GenerationScores()
    assert run_key(factlm, [case], method, None, settings, []) == run_key(factlm, [with_id], method, None, settings, [])
    assert run_key(factlm, [case], method, None, settings, [generated]) != run_key(factlm, [with_id], method, None, settings, [generated])


def test_words_of_all_references_are_counted(case):
    """A word of every text weighs less than a rare one: idf of two texts alone would not know."""
    snippets = tlk.datasets.AttributeSnippets.from_texts(
        {"": {str(i): [tlk.datasets.Snippet("", f"the city {word}")] for i, word in enumerate(["abbey", "abyss", "acorn", "adobe"])}}
    )
    assert snippets.similarity("the city x", "the city adobe") < snippets.similarity("adobe x", "the city adobe")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"attribute_snippets.json": [{"relation_id": "P36"}]}, r"line 1: field 'target_id' is missing"),
        ({"attribute_snippets.json": [SNIPPET | {"samples": [{"name": "France"}]}]}, r"'samples' 0: field 'text' is missing"),
        ({"attribute_snippets.json": []}, "has no snippet"),
        ({"attribute_snippets.json": [SNIPPET], "tfidf_vocab.json": {"paris": 0}}, "only one of tfidf_vocab.json"),
        ({"attribute_snippets.json": [SNIPPET], "tfidf_vocab.json": {"paris": 0, "is": 0}, "idf.npy": [1.0, 2.0]}, "does not fit an idf"),
        ({"attribute_snippets.json": [SNIPPET], "tfidf_vocab.json": {"paris": 0, "is": 1}, "idf.npy": [1.0]}, "does not fit an idf"),
        ({"attribute_snippets.json": [SNIPPET], "tfidf_vocab.json": ["paris"], "idf.npy": [1.0]}, "must be a record"),
        ({}, "there is no file"),
    ],
)
def test_malformed_snippet_files_say_what_is_wrong(tmp_path, files, message):
    for name, value in files.items():
        if name.endswith(".npy"):
            np.save(tmp_path / name, value)
        else:
            (tmp_path / name).write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        tlk.datasets.load_attribute_snippets(tmp_path)


def test_counterfacts_identifiers_are_kept(tmp_path):
    record = {
        "requested_rewrite": {"prompt": "The mother tongue of {} is", "relation_id": "P103", "subject": "X",
                              "target_new": {"str": "English", "id": "Q1860"}, "target_true": {"str": "French", "id": "Q150"}},
        "paraphrase_prompts": [], "neighborhood_prompts": [],
    }  # fmt: skip
    (tmp_path / "c.json").write_text(json.dumps([record]), encoding="utf-8")
    assert tlk.datasets.load_counterfact(tmp_path / "c.json")[0].target_new_id == "Q1860"


@pytest.mark.filterwarnings("ignore::tl_knowledge.errors.SlowEngineWarning")
def test_text_from_a_cache_is_the_text_without(model):
    tokens = torch.tensor([[7], [8]])
    plain = tokens
    for _ in range(5):
        with torch.no_grad():
            plain = torch.cat([plain, model(plain)[:, -1].argmax(-1)[:, None]], dim=1)
    assert written_tokens(model, tokens, 5).tolist() == plain.tolist() == written_tokens(model, tokens, 5, cached=False).tolist()


@pytest.mark.skipif("ht-gpt2" not in BUILDERS, reason="this TransformerLens has no HookedTransformer")
def test_a_cache_that_counts_positions_twice_is_found_out(monkeypatch):
    """HookedTransformer's generate, with learned positions and no tokenizer."""
    model = BUILDERS["ht-gpt2"]()
    with pytest.warns(SlowEngineWarning, match="going on with a text from a key-value cache"):
        written_tokens(model, torch.tensor([[7]]), 2)
    assert _CACHED.refusal(model)
    monkeypatch.setattr(model, "tokenizer", tokenizer_of_sixty_words())
    assert _CACHED.refusal(model) is None


@pytest.mark.filterwarnings("ignore::tl_knowledge.errors.SlowEngineWarning")
def test_a_cache_is_not_trusted_where_rotary_tables_change():
    """Beyond its training length a dynamic scaling computes new tables, and keys in the cache have the old ones."""
    model = LONG_BUILDERS["bridge-dynamic-rope"]()
    tokens = torch.randint(0, 57, (8, 10), generator=torch.Generator().manual_seed(0))
    assert torch.equal(written_tokens(model, tokens, 20), written_tokens(model, tokens, 20, cached=False))
