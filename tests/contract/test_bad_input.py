"""Bad input to every public function: our error with the remedy, and the model is left as it was. The tables stand in bad_*.py."""

from __future__ import annotations

import inspect
import re
from dataclasses import is_dataclass
from typing import Any

import pytest
import torch
from contract.bad_circuits import BAD_CIRCUITS
from contract.bad_consequences import BAD_CONSEQUENCES
from contract.bad_edits import BAD_EDITS
from contract.bad_metrics import BAD_METRICS
from contract.bad_neurons import BAD_NEURONS
from contract.bad_published import BAD_PUBLISHED
from contract.bad_relations import BAD_RELATIONS
from contract.bad_states import BAD_STATES
from contract.bad_stores import BAD_STORES
from contract.bad_subspaces import BAD_SUBSPACES
from contract.bad_traces import BAD_TRACES
from support import BUILDERS, build, fingerprint, hooks_left
from support.public import public_functions

import tl_knowledge as tlk
from tl_knowledge import errors
from tl_knowledge.models.checks import check_model
from tl_knowledge.models.unembedding import Unembedding

pytestmark = pytest.mark.usefixtures("without_type_checks")

BAD: dict[str, tuple[Any, type[Exception], str]] = (
    BAD_TRACES
    | BAD_METRICS
    | BAD_NEURONS
    | BAD_EDITS
    | BAD_CIRCUITS
    | BAD_CONSEQUENCES
    | BAD_PUBLISHED
    | BAD_RELATIONS
    | BAD_STATES
    | BAD_STORES
    | BAD_SUBSPACES
)
FUNCTIONS = {str(public): public for public in public_functions()}


def nan_hooks():
    return [("blocks.1.hook_mlp_out", lambda x, *, hook: x * float("nan"))]


@pytest.mark.parametrize("case", BAD)
def test_bad_input(gpt2, prompt, case):
    call, error, message = BAD[case]
    before = fingerprint(gpt2)
    try:
        with pytest.raises(error) as raised:
            call(gpt2, prompt)
    finally:
        build("bridge-gpt2").eval()
    assert re.search(message, str(raised.value)), str(raised.value)
    assert_is_ours(raised.value)
    assert hooks_left(gpt2) == []
    assert fingerprint(gpt2) == before


def assert_is_ours(error: BaseException) -> None:
    """One of our classes, and the remedy follows what failed."""
    assert isinstance(error, errors.TLKnowledgeError)
    assert any(mark in str(error) for mark in (";", ":", "? Pass")), str(error)


def test_every_store_is_tried_with_an_empty_path():
    """``Path("")`` is the working directory, which nobody meant."""
    have_one = {public.thing.__name__ for public in FUNCTIONS.values() if "store" in inspect.signature(public.thing).parameters}
    assert have_one == {name.removesuffix(": store") for name in BAD_STORES}


FACT = tlk.Fact("France", "The capital of {} is", " Paris", "P36")
REAL: dict[str, Any] = {"fact": FACT, "facts": [FACT], "method": tlk.FineTune(layer=0), "name": "ft", "experiment": "meng2022-table4"}


