"""Every public function with values that nobody should pass: each is refused in our own words, or works, and nothing is left behind.

One table of values (`support.hostile`), one good call a function; each argument in turn gets each value. A function whose good call takes long
gets a part of the table, another part for each of its arguments; so does every function with the newest TransformerLens, where few architectures
are asked for: what is refused is refused before a model is asked.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import random
import time
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from support import fingerprint, hooks_left, tokenizer_of_sixty_words
from support.hostile import good_values, hostile_values
from support.models import BUILDERS
from support.public import Public, public_classes, public_functions

import tl_knowledge as tlk
from tl_knowledge.errors import TLKnowledgeError

pytestmark = [pytest.mark.touches_model, pytest.mark.usefixtures("without_type_checks")]

SLOW = 0.1
"""Seconds of a good call from which on only every sixth value is tried."""


def some_facts(count: int) -> list[tlk.Fact]:
    """Facts of one relation."""
    return [tlk.Fact(f"w{k} w9", "w1 {} w4", f" w{k + 20}", relation="r") for k in range(count)]


OTHER_GOOD = {
    "circuits.compare": {"names": ("a", "b")},
    "datasets.in_context": {"pairs": [("w3", "w4")]},
    "datasets.single_token_facts": {"facts": lambda good: good["facts"]},
    "evaluation.measure_growth": {"sizes": (1,)},
    "evaluation.sweep_layer_ranges": {"ranges": [(1,)]},
    "localised.sweep_layers": {"layers": (1,), "window": 1},
    "neurons.compare_layers": {"located": lambda good: {"a": good["located"]}},
    "neurons.effects_table": {"effects": lambda good: good["effects"]},
    "neurons.single_token_words": {"words": ["w5", "w6"]},
    "neurons.measure_neuron_effects": {"located": lambda good: good["located"]},
    "states.decode_states": {"into": "w1 w2 w3"},  # the identity prompt is longer than this model's context
    "states.fit_affine_maps": {"corpus": ["w1 w2 w3 w4 w5", "w6 w7 w8 w9 w10", "w11 w12 w13 w14 w15", "w16 w17 w18 w19 w20"], "layers": (1,)},
    "states.measure_decoding": {"into": "w1 w2 w3"},
    "states.train_tuned_lens": {
        "validation": ["w7 w8 w9"],
        "training": tlk.states.LensSettings(steps=1, batch_size=1),
        "layers": (1,),
    },
    "states.write_states": {"states": torch.zeros(16, dtype=torch.float64)},
    "hooks.patch_subspace": {"basis": torch.eye(16, 2), "states": torch.zeros(16)},
    "subspaces.learn_subspace": {
        "pairs": lambda good: tlk.subspaces.draw_pairs(good["facts"][:4]),
        "validation": lambda good: tlk.subspaces.draw_pairs(good["facts"][4:]),
        "training": tlk.subspaces.SubspaceSettings(steps=1),
        "at": "subject",
        "dims": 2,
    },
    "subspaces.measure_subspaces": {
        "facts": lambda good: some_facts(15),
        "training": tlk.subspaces.SubspaceSettings(steps=1),
        "at": "subject",
        "dims": 2,
    },
    "subspaces.split_pairs": {"facts": lambda good: some_facts(15)},
    "relations.add_vector": {"vector": torch.zeros(16)},
    "relations.estimate_relation": {"facts": lambda good: good["facts"][::2][:2], "separator": " w50 "},
    "relations.estimate_relation_vector": {"facts": lambda good: good["facts"][::2][:2], "templates": "w1 {}", "separator": " w50 "},
    "relations.measure_relation_vectors": {"examples": 2, "templates": "w1 {}", "separator": " w50 "},
    "relations.measure_relation_maps": {"examples": 2, "separator": " w50 "},
    "tracing.summary_rows": {"traces": lambda good: [good["trace"]]},
    "tracing.trace_facts": {"facts": lambda good: good["facts"][:2]},  # a budget of two bytes works, one row at a time
}
"""Where an argument's name alone does not say what works."""

WITHOUT_GOOD_CALL = {
    "datasets.of_relation": "takes any number of relations by position",
    "evaluation.score_table": "takes any number of reports by position",
    "evaluation.compare_categories": "the same",
    "tracing.compare": "takes any number of traces by position",
    "tracing.trace_page": "takes pairs of a heading and traces",
    "neurons.agreement_groups": "its pairs are of a tokenizer with English words; tried in test_syntax",
    "neurons.determiner": "the same",
    "neurons.measure_reliability": "the same",
    "neurons.punctuation_groups": "the same",
    "editing.method_class": "takes a word only",
    "editing.method_for_model": "only published models have settings",
    "editing.forget_edits": "takes a model only",
    "tracing.embedding_sd": "takes a model only",
    "tracing.perturbation_sd": "takes a model only",
}
"""Functions that are not called here, and why."""


