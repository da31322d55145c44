"""What the explorer's session answers is what the package's own functions give, for each tab by itself, and the model stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from support import BUILDERS, build, fingerprint, hooks_left, tokenizer_of_sixty_words
from support.explorer import asked, finished, refused
from support.places import FACTLM_LAYER

import tl_knowledge as tlk
from tl_knowledge.editing import KeyMoments
from tl_knowledge.errors import InputError
from tl_knowledge.explore import jobs, tasks
from tl_knowledge.explore.details import HeadDetails, NeuronDetails, StateDetails
from tl_knowledge.explore.edits import Editor
from tl_knowledge.explore.methods import first_that_works
from tl_knowledge.explore.session import ExplorerSession
from tl_knowledge.explore.state import EditRequest, ExplorerState

TEXT = "w3 w14 w15 w9 w2 w6"
STATE = ExplorerState(TEXT, subject=(1, 3), samples=2, window=1)
EDIT = EditRequest("ft", "w14 w15", "w3 {} w9 w2 w6", "w7", (1,))
SECOND = EditRequest("ft-attn", "w20", "w3 {} w9", "w8", (2,))
ARCHITECTURES = [
    pytest.param(name, marks=pytest.mark.typed if name == "bridge-gpt2" else ())
    for name in ("bridge-gpt2", "bridge-llama", "bridge-gptneox", "ht-llama")
    if name in BUILDERS
]

pytestmark = pytest.mark.touches_model


@pytest.fixture(params=ARCHITECTURES)
def random_model(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A tiny model in float64 that reads sixty words."""
    model = build(request.param)
    before, model.tokenizer = model.tokenizer, tokenizer_of_sixty_words()
    yield model
    model.tokenizer = before


@pytest.fixture
def gpt2_that_reads(gpt2: Any) -> Iterator[Any]:
    before, gpt2.tokenizer = gpt2.tokenizer, tokenizer_of_sixty_words()
    yield gpt2
    gpt2.tokenizer = before


@pytest.fixture
def session(random_model: Any) -> Iterator[ExplorerSession]:
    made = ExplorerSession(random_model, name="random")
    yield made
    made.close()


def next_of(model: Any, text: str, hooks: Any = ()) -> torch.Tensor:
    with torch.no_grad():
        tokens = tlk.Prompt.from_text(model, text).tokens
        return model.run_with_hooks(tokens, fwd_hooks=list(hooks))[0, -1].softmax(-1)


def same_trace(first: Any, second: Any) -> None:
    assert torch.equal(first.indirect_effect.nan_to_num(9.0), second.indirect_effect.nan_to_num(9.0))
    assert torch.equal(first.total_effect, second.total_effect)
    assert first.settings == second.settings


def close(found: float, wanted: Any) -> bool:
    return abs(found - float(wanted)) <= 1e-12


def test_the_prediction_is_a_plain_forward(session):
    prediction = asked(session, "predict", STATE)["prediction"]
    wanted = next_of(session.model, TEXT)
    best = wanted.topk(10)
    assert [each.token for each in prediction.top] == best.indices.tolist()
    assert all(close(each.probability, value) for each, value in zip(prediction.top, best.values, strict=True))
    assert (prediction.target_token, prediction.rank, prediction.given) == (int(wanted.argmax()), 0, False)
    assert prediction.labels == tlk.Prompt.from_text(session.model, TEXT).labels


def test_the_prediction_of_a_target(session):
    prediction = asked(session, "predict", replace(STATE, target="w5"))["prediction"]
    wanted = next_of(session.model, TEXT)
    assert (prediction.target, prediction.target_token, prediction.given) == ("w5", 5, True)
    assert close(prediction.probability, wanted[5]) and prediction.rank == int((wanted > wanted[5]).sum())


@pytest.mark.parametrize("corrupt", ["subject", "relation"])
def test_maps_are_traces(session, corrupt):
    state = replace(STATE, corrupt=corrupt, metric="logit", target="w5")
    prompt = tlk.Prompt.from_text(session.model, TEXT, subject_span=(1, 3), target="w5")
    maps = asked(session, "trace", state)
    assert list(maps) == ["resid_post", "mlp_out", "attn_out"]
    for component, found in maps.items():
        wanted = tlk.trace(session.model, prompt, corrupt=corrupt, component=component, window=1, samples=2, metric="logit", progress=False)
        same_trace(found, wanted)