def required(function: Any, **given: Any) -> dict[str, Any]:
    """A value for every argument that has no default: what is given, else ``None``."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: (REAL | given).get(p.name) for p in parameters if p.default is p.empty and p.kind is not p.VAR_POSITIONAL}


@pytest.mark.parametrize("name", [name for name, public in FUNCTIONS.items() if "model" in inspect.signature(public.thing).parameters])
def test_every_function_refuses_what_is_no_model(name):
    function = FUNCTIONS[name].thing
    with pytest.raises(errors.UnsupportedModelError, match="NoneType is not a TransformerLens model") as raised:
        function(**required(function))
    assert_is_ours(raised.value)


SEVERAL = {"prompts", "facts", "cases", "pairs", "groups", "sentences", "corpus", "subjects", "traces", "reports", "sets", "attributions"}


def takes_several(function: Any) -> bool:
    """Whether it works on several things and on nothing else but a model; a filter, which returns some of them, returns nothing of nothing."""
    needed = set(required(function)) - {"model"}
    return len(needed) == 1 and needed <= SEVERAL and "list[" not in str(inspect.signature(function).return_annotation)


@pytest.mark.parametrize("name", [name for name, public in FUNCTIONS.items() if public.namespace != "drawing" and takes_several(public.thing)])
def test_nothing_given_is_one_class_of_error(gpt2, name):
    function = FUNCTIONS[name].thing
    (several,) = set(required(function)) - {"model"}
    with pytest.raises(errors.DataError) as raised:
        function(**required(function, model=gpt2, **{several: []}))
    assert_is_ours(raised.value)
    assert hooks_left(gpt2) == []


CHECKED_ABOVE = {"model", *SEVERAL}
OF_NO_CONSEQUENCE = {"progress", "seed"}
SAFE = {"Iterable", "Sequence", "Mapping", "None", "bool", "Any", "str", "go", "Figure"}


def can_be_got_wrong(parameter: inspect.Parameter, function: Any) -> bool:
    """Anything but a dataclass of ours (right by construction), a switch or a free text."""
    words = set(re.findall(r"\w+", str(parameter.annotation))) - SAFE
    ours = {word for word in words if is_dataclass(inspect.unwrap(function).__globals__.get(word))}
    return parameter.name not in CHECKED_ABOVE | OF_NO_CONSEQUENCE and (parameter.name in CHOICES or bool(words - ours))


CHOICES = {"name", "source", "protocol", "method", "by"}  # texts that must be one of some


@pytest.mark.parametrize("name", [name for name, public in FUNCTIONS.items() if public.namespace != "drawing"])
def test_every_argument_that_can_be_got_wrong_is_in_the_table(name):
    """Some case of the tables is of each function that has such an argument; only drawing is left out, which draws plain arrays as they are."""
    public = FUNCTIONS[name]
    if any(can_be_got_wrong(parameter, public.thing) for parameter in inspect.signature(public.thing).parameters.values()):
        namesakes = [other for other in FUNCTIONS.values() if other.name == public.name]
        names = {name} | ({public.name} if len(namesakes) == 1 or public.namespace == "tracing" else set())
        assert names & {case.split(":")[0] for case in BAD}


@pytest.mark.parametrize("engine", ["rows", "loop"])
def test_non_finite_activations(engine, prompt):
    model = build("bridge-llama")
    with model.hooks(fwd_hooks=nan_hooks()), pytest.raises(errors.NumericalError, match="not finite"):
        tlk.trace(model, prompt, 0.5, engine=engine)


def test_what_fails_under_hooks_is_not_held_against_the_model(prompt):
    """An engine that could not be proved while somebody's hooks gave NaN is asked again without them."""
    model = BUILDERS["bridge-llama"]()  # of which nothing is known yet
    with model.hooks(fwd_hooks=nan_hooks()):
        with pytest.raises(errors.NumericalError, match="not finite"):
            tlk.trace(model, prompt, 0.5)
        assert Unembedding.of(model) is None
    assert tlk.trace(model, prompt, 0.5).provenance.engine == "rows" and Unembedding.of(model) is not None


@pytest.mark.parametrize("engine", ["rows", "loop"])
def test_an_exception_in_mid_run_leaves_no_hook(gpt2, prompt, engine, monkeypatch):
    from tl_knowledge.runs import experiment, scoring

    calls = iter(range(100))

    def fail(logits, answer):
        if next(calls) == 1:
            raise KeyboardInterrupt
        return logits.softmax(-1)[:, 0, 5]

    before = fingerprint(gpt2)
    for module in (scoring, experiment):
        monkeypatch.setattr(module, "answer_probability", fail)
    with pytest.raises(KeyboardInterrupt):
        tlk.trace(gpt2, prompt, 0.5, engine=engine)
    assert hooks_left(gpt2) == []
    assert fingerprint(gpt2) == before


def test_a_trace_leaves_the_model_as_it_was(model, prompt):
    before, logits = fingerprint(model), model(prompt.tokens)
    tlk.trace(model, prompt, 0.5, samples=2, component="mlp_out", sever="attn_out")
    assert hooks_left(model) == []
    assert fingerprint(model) == before
    torch.testing.assert_close(model(prompt.tokens), logits, rtol=0, atol=0)


def test_training_mode_without_dropout_is_fine(prompt):
    if not any(name.startswith("ht-") for name in BUILDERS):
        pytest.skip("TransformerLens 4 has no HookedTransformer")
    model = build("ht-gpt2")
    model.train()
    try:
        assert check_model(model) is model
    finally:
        model.eval()
