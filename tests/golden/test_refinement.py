"""``variant="dai2022"`` and ``"niu2024"`` of the selection against the programs.

The numbers in ``refinement.json`` were made by the cores of Dai et al.'s ``src/2_get_kn.py`` (github.com/Hunter-DDM/knowledge-neurons, commit
c51b44a) and of Niu et al.'s ``run_kn_alg`` in ``kn_code/knowledge_neurons.py`` (github.com/frankniujc/kn_thesis, commit 5e96c52), typed out again
and run in float64 on the scores of `attribute_neurons` (which equal both programs' to 1e-15): FactLM, 20 steps, the first 24 facts of each of
the first four relations of the bundled set in their own wording, six to a bag.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.first_factlm import load_first_factlm

import tl_knowledge as tlk

GOLDEN = json.loads((Path(__file__).parent / "refinement.json").read_text())


@pytest.fixture(scope="module")
def double():
    return load_first_factlm(dtype=torch.float64)


def bags(model, relation):
    facts = tlk.datasets.of_relation(tlk.load_facts(), relation)[:24]
    return [[tlk.Prompt.from_fact(model, fact) for fact in facts[i : i + 6]] for i in range(0, 24, 6)]


def pairs(neurons):
    return [list(neuron) for neuron in neurons]


@pytest.fixture(scope="module")
def scores(double):
    return {
        (variant, relation): [tlk.attribute_neurons(double, bag, variant=variant, progress=False) for bag in bags(double, relation)]
        for variant in ("dai2022", "niu2024")
        for relation in {case["relation_id"] for case in GOLDEN["niu2024"]}
    }


@pytest.mark.slow
@pytest.mark.parametrize("case", GOLDEN["dai2022"], ids=lambda case: f"{case['relation_id']}-{case['start']}")
def test_dai_et_al(scores, case):
    sets, share = tlk.neurons.adapt_sharing(scores["dai2022", case["relation_id"]], shared_by=case["start"])
    assert [pairs(neurons) for neurons in sets] == case["sets"] and share == case["share"]


@pytest.mark.slow
@pytest.mark.parametrize("case", GOLDEN["niu2024"], ids=lambda case: case["relation_id"])
def test_niu_et_al(scores, case):
    for attribution, group in zip(scores["niu2024", case["relation_id"]], case["groups"], strict=True):
        (neurons,), tau = tlk.neurons.adapt_sharing([attribution], shared_by=case["start"])
        assert pairs(neurons) == group["set"] and tau == group["tau"]


def test_located_sets_are_refined_by_the_rule_of_their_variant(double):
    case = next(case for case in GOLDEN["dai2022"] if case["tries"] > 1)
    groups = [tlk.neurons.PromptGroup(case["relation_id"], str(k), tuple(bag)) for k, bag in enumerate(bags(double, case["relation_id"]))]
    located = tlk.locate_neurons(double, groups, variant="dai2022", shared_by=case["start"], adapt="relation", progress=False)
    assert [pairs(neurons) for neurons in located.sets] == case["sets"] and set(located.table["share"]) == {case["share"]}
    assert pairs(located.relation_neurons(case["relation_id"], shared_by=0.1)) == case["relation"]
