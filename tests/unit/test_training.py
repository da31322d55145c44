"""FactLM's training script: honest text, deterministic from its seed, resumable to the same weights."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

FOLDER = Path(__file__).parents[2] / "training" / "factlm"


@pytest.fixture(scope="module")
def modules():
    sys.path.insert(0, str(FOLDER))
    try:
        import grammar
        import text
        import train

        yield {"train": train, "text": text, "grammar": grammar}
    finally:
        sys.path.remove(str(FOLDER))


def test_no_held_out_paraphrase_is_ever_shown(modules):
    data, text = modules["train"].FACTS, modules["text"]
    facts = text.FactText.from_data(data)
    stream = text.TrainingText(facts, seed=0)
    shown = {stream.sentence().text for _ in range(20_000)}
    templates = {r: entry["templates"] for r, entry in data["relations"].items()}
    seen = 0
    for fact in data["facts"]:
        for index, template in enumerate(templates[fact["relation"]]):
            stated = template.replace("{}", fact["subject"]) + fact["target"] + "."
            if index in fact["held_out"]:
                assert stated not in shown
            seen += stated in shown
    assert seen > 1000


def test_sentences_know_where_their_subjects_are(modules):
    text = modules["text"]
    facts = text.FactText.from_data(modules["train"].FACTS)
    stream = text.TrainingText(facts, seed=3)
    for _ in range(500):
        sentence = stream.sentence()
        assert all(sentence.text[a:b] in facts.by_subject for a, b in sentence.subjects)


def test_held_out_nouns_never_show_agreement(modules):
    import random

    grammar = modules["grammar"]
    held_out = {noun for pair in grammar.HELD_OUT_NOUNS for noun in pair}
    draw = random.Random(0)
    for _ in range(2000):
        sentence = grammar.agreement_sentence(draw)
        assert not held_out & set(sentence.strip(".").lower().split())


def test_an_interrupted_training_resumes_to_the_same_weights(modules, tmp_path, monkeypatch):
    train = modules["train"]
    monkeypatch.setattr(train, "CHUNK", 2)
    monkeypatch.setattr(train, "ROWS", 2)
    torch.set_num_threads(1)
    train.train(tmp_path / "whole", seed=5, steps=14)

    real, steps = train.attention_mask, iter(range(100))

    def interrupted(*arguments):
        if next(steps) == 11:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(train, "attention_mask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train.train(tmp_path / "halves", seed=5, steps=14)
    monkeypatch.setattr(train, "attention_mask", real)
    with pytest.raises(SystemExit, match="belongs to seed 5, 14 steps"):
        train.train(tmp_path / "halves", seed=6, steps=14)
    train.train(tmp_path / "halves", seed=5, steps=14)
    whole, halves = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "halves"))
    assert whole.keys() == halves.keys()
    assert all(torch.equal(whole[name], halves[name]) for name in whole)
