"""Trained editors in the explorer: a tab's edit is the method's own, and what cannot be used is refused before the page is there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from support import build, fingerprint, hooks_left, tokenizer_of_sixty_words
from support.edits import TEXTS, training_cases
from support.explorer import asked, refused
from typer.testing import CliRunner

import tl_knowledge as tlk
from tl_knowledge.cli import app as commands
from tl_knowledge.editing import KE, MEND, SERAC, TrainingSettings
from tl_knowledge.errors import DataError, InputError, ModelStateError
from tl_knowledge.explore.code import state_code
from tl_knowledge.explore.links import from_query, to_query
from tl_knowledge.explore.methods import editor_mark
from tl_knowledge.explore.page.local import LocalPage
from tl_knowledge.explore.session import ExplorerSession
from tl_knowledge.explore.state import EditRequest, ExplorerState

pytestmark = pytest.mark.touches_model

SETTINGS = TrainingSettings(steps=4, learning_rate=1e-2, accumulate=2, validate_every=2, validation_samples=2)
EDIT = EditRequest("mend", "w14 w15", "w3 {} w9 w2 w6", "w7")
STATE = ExplorerState("w3 w14 w15 w9 w2 w6", subject=(1, 3), edits=(EDIT,), further=("w3 w14 w15 w9",))


@pytest.fixture
def reading(gpt2: Any) -> Iterator[Any]:
    before, gpt2.tokenizer = gpt2.tokenizer, tokenizer_of_sixty_words()
    yield gpt2
    gpt2.tokenizer = before


def trained(reading: Any, method: Any) -> Any:
    method = replace(method, training=SETTINGS, **({} if isinstance(method, SERAC) else {"scale": 3.0}))
    return method.train(reading, training_cases(6), TEXTS, validation=training_cases(40, 2), progress=False)


@pytest.mark.parametrize("method", [MEND.small(), KE.small()])
def test_a_trained_editors_edit_in_a_tab_is_its_own(reading, method):
    editor, before = trained(reading, method), fingerprint(reading)
    name = type(method).__name__.lower()
    session = ExplorerSession(reading, name="random", editors=[editor])
    offer = next(offer for offer in session.methods if offer.name == name)
    assert offer.layers == editor.layers and not offer.refusal and not offer.asks_layers
    edit = replace(EDIT, method=name, editor=offer.editor)
    rows = asked(session, "compare", replace(STATE, edits=(edit,)))["comparisons"]
    again = asked(session, "compare", replace(STATE, edits=(replace(edit, layers=editor.layers[::-1]),)))["comparisons"]
    session.close()
    assert [row.after for row in rows] == [row.after for row in again] and fingerprint(reading) == before and not hooks_left(reading)
    plan = tlk.plan_edit(reading, tlk.Fact(edit.subject, edit.template, edit.target_new), editor, progress=False)
    for row in rows:
        with plan.applied(reading):
            wanted = reading(tlk.Prompt.from_text(reading, row.text).tokens)[0, -1].softmax(-1).detach()
        assert [each.token for each in row.after.top] == wanted.topk(10).indices.tolist()
        assert all(each.probability == pytest.approx(float(wanted[each.token]), abs=1e-9) for each in row.after.top)
    assert rows[0].after != rows[0].before


def test_what_it_was_not_trained_for_is_refused(reading):
    editor = trained(reading, MEND.small())
    session = ExplorerSession(reading, name="random", editors=[editor])
    own = replace(EDIT, editor=editor_mark(editor))
    assert "this MEND was trained for layers 0, 2, not 1; leave the layers empty" in refused(
        session, "compare", replace(STATE, edits=(replace(own, layers=(1,)),))
    )
    assert "start the explorer with --editor FILE" in refused(session, "compare", replace(STATE, edits=(replace(EDIT, method="ke"),)))
    session.close()
    with pytest.raises(InputError, match="two trained editors are MEND; pass one of a kind"):
        ExplorerSession(reading, name="random", editors=[editor, editor])
    with pytest.raises(ModelStateError):
        ExplorerSession(build("bridge-llama"), name="random", editors=[editor])


def test_what_is_no_trained_editor_is_refused(reading, without_type_checks):
    with pytest.raises(InputError, match="an editor is a ROME; pass a trained MEND, KE or SERAC"):
        ExplorerSession(reading, name="random", editors=[tlk.ROME(layer=1)])
    with pytest.raises(InputError, match="an editor is a str; pass a trained MEND, KE or SERAC"):
        ExplorerSession(reading, name="random", editors="mend.safetensors")
    with pytest.raises(InputError, match="MEND edits with trained networks, and these settings have none"):
        ExplorerSession(reading, name="random", editors=MEND.small())


def test_sessions_with_other_editors_are_not_taken_for_each_other(reading):
    editor = trained(reading, MEND.small())
    given: list[Any] = [None, [], editor, [editor], [replace(editor, scale=1.0)], [trained(reading, KE.small())]]
    sessions = [ExplorerSession(reading, name="random", editors=editors) for editors in given]
    identities = [session.identity for session in sessions]
    assert identities[0] == identities[1] and identities[2] == identities[3] and len(set(identities)) == 4
    for session in sessions:
        session.close()


def test_a_link_opens_with_its_own_editor_only(reading, tmp_path):
    editor = trained(reading, MEND.small())
    other, own = replace(editor, scale=1.0), editor_mark(editor)
    state = replace(STATE, edits=(replace(EDIT, editor=own),))
    assert from_query(to_query(state)) == state and own in to_query(state)
    read_again = tlk.editing.load_trained(editor.save(tmp_path / "another_name"))
    sessions = [ExplorerSession(reading, name="random", editors=editors) for editors in (editor, read_again, other, None)]
    first, again = (asked(session, "compare", state)["comparisons"] for session in sessions[:2])
    assert first == again
    words = refused(sessions[2], "compare", state)
    assert f"made with the trained MEND {own}, and the explorer was started with {editor_mark(other)}, which gives other numbers" in words
    assert "start it with --editor and the file that the edit was made with" in words
    assert f"start the explorer with --editor FILE, which tl-knowledge train writes. This edit was made with the trained MEND {own}." in refused(
        sessions[3], "compare", state
    )
    assert "made without saying with which trained MEND" in refused(sessions[0], "compare", STATE)
    rome = replace(EDIT, method="ft", layers=(1,), editor=own)
    assert "FineTune is not trained, but the edit names the trained editor" in refused(sessions[0], "compare", replace(STATE, edits=(rome,)))
    for session in sessions:
        session.close()


def test_the_program_of_a_trained_editor_gives_what_the_tab_shows(reading, tmp_path, monkeypatch):
    editor = trained(reading, MEND.small())
    session = ExplorerSession(reading, name="random", editors=[editor])
    state = replace(STATE, edits=(replace(EDIT, editor=editor_mark(editor)),))
    row = asked(session, "compare", state)["comparisons"][-1]
    session.close()
    editor.save(tmp_path / "mend")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tlk, "load_model", lambda name: reading)
    names: dict[str, Any] = {}
    exec(compile(state_code(state, "random"), "program", "exec"), names)
    assert names["method"] == editor
    assert [each.token for each in row.after.top] == names["after"].topk(10).indices.tolist()


def test_a_trained_method_is_read_from_its_file_whatever_it_is(reading, tmp_path):
    for method in (MEND.small(), SERAC.small()):
        editor = trained(reading, method)
        assert tlk.editing.load_trained(editor.save(tmp_path / "editor")) == editor
    unknown = replace(editor.trained, method="ROME").save(tmp_path / "other")
    with pytest.raises(DataError, match="holds a trained 'ROME', which is no method that is trained"):
        tlk.editing.load_trained(unknown)
    for folder in (tmp_path, "."):
        with pytest.raises(DataError, match="is a folder, and a saved TrainedEditor is one file; pass that file's path"):
            tlk.editing.load_trained(folder)


def test_the_command_reads_editors_before_it_loads_anything(reading, tmp_path, monkeypatch):
    result = CliRunner().invoke(commands, ["explore", "--port", "0", "--no-browser", "--editor", str(tmp_path / "none.safetensors")])
    assert isinstance(result.exception, DataError) and "none.safetensors" in str(result.exception)
    offered: list[Any] = []
    monkeypatch.setattr("tl_knowledge.cli.explore.model_argument", lambda name: reading)
    monkeypatch.setattr(LocalPage, "serve", lambda page: offered.extend(page._session.methods))
    editor = trained(reading, MEND.small())
    path = editor.save(tmp_path / "mend")
    result = CliRunner().invoke(commands, ["explore", "--port", "0", "--no-browser", "--editor", str(path)])
    assert f"the trained MEND is {editor_mark(editor)} in links" in result.output
    assert result.exception is None and [offer.name for offer in offered if not offer.refusal and offer.name in ("mend", "ke")] == ["mend"]
