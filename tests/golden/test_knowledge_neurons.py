"""Attribution, suppression and enhancement against EleutherAI's program and Wen and Bai's.

``knowledge_neurons.json`` was made by the cores of ``knowledge_neurons/knowledge_neurons.py`` and its ``Patch``
(github.com/EleutherAI/knowledge-neurons, commit 5375fb0, the "gpt" type) and of ``kn.ipynb`` (github.com/SediRockStar/Localization_Model_Knowledge,
commit bf68f39), typed out again and run in float64 on FactLM's weights as a plain Hugging Face model: six facts of the bundled set, targets in lower
case (one to three tokens), 20 steps. The "unrelated" fact, which the program draws from a running stream, is the one that our draw names.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.first_factlm import load_first_factlm

import tl_knowledge as tlk
from tl_knowledge.errors import InputError

GOLDEN = json.loads((Path(__file__).parent / "knowledge_neurons.json").read_text())
FACTS = tlk.load_facts()[::167][:6]
LOWER = [replace(fact, target=fact.target.lower()) for fact in FACTS]


@pytest.fixture(scope="module")
def double():
    return load_first_factlm(dtype=torch.float64)


@pytest.fixture(scope="module")
def located(double):
    groups = tlk.neurons.fact_groups(double, LOWER)
    return tlk.locate_neurons(double, groups, threshold=0.3, variant="wen_bai", multi_token=True, progress=False)


@pytest.mark.parametrize("case", GOLDEN["scores"], ids=lambda case: str(case["fact"]))
def test_eleutherai_appends_its_own_tokens_and_averages(double, case):
    prompt = tlk.Prompt.from_fact(double, LOWER[case["fact"]])
    scores = tlk.attribute_neurons(double, prompt, variant="eleutherai2022", multi_token=True, progress=False).scores[0]
    assert float(scores.sum()) == pytest.approx(case["total"], rel=1e-8, abs=1e-20)
    for layer, neuron, value in case["top"]:
        assert float(scores[layer, neuron]) == pytest.approx(value, rel=1e-8)


def test_wen_and_bais_neurons(located):
    assert [[list(neuron) for neuron in neurons] for neurons in located.sets] == [fact["neurons"] for fact in GOLDEN["facts"]]


@pytest.mark.parametrize(("factor", "name"), [(0.0, "suppression"), (2.0, "enhancement")])
def test_wen_and_bais_effects(double, located, factor, name):
    effects = tlk.neurons.measure_neuron_effects(double, FACTS, factor=factor, located=located, variant="wen_bai", controls=1, progress=False)
    for row, fact in zip(effects.table.to_dict(orient="records"), GOLDEN["facts"], strict=True):
        absolute, relative = fact[name]["related"]
        assert (row["own_absolute"], row["own"]) == (pytest.approx(absolute, rel=1e-6, abs=1e-30), pytest.approx(relative, rel=1e-6))
        absolute, relative = fact[name]["unrelated"]
        assert (row["unrelated_absolute"], row["unrelated"]) == (pytest.approx(absolute, rel=1e-6, abs=1e-30), pytest.approx(relative, rel=1e-6))


def test_the_variant_attributes_as_it_measures(double, located):
    whole = tlk.neurons.measure_neuron_effects(double, FACTS, variant="wen_bai", controls=1, progress=False)
    again = tlk.neurons.measure_neuron_effects(double, FACTS, located=located, variant="wen_bai", controls=1, progress=False)
    assert whole.table.equals(again.table) and whole.settings == located.settings
    ours = tlk.locate_neurons(double, tlk.neurons.fact_groups(double, LOWER), steps=1, progress=False)
    with pytest.raises(InputError, match="measures neurons of that variant, and these are 'ours'"):
        tlk.neurons.measure_neuron_effects(double, FACTS, located=ours, variant="wen_bai")