def test_a_marked_relation_is_corrupted_alone(session):
    state = replace(STATE, subject=None, relation=(3, 5), corrupt="relation", components=("mlp_out",))
    prompt = tlk.Prompt.from_text(session.model, TEXT)
    wanted = tlk.trace(session.model, prompt, corrupt=tlk.Span("relation", (3, 4)), component="mlp_out", window=1, samples=2, progress=False)
    same_trace(asked(session, "trace", state)["mlp_out"], wanted)


def test_behind_a_cell_of_attention_are_its_heads(session):
    details = asked(session, "cell", replace(STATE, cell=("attn_out", 2, 5)))["cell"]
    prompt = tlk.Prompt.from_text(session.model, TEXT, subject_span=(1, 3))
    assert isinstance(details, HeadDetails)
    same_trace(details.heads, tlk.trace(session.model, prompt, component="head", layers=2, positions=5, samples=2, progress=False))
    _, cache = session.model.run_with_cache(prompt.tokens)
    pattern = cache["blocks.2.attn.hook_pattern"][0].float()
    assert details.pattern is not None and torch.allclose(details.pattern, pattern, rtol=0, atol=1e-6)
    effects = details.heads.mean_effect[0, 5].tolist()
    layer, head, effect = details.units[0]
    assert (layer, effect) == (2, max(effects)) and effects[head] == effect
    drawn = details.plot_attention()
    assert drawn is not None and torch.allclose(torch.tensor(drawn.data[0].z), details.pattern[head])


def test_behind_a_cell_of_an_mlp_are_its_neurons(session):
    details = asked(session, "cell", replace(STATE, cell=("mlp_out", 1, 2)))["cell"]
    prompt = tlk.Prompt.from_text(session.model, TEXT, subject_span=(1, 3))
    assert isinstance(details, NeuronDetails)
    wanted = tlk.trace(session.model, prompt, component="neuron", layers=1, positions=2, engine="screen", samples=2, progress=False)
    same_trace(details.neurons, wanted)
    assert [(layer, unit) for layer, unit, _ in details.units] == [(row.layer, row.neuron) for row in wanted.top(12).itertuples()]
    assert (details.words is None) == bool(details.missing)
    if details.words is not None:
        chosen = tlk.NeuronSet.of(session.model, [(layer, unit) for layer, unit, _ in details.units])
        assert details.words.table.equals(tlk.neurons.neuron_words(session.model, chosen, k=8).table)


def test_behind_a_cell_of_the_stream_is_what_it_says(session):
    details = asked(session, "cell", replace(STATE, cell=("resid_post", 3, 5), target="w5"))["cell"]
    assert isinstance(details, StateDetails)
    says, probability, rank = details.says
    wanted = next_of(session.model, TEXT)
    assert says == f"w{int(wanted.argmax())}" and close(probability, wanted[5]) and rank == int((wanted > wanted[5]).sum())


def test_the_circuit_is_of_the_maps(session):
    state = replace(STATE, target="w5")
    found = asked(session, "circuit", state)["circuit"]
    prompt = tlk.Prompt.from_text(session.model, TEXT, subject_span=(1, 3), target="w5")
    traces = [tlk.trace(session.model, prompt, component=part, window=1, samples=2, progress=False) for part in ("mlp_out", "attn_out")]
    wanted = tlk.circuits.from_trace(session.model, prompt, traces, progress=False)
    assert found.nodes == wanted.nodes and torch.equal(found.effect, wanted.effect)
    assert [(edge.source, edge.target, edge.weight) for edge in found.edges] == [(edge.source, edge.target, edge.weight) for edge in wanted.edges]


