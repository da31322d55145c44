"""Edits that change what the model reads, in the explorer: before and after are the package's own, everything else is the unchanged model's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from support import build, fingerprint, hooks_left, tokenizer_of_sixty_words
from support.edits import ready
from support.explorer import asked, finished, refused

import tl_knowledge as tlk
from tl_knowledge.editing import IKE, SERAC, Demonstrations
from tl_knowledge.errors import ModelStateError
from tl_knowledge.explore.code import state_code
from tl_knowledge.explore.export import UNCHANGED, export_page
from tl_knowledge.explore.links import from_query, to_query
from tl_knowledge.explore.methods import editor_mark
from tl_knowledge.explore.session import ExplorerSession
from tl_knowledge.explore.state import EditRequest, ExplorerState

pytestmark = pytest.mark.touches_model

EDIT = EditRequest("ike", "w14 w15", "w3 {} w9 w2 w6", "w7")
FIRST = EditRequest("ft", "w20", "w3 {} w9", "w8", (1,))
STATE = ExplorerState("w3 w14 w15 w9 w2 w6", subject=(1, 3), samples=2, window=1, edits=(EDIT,), further=("w3 w20 w9", "w1 w2"))
FRANCE = ExplorerState("The capital of France is", edits=(EditRequest("ike", "France", "The capital of {} is", " London"),), further=("Italy is",))


@pytest.fixture(params=[pytest.param("bridge-gpt2", marks=pytest.mark.typed), "bridge-llama"])
def reading(request: pytest.FixtureRequest) -> Iterator[Any]:
    model = build(request.param)
    before, model.tokenizer = model.tokenizer, tokenizer_of_sixty_words()
    yield model
    model.tokenizer = before


def serac_for(model: Any, least: float = 0.0) -> SERAC:
    """Trained in a moment; with 0 nearly everything is in scope."""
    return ready(replace(SERAC.small(), separator=" w41", least=least), model)


def ike_for(model: Any) -> IKE:
    """As the page has it: no subject of sixty words is among the bundled cases, all of which may demonstrate."""
    return IKE(k=min(16, model.cfg.n_ctx // 128), pool=Demonstrations.from_cases(tlk.load_edit_cases()))


def planned(model: Any, request: EditRequest, method: Any) -> Any:
    return tlk.plan_edit(model, tlk.Fact(request.subject, request.template, request.target_new), method, progress=False)


def check_rows(model: Any, rows: Any, edits: Any) -> None:
    """Before and after are calls of the model itself, and of the model with the edits on it."""
    close = 1e-9 if next(iter(model.parameters())).dtype == torch.float64 else 1e-5
    for row in rows:
        tokens = tlk.Prompt.from_text(model, row.text).tokens
        before = model(tokens)[0, -1].softmax(-1).detach()
        with edits[0].applied(model), edits[-1].applied(model) if len(edits) > 1 else torch.no_grad():
            after = model(tokens)[0, -1].softmax(-1).detach()
        for said, wanted in ((row.before, before), (row.after, after)):
            assert [each.token for each in said.top] == wanted.topk(10).indices.tolist()
            assert all(each.probability == pytest.approx(float(wanted[each.token]), abs=close) for each in said.top)
        assert row.read.endswith(edits[-1].text_read(model, tlk.Prompt.from_text(model, row.text)))


def test_ike_in_a_tab_is_its_own_and_the_model_stays(reading):
    before, attributes = fingerprint(reading), set(vars(reading))
    session = ExplorerSession(reading, name="random")
    rows = asked(session, "compare", STATE)["comparisons"]
    session.close()
    assert fingerprint(reading) == before and set(vars(reading)) == attributes and not hooks_left(reading)
    check_rows(reading, rows, [planned(reading, EDIT, ike_for(reading))])
    assert rows[0].before != rows[0].after and rows[0].read.startswith("After the edit, IKE has the model read\n")


def test_the_bundled_model_has_a_demonstration_about_something_else(factlm):
    session = ExplorerSession(factlm, name="factlm")
    about = tlk.load_edit_cases()[0].rewrite
    cases = [case for case in tlk.load_edit_cases() if case.fact.subject != about.subject]
    state = ExplorerState(about.text, edits=(EditRequest("ike", about.subject, about.template, about.target),), further=("The capital of France is",))
    rows = asked(session, "compare", state)["comparisons"]
    session.close()
    edit = tlk.plan_edit(factlm, about, IKE(k=1, pool=Demonstrations.from_cases(cases)))
    check_rows(factlm, rows, [edit])
    assert len(cases) < 320 and rows[0].read.count("New Fact: ") == 2 and rows[0].read.count(about.subject) == 2


@pytest.mark.parametrize("least", [0.0, 0.999])
def test_serac_in_a_tab_is_its_own_in_scope_and_out_of_it(reading, least):
    serac, before = serac_for(reading, least), fingerprint(reading)
    session = ExplorerSession(reading, name="random", editors=serac)
    offer = next(offer for offer in session.methods if offer.name == "serac")
    assert (offer.refusal, offer.layers, offer.changes_reading, offer.editor) == ("", (), True, editor_mark(serac))
    edit = replace(EDIT, method="serac", editor=offer.editor)
    rows = asked(session, "compare", replace(STATE, edits=(edit,)))["comparisons"]
    assert "SERAC chooses its layers itself" in refused(session, "compare", replace(STATE, edits=(replace(edit, layers=(1,)),)))
    session.close()
    assert fingerprint(reading) == before
    plan = planned(reading, edit, serac)
    inside = [plan.reads(reading, tlk.Prompt.from_text(reading, row.text).tokens[0]).model is not reading for row in rows]
    assert inside == ([True] * 3 if least == 0 else [True, False, False])
    check_rows(reading, [row for row, within in zip(rows, inside, strict=True) if within], [plan])
    for row, within in zip(rows, inside, strict=True):
        if within:
            assert row.read.startswith("SERAC finds this prompt in the edit's scope: its counterfactual model answers, and reads\n")
        else:
            assert row.after == row.before
            assert row.read == "SERAC finds this prompt outside the edit's scope: the model itself answers."


@pytest.mark.parametrize("name", ["ike", "serac"])
def test_it_stands_on_an_edit_of_weights(reading, name):
    serac, before = serac_for(reading), fingerprint(reading)
    session = ExplorerSession(reading, name="random", editors=[serac])
    edit = replace(EDIT, method=name, editor=editor_mark(serac) if name == "serac" else "")
    rows = asked(session, "compare", replace(STATE, edits=(FIRST, edit)))["comparisons"]
    session.close()
    assert fingerprint(reading) == before and not hooks_left(reading)
    first = planned(reading, FIRST, tlk.FineTune(layer=1))
    with first.applied(reading):
        second = planned(reading, edit, ike_for(reading) if name == "ike" else serac)
    check_rows(reading, rows, [first, second])


def test_what_does_not_go_with_it_is_refused(reading):
    session = ExplorerSession(reading, name="random")
    for off in ({"suppressed": ((1, 3),)}, {"knocked_out": ((2, 0),)}):
        assert "IKE changes what the model reads, so that other tokens stand where neurons are suppressed or heads knocked out: take off" in refused(
            session, "compare", replace(STATE, **off)
        )
    for later in (FIRST, EDIT):
        assert "IKE changes what is read, so no edit can be planned on top of it here" in refused(
            session, "compare", replace(STATE, edits=(EDIT, later))
        )
    assert not set(vars(reading)) & {"forward", "generate"}
    session.close()


def test_a_prompt_without_room_behind_what_is_read_first_is_refused(factlm):
    session = ExplorerSession(factlm, name="factlm")
    words = refused(session, "compare", replace(FRANCE, further=("The " * 100,)))
    session.close()
    assert "that the edit puts before it the prompt has" in words and "the context of factlm is 128" in words


def test_maps_and_other_tabs_are_the_unchanged_models(reading):
    session, plain = ExplorerSession(reading, name="random"), replace(STATE, edits=())
    asked_for = [("a", "compare", STATE), ("b", "compare", plain), ("a", "trace", STATE), ("b", "trace", plain)]
    jobs = [(tab, task, session.submit(tab, task, state)) for tab, task, state in asked_for]
    found = {(tab, task): finished(session, job, tab) for tab, task, job in jobs}
    assert all(view.status == "done" for view in found.values())
    for part, trace in found["a", "trace"].results.items():
        wanted = tlk.trace(
            reading, tlk.Prompt.from_text(reading, STATE.prompt, subject_span=(1, 3)), component=part, window=1, samples=2, progress=False
        )
        assert torch.equal(trace.indirect_effect.nan_to_num(9.0), wanted.indirect_effect.nan_to_num(9.0))
        assert torch.equal(trace.indirect_effect.nan_to_num(9.0), found["b", "trace"].results[part].indirect_effect.nan_to_num(9.0))
    for row in found["b", "compare"].results["comparisons"]:
        assert row.before == row.after and row.read == ""
    session.close()


def test_undo_gives_the_numbers_before_and_the_same_edit_the_same_again(reading):
    session, one = ExplorerSession(reading, name="random"), replace(STATE, edits=(FIRST,))
    first = asked(session, "compare", one)["comparisons"]
    both = asked(session, "compare", replace(STATE, edits=(FIRST, EDIT)))["comparisons"]
    fresh = ExplorerSession(reading, name="random")
    assert asked(fresh, "compare", one)["comparisons"] == first
    assert asked(fresh, "compare", from_query(to_query(replace(STATE, edits=(FIRST, EDIT)))))["comparisons"] == both
    for made in (session, fresh):
        made.close()


def ran(state: ExplorerState, name: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(state_code(state, name), "program", "exec"), names)
    return names


def agrees(row: Any, names: dict[str, Any]) -> None:
    for said, wanted in ((row.before, names["before"]), (row.after, names["after"])):
        assert [each.token for each in said.top] == wanted.topk(10).indices.tolist()
        assert all(each.probability == pytest.approx(float(wanted[each.token]), abs=1e-5) for each in said.top)


@pytest.mark.parametrize("edits", [FRANCE.edits, (EditRequest("ft", "Italy", "The capital of {} is", " Berlin"), *FRANCE.edits)])
def test_the_program_gives_what_the_tab_shows(factlm, edits):
    session, state = ExplorerSession(factlm, name="factlm"), replace(FRANCE, edits=edits)
    row = asked(session, "compare", state)["comparisons"][-1]
    session.close()
    names = ran(state, "factlm")
    assert names["text"] == row.text == "Italy is" and names[f"edit{len(edits)}"].method == "IKE"
    agrees(row, names)


def test_the_program_of_serac_reads_its_file(reading, tmp_path, monkeypatch):
    serac = serac_for(reading)
    state = replace(STATE, edits=(replace(EDIT, method="serac", editor=editor_mark(serac)),), components=())
    session = ExplorerSession(reading, name="random", editors=serac)
    row = asked(session, "compare", state)["comparisons"][-1]
    session.close()
    serac.save(tmp_path / "serac")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tlk, "load_model", lambda name: reading)
    agrees(row, ran(replace(state, subject=None), "random"))
    with pytest.raises(ModelStateError, match="a hook is on"):  # refused as on the page
        ran(replace(state, subject=None, knocked_out=((0, 0),)), "random")


def test_a_page_that_is_kept_says_what_was_read_and_of_what_the_maps_are(factlm):
    session = ExplorerSession(factlm, name="factlm")
    row = asked(session, "compare", FRANCE)["comparisons"][0]
    page = export_page(session, "tab", FRANCE)
    session.close()
    assert "The capital of France is → London (ike)" in page and UNCHANGED in page.replace("&#39;", "'")
    assert "New Fact: The capital of France is London\nPrompt: The capital of France is" in page and row.read in page.replace("&#39;", "'")
