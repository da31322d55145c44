"""GE, RS and essence drift against Meng et al.'s program, on texts of FactLM and on text that is hard to split.

``generation.json`` holds what github.com/kmeng01/rome (MIT) gives; the file's ``how`` says which functions were typed again, and with which
versions. Sampling itself is unseeded there, so texts are given.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.first_factlm import load_first_factlm

import tl_knowledge as tlk
from tl_knowledge.evaluation import words
from tl_knowledge.evaluation.generation import Written, _cleaned

GOLDEN = json.loads((Path(__file__).parent / "generation.json").read_text(encoding="utf-8"))
NAMES = {"Q220": "Rome", "Q90": "Paris", "Q150": "French"}


@pytest.fixture(scope="module")
def snippets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dsets")
    (folder / "attribute_snippets.json").write_text(json.dumps(GOLDEN["snippets"]), encoding="utf-8")
    return tlk.datasets.load_attribute_snippets(folder)


@pytest.fixture
def case() -> tlk.EditCase:
    fact = tlk.Fact("France", "{} has the capital", " Paris", "P36")
    return tlk.EditCase(fact, " Rome", (), (), target_new_id="Q220")


def test_entropies_are_nltks():
    pytest.importorskip("nltk")
    pytest.importorskip("punkt")
    texts = [_cleaned(text) for text in GOLDEN["texts"]]
    assert [words.split_words(text, "meng2022_code") for text in texts[:2]] == GOLDEN["words"]
    np.testing.assert_allclose([words.ngram_entropy(text, "meng2022_code") for text in texts], GOLDEN["entropy"], rtol=0, atol=1e-12)
    measure = tlk.evaluation.GenerationScores(variant="meng2022_code")
    written = Written((), tuple(texts))
    assert measure.scores(written, written)["GE"] == pytest.approx(100 * np.mean(GOLDEN["entropy"]), abs=1e-10)
    assert abs(words.ngram_entropy(texts[0]) - GOLDEN["entropy"][0]) > 0.01  # our own splitting is another


def test_reference_scores_are_the_programs(snippets, case):
    measure = tlk.evaluation.GenerationScores(snippets)
    written = Written((), tuple(GOLDEN["generated"]), snippets.of_case(case))
    assert measure.scores(written, written)["RS"] == pytest.approx(100 * GOLDEN["reference_score"], abs=1e-12)


@pytest.mark.parametrize("length", [4, 100])
def test_essence_scores_are_the_programs(snippets, case, length):
    model = load_first_factlm(dtype=torch.float64)
    measure = tlk.evaluation.EssenceDrift(snippets, length=length, variant="meng2022_code")
    assert measure.read(model, case) == pytest.approx(GOLDEN["essence"][str(length)], rel=1e-12)
    assert np.isnan(measure.read(model, replace(case, target_new_id="Q150")))  # no snippet about France has that


def test_statistics_from_files_are_those_counted(tmp_path, snippets, case):
    """``idf.npy`` and ``tfidf_vocab.json`` beside the snippets are read instead of counted; other statistics give other scores."""
    vectors = snippets._vectors
    (tmp_path / "attribute_snippets.json").write_text(json.dumps(GOLDEN["snippets"]), encoding="utf-8")
    (tmp_path / "tfidf_vocab.json").write_text(json.dumps({word: int(place) for word, place in vectors.vocabulary_.items()}), encoding="utf-8")
    np.save(tmp_path / "idf.npy", vectors.idf_)
    read = tlk.datasets.load_attribute_snippets(tmp_path, cases=[case])
    texts = " ".join(GOLDEN["generated"]), " ".join(snippets.of_case(case))
    assert read.similarity(*texts) == snippets.similarity(*texts) == pytest.approx(GOLDEN["reference_score"], abs=1e-14)
    assert read.of_case(case) == snippets.of_case(case) and read.about("P103", "Q150") == () != snippets.about("P103", "Q150")
    assert set(read.of_subject("France")) == set(snippets.of_subject("France"))
    np.save(tmp_path / "idf.npy", np.ones_like(vectors.idf_))
    assert tlk.datasets.load_attribute_snippets(tmp_path).similarity(*texts) != snippets.similarity(*texts)