def test_what_is_suppressed_and_knocked_out_acts_together_on_every_prompt(session):
    state = replace(STATE, suppressed=((1, 3), (2, 5)), knocked_out=((3, 1),), further=("w1 w2 w3", TEXT + " w8"), target="w5")
    hooks = tlk.ablate(heads=(3, 1), neurons=[(1, 3), (2, 5)])
    for text, row in zip((TEXT, *state.further), asked(session, "compare", state)["comparisons"], strict=True):
        before, after = next_of(session.model, text), next_of(session.model, text, hooks)
        assert float((before - after).abs().max()) > 1e-6
        assert row.text == text and [each.token for each in row.after.top] == after.topk(10).indices.tolist()
        (answer,) = row.answers
        assert answer.answer == "w5" and close(answer.before, before[5]) and close(answer.after, after[5])


def planned(model: Any, request: EditRequest, moments: KeyMoments | None = None) -> Any:
    fact = tlk.Fact(request.subject, request.template, request.target_new)
    method = tlk.editing.method_for_model(model, request.method, layers=request.layers or None)
    return tlk.plan_edit(model, fact, method, moments=moments, progress=False)


def agrees_with_the_weights(model: Any, request: EditRequest, texts: list[str], moments: KeyMoments | None = None) -> None:
    """An edit, suppressed neurons and a head in its layer and others: as hooks in a tab, and with the edit in the model."""
    before = fingerprint(model)
    session = ExplorerSession(model, name="random", corpus=lambda: texts)
    rows = asked(
        session, "compare", replace(STATE, edits=(request,), suppressed=((1, 4), (2, 5)), knocked_out=((2, 1),), further=("w3 w14 w15 w9",))
    )["comparisons"]
    session.close()
    assert fingerprint(model) == before and not hooks_left(model)
    plan, token = planned(model, request, moments), int(request.target_new[1:])
    for row in rows:
        with plan.applied(model):
            wanted = next_of(model, row.text, tlk.ablate(heads=(2, 1), neurons=[(1, 4), (2, 5)]))
        assert [each.answer for each in row.answers][1:] == [request.target_new]
        assert close(row.answers[1].after, wanted[token]) and close(row.answers[1].before, next_of(model, row.text)[token])
    assert rows[0].after != rows[0].before


@pytest.mark.parametrize("edit", [EDIT, SECOND])
def test_an_edit_is_what_it_is_in_the_weights_and_the_weights_stay(random_model, edit):
    agrees_with_the_weights(random_model, edit, [])


def test_an_edit_that_needs_moments_has_them_collected(gpt2_that_reads, texts):
    moments = tlk.collect_key_moments(gpt2_that_reads, texts, layers=[1], progress=False)
    agrees_with_the_weights(gpt2_that_reads, replace(EDIT, method="rome"), texts, moments)


def test_an_edit_of_activations_is_what_it_is_on_the_model(gpt2_that_reads):
    agrees_with_the_weights(gpt2_that_reads, replace(EDIT, method="grace"), [])


def test_a_second_edit_is_planned_on_what_the_first_has_left(session):
    model, before = session.model, fingerprint(session.model)
    rows = asked(session, "compare", replace(STATE, edits=(EDIT, SECOND)))["comparisons"]
    assert fingerprint(model) == before and not hooks_left(model)
    with planned(model, EDIT).applied(model), planned(model, SECOND).applied(model):
        wanted = next_of(model, TEXT)
    assert [each.answer for each in rows[0].answers][1:] == ["w7", "w8"]
    assert all(close(each.after, wanted[token]) for each, token in zip(rows[0].answers[1:], (7, 8), strict=True))


def test_undo_gives_exactly_the_numbers_before(session):
    one = replace(STATE, edits=(EDIT,), knocked_out=((3, 1),))
    first = asked(session, "compare", one)["comparisons"]
    more = asked(session, "compare", replace(one, edits=(EDIT, SECOND), suppressed=((0, 0),)))["comparisons"]
    assert more[0].after != first[0].after
    fresh = ExplorerSession(session.model, name="random")
    assert asked(session, "compare", one)["comparisons"] == first == asked(fresh, "compare", one)["comparisons"]
    fresh.close()
    plain = asked(session, "compare", STATE)["comparisons"][0]
    assert plain.after == plain.before == replace(first[0].before, also=plain.before.also)


