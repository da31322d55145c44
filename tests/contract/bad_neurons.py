"""The table of bad input: data sets and neurons."""

from __future__ import annotations

import torch
from support.unfit import experts_model, foreign_prompt, long_prompt

import tl_knowledge as tlk
from tl_knowledge import errors

FACTS = [tlk.Fact("France", "The capital of {} is", " Paris", "P36")]
GROUPS = [tlk.neurons.PromptGroup("relation", "name", (tlk.Prompt.from_tokens([3, 4], target=5),))]


BAD_NEURONS = {
    "load_facts": (lambda m, p: tlk.load_facts("counterfoil"), errors.DataError, "'counterfoil' is unknown, did you mean 'counterfact'"),
    "load_relations": (lambda m, p: tlk.datasets.load_relations("x"), errors.DataError, "unknown"),
    "load_edit_cases": (lambda m, p: tlk.load_edit_cases("x"), errors.DataError, "unknown"),
    "load_corpus": (lambda m, p: tlk.load_corpus("x"), errors.DataError, "unknown"),
    "paraphrases": (lambda m, p: tlk.paraphrases(m, tlk.Fact("a", "{} is", " b")), errors.DataError, "has no paraphrases"),
    "attribute_neurons: no prompt": (lambda m, p: tlk.attribute_neurons(m, []), errors.DataError, "pass at least one"),
    "attribute_neurons: no target": (
        lambda m, p: tlk.attribute_neurons(m, tlk.Prompt.from_tokens([[1, 2]])),
        errors.TargetError,
        "has no target; pass target=",
    ),
    "attribute_neurons: target": (
        lambda m, p: tlk.attribute_neurons(m, tlk.Prompt.from_tokens([[1, 2]], target=60)),
        errors.TargetError,
        "target token 60 is outside",
    ),
    "attribute_neurons: foreign": (lambda m, p: tlk.attribute_neurons(m, foreign_prompt()), errors.PromptError, "outside the model's vocabulary"),
    "attribute_neurons: long": (lambda m, p: tlk.attribute_neurons(m, long_prompt()), errors.PromptError, "33 tokens; the model's context is 32"),
    "attribute_neurons: steps": (lambda m, p: tlk.attribute_neurons(m, p, steps=0), errors.InputError, "steps=0 makes no path"),
    "attribute_neurons: method": (lambda m, p: tlk.attribute_neurons(m, p, method="x"), errors.InputError, "method 'x' is unknown"),
    "attribute_neurons: variant": (lambda m, p: tlk.attribute_neurons(m, p, variant="x"), errors.InputError, "variant 'x' is unknown"),
    "attribute_neurons: baseline": (lambda m, p: tlk.attribute_neurons(m, p, baseline="mean"), errors.InputError, "baseline 'mean' is unknown"),
    "attribute_neurons: baseline's shape": (
        lambda m, p: tlk.attribute_neurons(m, p, baseline=torch.zeros(4, 3)),
        errors.InputError,
        r"shape \(4, 3\); pass finite activations of shape \(4, 24\)",
    ),
    "attribute_neurons: layer": (lambda m, p: tlk.attribute_neurons(m, p, layers=[9]), errors.ComponentError, "layer 9 is outside"),
    "attribute_neurons: experts": (lambda m, p: tlk.attribute_neurons(experts_model(), p), errors.UnsupportedModelError, "mixture of experts"),
    "measure_neuron_effects: no fact": (lambda m, p: tlk.neurons.measure_neuron_effects(m, []), errors.DataError, "pass facts of at least two"),
    "mean_activation": (lambda m, p: tlk.neurons.mean_activation(m, []), errors.DataError, "pass at least one"),
    "select_neurons": (
        lambda m, p: tlk.select_neurons(tlk.attribute_neurons(m, p, steps=1), shared_by=2),
        errors.InputError,
        "shared_by=2 is no share",
    ),
    "coarse_neurons": (
        lambda m, p: tlk.neurons.coarse_neurons(tlk.attribute_neurons(m, p, steps=1), kind="x"),
        errors.InputError,
        "kind 'x' is unknown",
    ),
    "adapt_sharing": (lambda m, p: tlk.neurons.adapt_sharing([]), errors.DataError, "no attribution was given"),
    "of_relation": (lambda m, p: tlk.datasets.of_relation(FACTS, "P0"), errors.DataError, "no fact has relation 'P0'; the facts have"),
    "sample_facts": (lambda m, p: tlk.sample_facts(FACTS, 0), errors.DataError, "pass at least 1"),
    "load_known": (lambda m, p: tlk.datasets.load_known("nowhere.json"), errors.DataError, "there is no file 'nowhere.json'"),
    "load_counterfact": (lambda m, p: tlk.datasets.load_counterfact("nowhere.json"), errors.DataError, "there is no file"),
    "load_zsre": (lambda m, p: tlk.datasets.load_zsre("nowhere.json"), errors.DataError, "there is no file"),
    "load_blimp": (lambda m, p: tlk.datasets.load_blimp("nowhere.jsonl", paradigm="x"), errors.DataError, "there is no file"),
    "load_attribute_snippets": (lambda m, p: tlk.datasets.load_attribute_snippets("nowhere.json"), errors.DataError, "there is no file"),
    "load_lre": (lambda m, p: tlk.datasets.load_lre("nowhere.json"), errors.DataError, "there is no file"),
    "load_pararel": (lambda m, p: tlk.datasets.load_pararel("nowhere"), errors.DataError, "pass the folder that has them"),
    "load_context_pararel": (lambda m, p: tlk.datasets.load_context_pararel("nowhere"), errors.DataError, "pass the folder that has them"),
    "locate_neurons: no group": (lambda m, p: tlk.locate_neurons(m, []), errors.DataError, "no fact or group was given"),
    "locate_neurons: adapt": (lambda m, p: tlk.locate_neurons(m, GROUPS, adapt="some"), errors.InputError, "adapt 'some' is unknown"),
    "locate_neurons: threshold": (lambda m, p: tlk.locate_neurons(m, GROUPS, threshold=2.0), errors.InputError, "does not fit kind"),
    "locate_neurons: target": (
        lambda m, p: tlk.locate_neurons(m, [tlk.neurons.PromptGroup("r", "n", (tlk.Prompt.from_tokens([1], target=99),))]),
        errors.TargetError,
        "target token 99 is outside",
    ),
    "PromptGroup: empty": (lambda m, p: tlk.neurons.PromptGroup("r", "n", ()), errors.DataError, "has no prompts"),
    "fact_groups: no paraphrases": (lambda m, p: tlk.neurons.fact_groups(m, [tlk.Fact("a", "{} is", " b")]), errors.DataError, "has no paraphrases"),
    "agreement_groups: none": (lambda m, p: tlk.neurons.agreement_groups(m, []), errors.DataError, "no minimal pair was given"),
    "determiner: none": (
        lambda m, p: tlk.neurons.determiner(tlk.datasets.MinimalPair("A dog.", "A dogs.", "x")),
        errors.InputError,
        "no demonstrative",
    ),
    "punctuation_groups: none": (lambda m, p: tlk.neurons.punctuation_groups(m, ["no mark"]), errors.DataError, "no sentence ends"),
    "shared_neurons: none": (lambda m, p: tlk.neurons.shared_neurons([]), errors.DataError, "no neuron set was given"),
    "compare_layers: none": (lambda m, p: tlk.neurons.compare_layers({}), errors.DataError, "no set of located neurons was given"),
    "in_context: no slot": (lambda m, p: tlk.datasets.in_context(tlk.Fact("a", "is", " b"), [("c", " d")]), errors.PromptError, "has no {}"),
    "with_context: too few": (lambda m, p: tlk.datasets.with_context([tlk.Fact("a", "{} is", " b")]), errors.DataError, "has 0 different objects"),
    "agreement_edit_cases: no neighbour": (
        lambda m, p: tlk.datasets.agreement_edit_cases(tlk.datasets.load_blimp(tlk.datasets.BLIMP_SAMPLE, limit=3), neighbours=0),
        errors.InputError,
        "neighbours=0",
    ),
    "load_punctuation: a missing mark": (lambda m, p: tlk.datasets.load_punctuation(marks=";"), errors.DataError, "no sentence that ends in ;"),
    "measure_context_gain: none": (lambda m, p: tlk.neurons.measure_context_gain(m, []), errors.DataError, "no fact was given"),
    "measure_token_effects: one prompt": (
        lambda m, p: tlk.neurons.measure_token_effects(m, [p], {"x": ["y"]}, tlk.NeuronSet.of(m, [(0, 1)])),
        errors.InputError,
        "at least 2 prompts",
    ),
    "measure_layer_effects: other facts": (
        lambda m, p: tlk.neurons.measure_layer_effects(m, FACTS, tlk.locate_neurons(m, GROUPS, steps=2, progress=False)),
        errors.InputError,
        "are not these 1 fact",
    ),
    "measure_group_scores: none": (
        lambda m, p: tlk.neurons.measure_group_scores(m, [], tlk.locate_neurons(m, GROUPS, steps=2, progress=False)),
        errors.DataError,
        "no fact or group was given",
    ),
    "measure_reliability: none": (
        lambda m, p: tlk.neurons.measure_reliability(m, [], tlk.locate_neurons(m, GROUPS, steps=2, progress=False), by=tlk.neurons.determiner),
        errors.DataError,
        "no minimal pair was given",
    ),
    "neuron_view: other model": (
        lambda m, p: tlk.neurons.neuron_view(m, p, tlk.NeuronSet(frozenset({(0, 1)}), 9, 9)),
        errors.ComponentError,
        "of this model",
    ),
}
