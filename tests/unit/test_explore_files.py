"""What leaves the explorer: a program that gives the same numbers, a page in which every text is text, and data that can be read again."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from support import BUILDERS, build, tokenizer_of_sixty_words
from support.explorer import asked

import tl_knowledge as tlk
from tl_knowledge.errors import InputError
from tl_knowledge.explore.arrows import arrows_at
from tl_knowledge.explore.code import loading_options, state_code
from tl_knowledge.explore.export import changes_in_words, export_data, export_page, plain_cells
from tl_knowledge.explore.links import from_query
from tl_knowledge.explore.session import ExplorerSession
from tl_knowledge.explore.state import EditRequest, ExplorerState
from tl_knowledge.explore.tasks import TASKS
from tl_knowledge.models.loading import hooked_transformer_available

pytestmark = pytest.mark.touches_model

HOSTILE = '<script>alert(\'1\')</script> =cmd() $x^2$ %{y} {} """\\ \x07 </pre> w1'
STATE = ExplorerState(
    "w3 w14 w15 w9 w2 w6",
    subject=(1, 3),
    target="w5",
    samples=2,
    suppressed=((1, 3),),
    knocked_out=((2, 0), (3, 1)),
    edits=(EditRequest("ft", "w14 w15", "w3 {} w9", "w7", (1,)), EditRequest("ft-attn", "w20", "{} w1", "w8", (2,))),
    further=("w1 w2",),
)


@pytest.fixture(params=[pytest.param("bridge-gpt2", marks=pytest.mark.typed), "bridge-llama"])
def session(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ExplorerSession]:
    """On a tiny model, which programs load by its name, too."""
    model = build(request.param)
    before, model.tokenizer = model.tokenizer, tokenizer_of_sixty_words()
    monkeypatch.setattr(tlk, "load_model", lambda name, **options: {("random", torch.float64): model}[name, options["dtype"]])
    made = ExplorerSession(model, name="random")
    yield made
    made.close()
    model.tokenizer = before