def test_two_tabs_at_once_are_as_each_alone(session):
    other = replace(STATE, prompt="w1 w2 w3 w4", subject=(0, 1), knocked_out=((0, 0),), samples=3)
    edited = replace(STATE, edits=(EDIT,))
    both = [(tab, task, state) for task in ("trace", "compare", "cell") for tab, state in (("a", edited), ("b", other))]
    both = [(tab, task, replace(state, cell=("attn_out", 1, 2))) for tab, task, state in both]
    running = [(tab, task, state, session.submit(tab, task, state)) for tab, task, state in both]
    together = {(tab, task): finished(session, job, tab).results for tab, task, _, job in running}
    alone = ExplorerSession(session.model, name="random")
    for tab, task, state, _ in running:
        wanted = asked(alone, task, state)
        for name, found in together[tab, task].items():
            if task == "trace":
                same_trace(found, wanted[name])
            elif task == "cell":
                same_trace(found.heads, wanted[name].heads)
            else:
                assert found == wanted[name]
    alone.close()
    for row in together["b", "compare"]["comparisons"]:  # nothing of the other tab's edit, in the numbers of the model itself
        tokens = tlk.Prompt.from_text(session.model, row.text).tokens
        for said, hooks in ((row.before, []), (row.after, tlk.ablate(heads=other.knocked_out))):
            direct = session.model.run_with_hooks(tokens, fwd_hooks=hooks)[0, -1].softmax(-1)
            assert [each.probability for each in said.top[:3]] == pytest.approx(direct.topk(3).values.tolist(), abs=1e-12)
    edit = together["a", "compare"]["comparisons"][0]
    assert edit.answers[-1].after > edit.answers[-1].before  # there was something that could have been seen


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Jobs are no longer wanted at their n-th sign of life."""
    plain, left = jobs.Job.beat, [0]

    def beat(job: jobs.Job) -> None:
        left[0] -= 1
        if left[0] == 0:
            job.wanted = False
        plain(job)

    monkeypatch.setattr(jobs.Job, "beat", beat)

    def at(number: int) -> None:
        left[0] = number

    return at


STOPPED = replace(STATE, edits=(EDIT, SECOND), knocked_out=((1, 1),), cell=("mlp_out", 1, 2))


def stop_and_start_again(model: Any, stop_at: Callable[[int], None], task: Any, state: ExplorerState = STOPPED) -> None:
    """Stop a job in many places; afterwards the model is as it was, and the whole job gives what it gives on a session that never stopped."""
    session, before, stopped = ExplorerSession(model, name="random"), fingerprint(model), 0
    for number in (1, 2, 7, 30, 111, 403, 1201, 3001):
        stop_at(number)
        view = finished(session, session.submit("tab", task, state))
        assert view.status in ("cancelled", "done"), view
        stopped += view.status == "cancelled"
        assert fingerprint(model) == before and not hooks_left(model)
        assert all(parameter.grad is None for parameter in model.parameters())
    assert stopped >= 3
    stop_at(0)
    fresh = ExplorerSession(model, name="random")
    results, wanted = asked(session, task, state), asked(fresh, task, state)
    for made in (session, fresh):
        made.close()
    for name in wanted:
        if task == "trace":
            same_trace(results[name], wanted[name])
        elif task == "compare":
            assert results[name] == wanted[name]


@pytest.mark.parametrize("task", ["trace", "compare"])
def test_a_job_stopped_anywhere_leaves_every_model_as_it_was(random_model, stop_at, task):
    stop_and_start_again(random_model, stop_at, task)


@pytest.mark.parametrize("task", ["cell", "circuit"])
def test_other_jobs_stopped_anywhere_do_so_too(gpt2_that_reads, stop_at, task):
    stop_and_start_again(gpt2_that_reads, stop_at, task)


def test_a_job_stopped_while_edits_are_on_the_model_takes_them_off(gpt2_that_reads, stop_at):
    reading = EditRequest("ike", "w14 w15", "w3 {} w9 w2 w6", "w7")
    stop_and_start_again(gpt2_that_reads, stop_at, "compare", replace(STATE, edits=(EDIT, reading), further=("w1 w2", "w3", "w4 w5")))


def test_what_is_asked_again_is_not_computed_again(session):
    first = asked(session, "trace", STATE)
    moved = replace(STATE, cell=("mlp_out", 0, 0), further=("w1",), suppressed=((0, 1),))
    again = asked(session, "trace", moved)
    assert all(again[name] is first[name] for name in first)
    known = session.known("tab", moved)
    assert {name: known[name] for name in first} == first and "cell" not in known and "comparisons" not in known
    assert asked(session, "trace", replace(STATE, seed=1))["mlp_out"] is not first["mlp_out"]


def test_two_full_tabs_plan_each_edit_once(gpt2_that_reads, monkeypatch, without_type_checks):
    planned_now: list[Any] = []
    monkeypatch.setattr(Editor, "_plan", lambda editor, requests: planned_now.append(requests) or requests)
    editor = Editor(gpt2_that_reads, None, None)
    for _ in range(2):
        for tab in ("w1", "w2"):
            editor.all_plans([replace(EDIT, target_new=f"{tab} w{number}") for number in range(8)])
    assert len(planned_now) == 16


def test_no_other_tab_and_no_other_cell_takes_a_tabs_results_away(gpt2_that_reads, monkeypatch):
    monkeypatch.setattr(tasks, "KEPT", 2)
    monkeypatch.setattr(tasks, "TAB_KEPT", 6)
    session = ExplorerSession(gpt2_that_reads, name="random")
    for task in ("predict", "trace"):
        asked(session, task, STATE, "mine")
    for text in ("w1", "w2", "w3"):
        asked(session, "predict", ExplorerState(text), "other")
    assert set(session.known("mine", STATE)) == {"prediction", *STATE.components} and session.known("third", STATE) == {}
    for layer in (0, 1, 2):
        for pos in (1, 2):
            asked(session, "cell", replace(STATE, cell=("resid_post", layer, pos)), "mine")
    assert set(session.known("mine", STATE)) == {"prediction", *STATE.components}
    session.close()


@pytest.mark.parametrize(
    ("task", "state", "words"),
    [
        ("predict", ExplorerState(""), "the prompt is empty"),
        ("predict", ExplorerState("w1 " * 33), "has 33 tokens"),
        ("predict", ExplorerState("w1 " * 33), "shorten it"),
        ("trace", ExplorerState("w1 w2"), "no subject is marked"),
        ("trace", ExplorerState("w1 w2", corrupt="relation"), "no relation is marked"),
        ("trace", ExplorerState("w1 w2", subject=(1, 9)), "marked up to token 8"),
        ("trace", ExplorerState("w1 w2 w3", subject=(0, 2), relation=(1, 3)), "token 1 is marked as subject and as relation"),
        ("cell", STATE, "no cell was clicked"),
        ("cell", replace(STATE, cell=("mlp_out", 9, 0)), "layer 9"),
        ("cell", replace(STATE, cell=("mlp_out", 0, 6)), "position 6 is outside the prompt of 6 tokens"),
        ("compare", replace(STATE, suppressed=((9, 0),)), "layer 9"),
        ("compare", replace(STATE, suppressed=((0, 24),)), "neuron 24 of layer 0 is outside"),
        ("compare", replace(STATE, knocked_out=((0, 4),)), "head 4 of layer 0 is outside"),
        ("compare", replace(STATE, further=("w1 " * 33,)), "has 33 tokens"),
        ("compare", replace(STATE, edits=(replace(EDIT, method="mend"),)), "MEND edits with networks that are trained first"),
        ("compare", replace(STATE, edits=(replace(EDIT, method="ike"),)), "IKE chooses its layers itself"),
        ("compare", replace(STATE, edits=(replace(EDIT, layers=()),)), "nothing is published"),
        ("compare", replace(STATE, edits=(replace(EDIT, method="rome"),)), "ROME needs key moments of layers 1, and there are none"),
        ("compare", replace(STATE, edits=(replace(SECOND, method="grace"), SECOND)), "GRACE changes activations"),
    ],
)
def test_what_cannot_be_is_said_in_words(gpt2_that_reads, task, state, words):
    session = ExplorerSession(gpt2_that_reads, name="random")
    assert words in refused(session, task, state)
    assert asked(session, "predict", STATE)
    session.close()


def test_an_edit_in_another_thread_is_never_seen(gpt2_that_reads):
    """A notebook that shares its model with a session: the session waits."""
    model, state = gpt2_that_reads, replace(STATE, target="w5")
    session = ExplorerSession(model, name="random")
    with planned(model, EDIT).applied(model):
        job = session.submit("tab", "predict", state)
        edited = next_of(model, TEXT)
        assert session.view("tab", job).status in ("queued", "running")
    found = finished(session, job).results["prediction"].probability
    session.close()
    assert close(found, next_of(model, TEXT)[5]) and not close(found, edited[5])


def test_an_unknown_task_is_refused(factlm):
    session = ExplorerSession(factlm, name="factlm")
    with pytest.raises(InputError, match="did you mean 'trace'"):
        session.submit("tab", "trase", ExplorerState("a"))  # pyright: ignore[reportArgumentType]
    session.close()


def test_factlm_has_every_method_or_a_reason(factlm):
    session = ExplorerSession(factlm, name="factlm")
    offers = {offer.name: offer for offer in session.methods}
    session.close()
    assert list(offers) == list(tlk.editing.METHODS)
    assert [name for name, offer in offers.items() if offer.refusal] == ["mend", "ke", "serac"]
    assert first_that_works(session.methods) == "rome"
    assert offers["rome"].layers == (FACTLM_LAYER,) and offers["rome"].needs_moments and not offers["rome"].asks_layers


def test_methods_that_lack_their_moments_say_so_and_are_not_the_first(gpt2_that_reads, texts):
    def offered(**given: Any) -> dict[str, Any]:
        session = ExplorerSession(gpt2_that_reads, name="random", **given)
        session.close()
        return {offer.name: offer for offer in session.methods}

    bare, moments = offered(), tlk.collect_key_moments(gpt2_that_reads, texts, layers=[1], progress=False)
    lacking = [
        name for name in ("rome", "memit", "pmet", "emmet", "alphaedit") if "--moments" in bare[name].refusal and "--corpus" in bare[name].refusal
    ]
    assert lacking == ["rome", "memit", "pmet", "emmet", "alphaedit"]
    first = first_that_works(tuple(bare.values()))
    assert first is not None and not bare[first].refusal and not bare[first].needs_moments
    for given in ({"corpus": lambda: texts}, {"moments": moments}):
        assert not any("--moments" in offer.refusal for offer in offered(**given).values())


def test_a_target_without_its_space_is_hinted_at(factlm):
    session = ExplorerSession(factlm, name="factlm")
    state = ExplorerState("The capital of France is", target="Paris")
    assert "has no space before it" in asked(session, "predict", state)["prediction"].hint
    assert asked(session, "predict", replace(state, target=" Paris"))["prediction"].hint == ""
    assert "BOS" in refused(session, "trace", replace(state, subject=(0, 2)))
    edit = EditRequest("ft", "France", "The capital of {} is", "London")
    assert "has no space before it" in refused(session, "compare", replace(state, edits=(edit,)))
    session.close()


def test_an_answer_of_several_tokens_says_that_its_first_is_measured(factlm):
    session = ExplorerSession(factlm, name="factlm")
    state = ExplorerState("The capital of France is", target=" Paris Rome", knocked_out=((0, 0),))
    prediction = asked(session, "predict", state)["prediction"]
    assert prediction.hint == "' Paris Rome' has 2 tokens; what is measured is the first of them, ' Paris'."
    (row,) = asked(session, "compare", state)["comparisons"]
    session.close()
    assert [each.answer for each in row.answers] == [" Paris Rome (first token)"]
    assert abs(row.answers[0].before - prediction.probability) < 1e-7