NOT_TRIED = ("model", "progress", "store", "path", "runner", "device", "method_at", "by")
"""Models are tried once for all functions, files in test_files; what a caller's own function raises is the caller's."""


def in_scope(public: Public) -> bool:
    """Drawing is for figures and pages, whose text is tried in test_any_text; loaders of files are tried in test_datasets."""
    return public.namespace != "drawing" and not public.name.startswith("load_") and str(public) not in WITHOUT_GOOD_CALL


FUNCTIONS = {str(public): public for public in public_functions() if in_scope(public)}


@pytest.fixture(scope="module")
def tiny():
    model = BUILDERS["bridge-gpt2"]()
    model.tokenizer = tokenizer_of_sixty_words()
    return model


@pytest.fixture(scope="module")
def good(tiny):
    return good_values(tiny)


def good_call(name: str, function, good) -> dict | None:
    """Arguments of a call that works."""
    call = {}
    for argument, parameter in inspect.signature(function).parameters.items():
        required = parameter.default is inspect.Parameter.empty
        if argument in good and (required or argument in ("progress", "samples", "steps", "known_only", "limit")):
            call[argument] = good[argument]
        elif (
            argument not in OTHER_GOOD.get(name, {})
            and parameter.default is inspect.Parameter.empty
            and parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ):
            return None
    for argument, value in OTHER_GOOD.get(name, {}).items():
        call[argument] = value(good) if inspect.isfunction(value) else value
    return call


def surroundings() -> tuple:
    return torch.random.get_rng_state().tolist(), str(np.random.get_state()), random.getstate(), torch.is_grad_enabled(), torch.get_default_dtype()


def outcome(function, call) -> str:
    """``"works"``, ``"refused"``, or a foreign error in words."""
    quiet = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            warnings.simplefilter("ignore")
            function(**call)
    except TLKnowledgeError:
        return "refused"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:120]}"
    return "works"


def try_values(function, call, arguments, *, tick: int) -> tuple[Counter, list[str]]:
    """Each argument with every ``tick``-th value of the table."""
    counts, foreign = Counter(), []
    for number, argument in enumerate(arguments):
        for i, name in enumerate(hostile_values()):
            if (i + number) % tick:
                continue
            result = outcome(function, call | {argument: hostile_values()[name]})
            counts[result if result in ("works", "refused") else "foreign"] += 1
            if result not in ("works", "refused"):
                foreign.append(f"{argument}={name}: {result}")
    return counts, foreign


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_every_function(name, tiny, good, pytestconfig):
    function = FUNCTIONS[name].thing
    call = good_call(name, function, good)
    if call is None:
        pytest.skip("no good call by the names of its arguments")
    start = time.perf_counter()
    worked = outcome(function, call)
    quick = time.perf_counter() - start < SLOW
    few = (pytestconfig.getoption("architectures") or len(BUILDERS)) < len(BUILDERS)
    tick = (3 if few else 1) if quick else 6
    assert worked in ("works", "refused"), worked
    before, around = fingerprint(tiny), surroundings()
    arguments = [argument for argument in inspect.signature(function).parameters if argument not in NOT_TRIED]
    counts, foreign = try_values(function, call, arguments, tick=tick)
    assert foreign == [], f"{len(foreign)} of {sum(counts.values())} calls of {name}() end in foreign errors"
    assert fingerprint(tiny) == before and hooks_left(tiny) == [] and surroundings() == around


EDITORS = [tlk.editing.UltraEdit, tlk.editing.PMET, tlk.editing.LoRA, tlk.editing.FineTuneAttention, tlk.editing.FineTuneDecayed]
SETTINGS = [
    tlk.ROME,
    tlk.MEMIT,
    tlk.EMMET,
    tlk.AlphaEdit,
    tlk.FineTune,
    *EDITORS,
    tlk.GaussianNoise,
    tlk.PromptSwap,
    tlk.Fact,
    tlk.EditCase,
    tlk.states.LensSettings,
    tlk.subspaces.SubspaceSettings,
]


@pytest.mark.parametrize("kind", SETTINGS, ids=lambda kind: kind.__name__)
def test_every_settings_class(kind, good):
    facts = good["facts"]
    required = {"layer": 1, "layers": (1,), "prompt": good["prompt"], "subject": "w3", "template": "w1 {} w4", "fact": facts[0], "target_new": " w5"}
    required |= {"paraphrases": (), "neighbourhood": (), "target": " w7"}
    parameters = inspect.signature(kind).parameters
    call = {name: required[name] for name, parameter in parameters.items() if parameter.default is inspect.Parameter.empty}
    counts, foreign = try_values(kind, call, [name for name in parameters if not name.startswith("_")], tick=1)
    assert foreign == [] and counts["refused"] > counts["works"] / 4


def test_every_public_class_is_a_setting_or_a_result():
    assert {kind.__name__ for kind in SETTINGS} <= {public.name for public in public_classes()}