def ran(state: ExplorerState, name: str, *, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """The names that a tab's program leaves."""
    names: dict[str, Any] = {}
    options = "" if name == "factlm" else f"dtype={dtype}"
    exec(compile(state_code(state, name, options=options), "program", "exec"), names)
    return names


def same_effects(first: Any, second: Any) -> bool:
    return torch.equal(first.indirect_effect.nan_to_num(9.0), second.indirect_effect.nan_to_num(9.0))


@pytest.mark.parametrize("cell", [("attn_out", 2, 4), ("mlp_out", 1, 2), ("resid_post", 3, 5)])
def test_the_program_gives_what_the_tab_shows(session, cell):
    about = {"window": 2, "metric": "logit", "seed": 3, "further": (), "circuit": cell[0] == "resid_post"}
    state = replace(STATE, cell=cell, components=("mlp_out", "attn_out"), **about)
    names = ran(state, "random")
    prediction = asked(session, "predict", state)["prediction"]
    assert [each.token for each in prediction.top] == names["probabilities"].topk(10).indices.tolist()
    assert abs(prediction.probability - float(names["probabilities"][5])) <= 1e-12
    maps = asked(session, "trace", state)
    assert list(maps) == list(names["traces"]) and all(same_effects(maps[part], names["traces"][part]) for part in maps)
    details = asked(session, "cell", state)["cell"]
    if cell[0] == "attn_out":
        assert same_effects(details.heads, names["heads"]) and torch.allclose(details.pattern, names["pattern"].float(), atol=1e-6)
    elif cell[0] == "mlp_out":
        assert same_effects(details.neurons, names["neurons"]) and details.words.table.equals(names["words"].table)
    else:
        assert details.lens.table.equals(names["lens"].table)
        circuit = asked(session, "circuit", state)["circuit"]
        assert circuit.nodes == names["circuit"].nodes and torch.equal(circuit.effect, names["circuit"].effect)


def test_the_program_changes_what_the_tab_changes(session):
    names = ran(STATE, "random")
    row = asked(session, "compare", STATE)["comparisons"][-1]
    assert row.text == names["text"] == "w1 w2"
    for prediction, wanted in ((row.before, names["before"]), (row.after, names["after"])):
        assert [each.token for each in prediction.top] == wanted.topk(10).indices.tolist()
        assert all(abs(each.probability - float(wanted[each.token])) <= 1e-12 for each in prediction.top)
    assert row.before != row.after


def test_probabilities_of_a_model_in_half_precision_are_in_single(monkeypatch):
    model = BUILDERS["bridge-gpt2"]().to(torch.bfloat16)
    model.tokenizer = tokenizer_of_sixty_words()
    monkeypatch.setattr(tlk, "load_model", lambda name, dtype: {("random", torch.bfloat16): model}[name, dtype])
    session, state = ExplorerSession(model, name="random"), replace(STATE, edits=())
    prediction, compared = asked(session, "predict", state)["prediction"], asked(session, "compare", state)["comparisons"]
    session.close()
    names = ran(state, "random", dtype=torch.bfloat16)
    for shown, wanted in ((prediction, names["probabilities"]), (compared[-1].before, names["before"]), (compared[-1].after, names["after"])):
        assert wanted.dtype == torch.float32
        assert all(each.probability == pytest.approx(float(wanted[each.token]), rel=1e-6) for each in shown.top)
    logits = model(tlk.Prompt.from_text(model, STATE.prompt).tokens)[0, -1].detach()
    assert names["probabilities"][5] == logits.double().softmax(-1)[5].float() != logits.softmax(-1)[5].float()


@pytest.mark.parametrize("side", ["subject", "relation"])
def test_a_marked_relation_is_in_the_program(session, side):
    state = ExplorerState(STATE.prompt, subject=(1, 2), relation=(3, 5), corrupt=side, components=("resid_post",), samples=2)
    assert same_effects(ran(state, "random")["traces"]["resid_post"], asked(session, "trace", state)["resid_post"])


def test_the_program_of_an_edit_with_moments(factlm):
    edit = EditRequest("alphaedit", "France", "The capital of {} is", " London")
    state = ExplorerState("The capital of France is", edits=(edit,))
    session = ExplorerSession(factlm, name="factlm")
    (row,) = asked(session, "compare", state)["comparisons"]
    session.close()
    after = ran(state, "factlm")["after"]
    assert [each.token for each in row.after.top] == after.topk(10).indices.tolist()
    assert all(abs(each.probability - float(after[each.token])) <= 1e-5 for each in row.after.top)
    assert row.answers[1].after > 0.5 > row.answers[1].before


def test_texts_of_a_tab_are_literals_of_its_program():
    state = replace(STATE, prompt=HOSTILE, target=HOSTILE, edits=(EditRequest("rome", HOSTILE, f"a {HOSTILE}", HOSTILE),), further=(HOSTILE,))
    code = state_code(replace(state, circuit=True), HOSTILE)
    compile(code, "program", "exec")
    assert f"subject_span=(1, 3), target={HOSTILE!r})" in code and f"tlk.load_model({HOSTILE!r})" in code
    assert "\x07" not in code and "KeyMoments.load" in code


@pytest.fixture(scope="module")
def looked_at() -> Iterator[tuple[ExplorerSession, ExplorerState]]:
    """A session in which everything of a tab was computed."""
    model, state = build("bridge-gptneox"), replace(STATE, cell=("attn_out", 2, 4), circuit=True)  # no other test here has it
    before, model.tokenizer = model.tokenizer, tokenizer_of_sixty_words()
    session = ExplorerSession(model, name="random")
    for task in TASKS:
        asked(session, task, state)
    yield session, state
    session.close()
    model.tokenizer = before


def test_a_page_has_all_that_was_looked_at(looked_at):
    session, state = looked_at
    page = export_page(session, "tab", state)
    assert page.startswith("<!doctype html>") and page.count('drawFigure("figure-') == 6
    for words in ("Before and after", "neuron 3 of layer 1 suppressed", "head 0 of layer 2 knocked out", "w3 w14 w15 w9 → w7 (ft)", "tlk.load_model"):
        assert words in page.replace("&#39;", "'").replace("&#34;", '"')
    one = export_page(session, "tab", replace(state, components=("mlp_out",), cell=None, edits=()))
    assert one.count('drawFigure("figure-') == 2 and "Before and after" not in one


def test_what_is_lacking_is_said_and_never_left_out_in_silence(looked_at):
    session, state = looked_at
    assert "Not there when this was saved" not in export_page(session, "tab", state)
    more = replace(state, seed=5, further=("w1 w9",))
    lacking = "Not there when this was saved, as it was not finished, failed or was cancelled: the map of residual state, the map of MLP output, "
    lacking += "the map of attention output, what is behind the clicked cell, the circuit, before and after."
    assert lacking in export_page(session, "tab", more)
    with zipfile.ZipFile(io.BytesIO(export_data(session, "tab", more))) as archive:
        assert lacking in archive.read("READ_ME.txt").decode()


def test_a_page_has_every_text_as_text(session):
    state = ExplorerState(HOSTILE, further=(HOSTILE,), knocked_out=((0, 0),))
    asked(session, "predict", state)
    asked(session, "compare", state)
    page = export_page(session, "tab", state)
    assert "alert(" in page and "<script>alert" not in page
    assert "</pre> w1" not in page and "\x07" not in page


def test_a_sites_arrows_are_those_that_begin_or_end_there(looked_at):
    session, state = looked_at
    circuit = asked(session, "circuit", state)["circuit"]
    counted = 0
    for node in circuit.nodes:
        arrows = arrows_at(circuit, (node.component, node.layer, node.pos))
        into, out = [each for each in arrows if each.into], [each for each in arrows if not each.into]
        assert sorted(each.weight for each in into) == sorted(edge.weight for edge in circuit.edges if edge.target == node)
        assert sorted(each.need for each in out) == sorted(edge.need for edge in circuit.edges if edge.source == node)
        strengths = [max(abs(each.weight), abs(each.need)) for each in arrows]
        assert strengths == sorted(strengths, reverse=True)
        counted += len(arrows)
    assert counted >= len(circuit.edges) > 0
    assert arrows_at(circuit, ("resid_post", 0, 0)) == ()


def test_data_can_be_read_again(looked_at, tmp_path):
    session, state = looked_at
    packed = export_data(session, "tab", state)
    (tmp_path / "tab.zip").write_bytes(packed)
    with zipfile.ZipFile(tmp_path / "tab.zip") as archive:
        archive.extractall(tmp_path)
        names = set(archive.namelist())
    maps = asked(session, "trace", state)
    for part in maps:
        assert same_effects(tlk.CausalTrace.load(tmp_path / f"{part}.safetensors"), maps[part])
        rows = list(csv.DictReader(io.StringIO((tmp_path / f"{part}.csv").read_text())))
        assert [float(row["effect"]) for row in rows] == pytest.approx(maps[part].to_dataframe()["effect"].tolist())
    assert {"cell_heads.safetensors", "circuit.safetensors", "comparisons.json", "prediction.json", "program.py", "READ_ME.txt"} <= names
    about = json.loads((tmp_path / "state.json").read_text())
    assert from_query(about["link"]) == state and about["model"] == "random"
    compared = json.loads((tmp_path / "comparisons.json").read_text())
    assert [row["text"] for row in compared] == [state.prompt, "w1 w2"]
    assert (tmp_path / "program.py").read_text() == state_code(state, "random", options=session.options)


def test_no_spreadsheet_computes_a_table(gpt2):
    prompt = tlk.Prompt.from_tokens([1, 2, 3], subject=[0], labels=["=cmd()", "-w", "w3"])
    table = tlk.trace(gpt2, prompt, samples=1, progress=False).to_dataframe()
    safe = plain_cells(table)
    assert set(safe["token"]) == {"'=cmd()", "'-w", "w3"} and safe["effect"].equals(table["effect"])


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@a", "\t=1", "\r=1", "\n=1", "\uff1d1", "\uff0b1", "\uff0d1", "\uff201"])
def test_every_beginning_that_a_spreadsheet_computes_is_made_text(text):
    assert plain_cells(pd.DataFrame({"a": [text, "b", 1]}))["a"].tolist() == [f"'{text}", "b", 1]


def test_nothing_is_kept_of_a_tab_that_asked_for_nothing(session):
    for export in (export_page, export_data):
        with pytest.raises(InputError, match="read or trace the prompt first"):
            export(session, "tab", replace(STATE, seed=77, prompt="w9 w9"))


def test_changes_are_sentences():
    assert changes_in_words(ExplorerState("a")) == ()
    assert changes_in_words(STATE) == (
        "neuron 3 of layer 1 suppressed",
        "head 0 of layer 2 knocked out",
        "head 1 of layer 3 knocked out",
        "w3 w14 w15 w9 → w7 (ft)",
        "w20 w1 → w8 (ft-attn)",
    )


def test_the_program_loads_the_model_as_it_was_loaded(factlm, monkeypatch):
    half, plain = tlk.load_model("factlm", dtype=torch.float16, prepend_bos=False), "tlk.load_model('factlm')"
    assert loading_options(factlm, "factlm") == "" and f"model = {plain}" in state_code(ExplorerState("a"), "factlm")
    options = loading_options(half, "factlm")
    assert options == "dtype=torch.float16, prepend_bos=False"
    names: dict[str, Any] = {}
    exec(state_code(ExplorerState("The capital"), "factlm", options=options), names)
    assert len(names["prompt"]) == 2
    assert next(names["model"].parameters()).dtype == torch.float16 and names["probabilities"].dtype == torch.float32
    assert loading_options(factlm, "some/directory") == "prepend_bos=True"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert loading_options(factlm, "factlm") == "device='cpu'"


@pytest.mark.skipif(not hooked_transformer_available(), reason="there is but one class")
def test_the_program_loads_the_class_that_was_loaded():
    options = loading_options(tlk.load_model("factlm", backend="bridge", device="cpu"), "factlm")
    assert options == "backend='bridge'"
    names: dict[str, Any] = {}
    exec(state_code(ExplorerState("The capital"), "factlm", options=options), names)
    assert type(names["model"]).__name__ == "TransformerBridge"


def test_paths_of_models_are_literals_too(tmp_path):
    assert repr(str(tmp_path / "a'b")) in state_code(ExplorerState("a"), str(Path(tmp_path) / "a'b"))
