"""The explorer's page without a browser: who is let in, what each control makes of a tab, and what a tab asks for."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import pytest
from dash import Dash, html
from flask import Flask
from typer.testing import CliRunner

from tl_knowledge.cli import app as commands
from tl_knowledge.errors import InputError, SubjectNotFoundError
from tl_knowledge.explore.jobs import JobView
from tl_knowledge.explore.page import changes, news
from tl_knowledge.explore.page.app import explorer_app
from tl_knowledge.explore.page.draw import token_buttons
from tl_knowledge.explore.page.marks import fact_marked
from tl_knowledge.explore.page.server import IDENTITY, guard, local_socket
from tl_knowledge.explore.page.wanted import submitted, wanted_tasks
from tl_knowledge.explore.session import ExplorerSession
from tl_knowledge.explore.state import EditRequest, ExplorerState

PORT = 8050
STATE = ExplorerState("Paul McCartney plays the", subject=(1, 3), components=("mlp_out",), cell=("mlp_out", 0, 2))


@pytest.fixture
def served() -> Flask:
    app = Dash("guarded", enable_mcp=False)
    app.layout = html.Div()
    guard(app.server, PORT, scripts=app.csp_hashes())
    return app.server


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8050", "127.0.0.1:8051", "127.0.0.1", "0.0.0.0:8050"])
def test_a_request_under_another_name_is_refused(served, host):
    answer = served.test_client().get("/", headers={"Host": host})
    assert answer.status_code == 403 and "127.0.0.1:8050 only" in answer.text


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1:8050", "http://127.0.0.1:8051"])
def test_a_request_from_another_sites_page_is_refused(served, origin):
    answer = served.test_client().post("/_dash-update-component", json={}, headers={"Host": "127.0.0.1:8050", "Origin": origin})
    assert answer.status_code == 403 and "Another site" in answer.text


@pytest.mark.parametrize("name", ["127.0.0.1:8050", "localhost:8050"])
def test_its_own_page_is_served_and_may_reach_nothing_else(served, name):
    answer = served.test_client().get("/", headers={"Host": name, "Origin": f"http://{name}"})
    assert answer.status_code == 200
    policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["form-action"] == "'none'"
    assert "unsafe" not in policy["script-src"] and "http" not in str(policy)


def test_a_port_is_for_this_machine_only_and_not_for_two():
    with local_socket(0) as held:
        host, port = held.getsockname()
        assert host == "127.0.0.1"
        with pytest.raises(InputError, match=f"port {port} of this machine cannot be used .*--port"):
            local_socket(port)
        result = CliRunner().invoke(commands, ["explore", "--port", str(port), "--no-browser"])
        assert isinstance(result.exception, InputError)
    with socket.socket() as free:
        free.bind(("127.0.0.1", port))


def test_without_dash_the_command_says_what_to_install(monkeypatch):
    monkeypatch.setattr("tl_knowledge.cli.explore.find_spec", lambda name: None)
    result = CliRunner().invoke(commands, ["explore"])
    assert isinstance(result.exception, InputError) and 'pip install "tl-knowledge[explore]"' in str(result.exception)


def test_another_prompt_has_no_marks_but_keeps_what_is_changed():
    changed = replace(STATE, suppressed=((0, 1),), edits=(EditRequest("rome", "a", "{} b", " c"),))
    asked = changes.asked(changed, "Rome is", " in")
    assert (asked.subject, asked.cell, asked.components, asked.target) == (None, None, (), " in")
    assert (asked.suppressed, asked.edits) == (changed.suppressed, changed.edits)
    assert changes.asked(changed, changed.prompt, " piano") == replace(changed, target=" piano")
    with pytest.raises(InputError, match="the prompt is empty"):
        changes.asked(changed, "", None)


def test_marks_come_off_where_they_meet_and_when_they_are_made_again():
    both = changes.marked(STATE, "relation", 3, 5)
    assert (both.subject, both.relation) == ((1, 3), (3, 5))
    over = changes.marked(both, "relation", 2, 5)
    assert (over.subject, over.relation) == (None, (2, 5))
    bare = changes.marked(STATE, "subject", 1, 3)
    assert (bare.subject, bare.components, bare.cell) == (None, (), None)


def test_a_trace_needs_a_mark_and_a_component():
    with pytest.raises(InputError, match="no component is ticked"):
        changes.traced(STATE, "subject", [], "auto", 10, 0, "logit")
    with pytest.raises(InputError, match="no token is marked"):
        changes.traced(ExplorerState("Rome is in"), "subject", ["mlp_out"], "auto", 10, 0, "logit")
    with pytest.raises(InputError, match="noise samples is None; type a whole number"):
        changes.traced(STATE, "subject", ["mlp_out"], "auto", None, 0, "logit")
    new = changes.traced(STATE, "subject", ["attn_out", "resid_post"], "3", 3, 1, "logit")
    assert (new.components, new.window, new.samples, new.seed, new.metric) == (("resid_post", "attn_out"), 3, 3, 1, "logit")
    with pytest.raises(InputError, match="layers restored together are 'two'"):
        changes.traced(STATE, "subject", ["mlp_out"], "two", 10, 0, "logit")


def test_units_are_switched_off_and_on_again_together():
    off = changes.toggled(STATE, "suppressed", [(0, 1), (0, 2)])
    assert off.suppressed == ((0, 1), (0, 2))
    assert changes.toggled(off, "suppressed", [(0, 2), (0, 3)]).suppressed == ((0, 1), (0, 2), (0, 3))
    assert changes.toggled(off, "suppressed", [(0, 2), (0, 1)]) == STATE
    assert changes.without(off, "suppressed", 0).suppressed == ((0, 2),)


def test_an_edit_takes_its_layers_as_they_are_typed():
    edited = changes.edited(STATE, ("Rome", "{} is"), "memit", "3, 4", " x")
    assert edited.edits == (EditRequest("memit", "Rome", "{} is", " x", (3, 4)),)
    with pytest.raises(InputError, match="layers '3-4' are no numbers"):
        changes.edited(STATE, ("Rome", "{} is"), "memit", "3-4", " x")
    with pytest.raises(InputError, match="there is no new answer"):
        changes.edited(STATE, ("Rome", "{} is"), "rome", "", " ")


def test_the_marked_fact_is_read_off_tokens_with_and_without_their_spaces():
    spaced, bare = ["BOS", "Paul", " McC", "artney", " plays"], ["BOS", "Paul", "McC", "artney", "plays"]
    state = ExplorerState("Paul McCartney plays", subject=(1, 4))
    assert fact_marked(spaced, state) == fact_marked(bare, state) == ("Paul McCartney", "{} plays")
    with pytest.raises(SubjectNotFoundError, match="no subject is marked"):
        fact_marked(spaced, replace(state, subject=None))
    with pytest.raises(SubjectNotFoundError, match="'a' stands 3 times"):
        fact_marked(["BOS", "a", " banana"], ExplorerState("a bana", subject=(1, 2)))


def test_a_tab_asks_for_what_its_state_needs_and_for_nothing_twice():
    assert wanted_tasks(ExplorerState("")) == {}
    assert list(wanted_tasks(ExplorerState("Rome"))) == ["predict"]
    assert list(wanted_tasks(STATE)) == ["predict", "trace", "cell"]
    assert list(wanted_tasks(replace(STATE, circuit=True))) == ["predict", "trace", "cell", "circuit"]
    assert list(wanted_tasks(replace(STATE, circuit=True, subject=None))) == ["predict"]
    for change in ({"window": 2}, {"components": ("attn_out",)}, {"metric": "logit"}):
        assert wanted_tasks(replace(STATE, **change))["trace"] != wanted_tasks(STATE)["trace"]
    other = wanted_tasks(replace(STATE, cell=("mlp_out", 1, 2), knocked_out=((1, 1),)))
    own = wanted_tasks(STATE)
    assert {name for name in own if other[name] == own[name]} == {"predict", "trace"} and "compare" in other


def test_a_circuit_stays_while_it_is_the_states_own_and_another_one_waits_to_be_asked_for():
    found = changes.circuit_found(STATE)
    assert found == replace(STATE, circuit=True) and changes.settled(STATE, found) == found
    for kept in ({"cell": None}, {"components": ("attn_out",)}, {"further": ("Rome",)}, {"knocked_out": ((0, 1),)}):
        assert changes.settled(found, replace(found, **kept)).circuit
    for other in ({"samples": 3}, {"window": 2}, {"subject": (1, 2)}, {"target": " x"}, {"metric": "logit"}, {"prompt": "Rome"}):
        assert changes.settled(found, replace(found, **other)) == replace(STATE, **other)
    for bare in (replace(STATE, components=()), replace(STATE, subject=None)):
        with pytest.raises(InputError, match="there is no trace yet; mark the subject and press Trace first"):
            changes.circuit_found(bare)


class Recorder:
    """A session that only writes down what it is asked."""

    name, layers, heads, methods, identity, options = "nobody", 1, 1, (), "abc", ""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.left: list[str] = []
        self.given_up: list[str] = []
        self.status, self.results, self.held = "done", {"it": 1}, {"it": 1}

    def submit(self, tab: str, task: str, state: ExplorerState) -> str:
        self.asked.append(task)
        return f"{task}-{len(self.asked)}"

    def view(self, tab: str, job: str) -> Recorder:
        return self

    def leave(self, tab: str) -> None:
        self.left.append(tab)

    def known(self, tab: str, state: ExplorerState) -> dict[str, int]:
        return self.held

    def cancel(self, tab: str, job: str) -> None:
        self.given_up.append(job)


def test_jobs_go_on_while_they_answer_the_same_and_are_asked_again_when_forgotten(without_type_checks):
    session = Recorder()
    first = submitted(session, "tab", STATE, wanted_tasks(STATE), {}, once_more=False)  # pyright: ignore[reportArgumentType]
    assert session.asked == ["predict", "trace", "cell"]
    moved = replace(STATE, cell=None)
    second = submitted(session, "tab", moved, wanted_tasks(moved), first, once_more=True)  # pyright: ignore[reportArgumentType]
    assert session.asked == ["predict", "trace", "cell"] and session.given_up == [first["cell"]["id"]]
    session.held = {}
    submitted(session, "tab", moved, wanted_tasks(moved), second, once_more=True)  # pyright: ignore[reportArgumentType]
    assert session.asked[3:] == ["predict", "trace"]
    session.asked[3:], session.status = [], "unknown"
    submitted(session, "tab", moved, wanted_tasks(moved), second, once_more=True)  # pyright: ignore[reportArgumentType]
    assert session.asked[3:] == ["predict", "trace"]


def called(app: Dash, pressed: str, values: dict[str, Any]) -> Any:
    """What a page gets when a control is pressed.

    Args:
        pressed: the control; the callback is the first that it alone, or it among others, starts.
        values: of all controls that the callback reads.
    """
    output, callback = next(
        (name, each) for name, each in app.callback_map.items() if "callback" in each and pressed in [heard["id"] for heard in each["inputs"]]
    )
    parts = [dict(zip(("id", "property"), part.split("@")[0].rsplit(".", 1), strict=True)) for part in output.strip(".").split("...")]

    def filled(kind: str) -> list[dict[str, Any]]:
        return [each | {"value": values.get(each["id"])} for each in callback[kind]]

    request = {
        "output": output,
        "outputs": parts if output.startswith("..") else parts[0],
        "inputs": filled("inputs"),
        "changedPropIds": [f"{each['id']}.{each['property']}" for each in callback["inputs"] if each["id"] == pressed],
        "state": filled("state"),
    }
    return app.server.test_client().post("/_dash-update-component", json=request, headers={IDENTITY: "abc"})


def test_whatever_goes_wrong_in_the_page_is_a_sentence_on_it(without_type_checks, caplog):
    app = explorer_app(Recorder())  # pyright: ignore[reportArgumentType]
    values = {"tab": "1", "jobs": {"of": {}, "address": "#prompt=a&cell=1"}, "drawn": {}, "again": 0}
    answer = called(app, "beat", values | {"beat": {"number": 1, "dark": False}})
    assert answer.status_code == 200 and "the explorer's page failed" in caplog.text
    assert "InputError: the link's cell '1' is not understood" in answer.json["sideUpdate"]["error-link"]["children"]


@pytest.mark.parametrize("headers", [{}, {IDENTITY: "abd"}])
def test_a_page_of_another_model_is_told_so_and_gets_no_numbers(without_type_checks, headers):
    client = explorer_app(Recorder()).server.test_client()  # pyright: ignore[reportArgumentType]
    assert f'<meta name="{IDENTITY}" content="abc">' in client.get("/").text
    answer = client.post("/_dash-update-component", json={}, headers=headers)
    assert answer.status_code == 409 and answer.text == "Another model answers here now; load the page again.\n"


def test_the_identity_is_of_the_name_the_loading_and_the_weights(gpt2):
    def identity(name: str) -> str:
        session = ExplorerSession(gpt2, name=name)
        session.close()
        return session.identity

    first = identity("a")
    assert first == identity("a") != identity("b")
    bias = next(iter(gpt2.parameters())).data
    before = bias.clone()
    try:
        bias.flatten()[0] += 1
        assert identity("a") != first
    finally:
        bias.copy_(before)


BROKEN = "#" + urlencode({"prompt": "Rome is in", "edits": '["rme","Rome","{} is in"," x"]'})


def test_a_link_with_an_unknown_method_is_refused_whole_and_a_prompt_can_still_be_typed(without_type_checks):
    session = Recorder()
    app = explorer_app(session)  # pyright: ignore[reportArgumentType]
    refused = called(app, "address", {"address": BROKEN, "tab": "1"})
    assert "did you mean 'rome'" in refused.json["sideUpdate"]["error-link"]["children"] and session.asked == []
    typed = called(app, "read", {"read": 1, "address": BROKEN, "prompt": "Paris is in", "past": ["#prompt=a"]}).json["response"]
    assert typed["address"]["hash"] == "#prompt=Paris+is+in&components="
    assert typed["past"]["data"] == ["#prompt=a"]
    circuit = called(app, "find-circuit", {"find-circuit": 1, "address": BROKEN})
    assert "there is no trace yet" in circuit.json["sideUpdate"]["error-circuit"]["children"]
    found = called(app, "find-circuit", {"find-circuit": 1, "address": "#prompt=Rome+is+in&subject=1-2"}).json["response"]
    assert found["address"]["hash"] == "#prompt=Rome+is+in&subject=1-2&circuit=yes"
    assert "error-link" not in called(app, "cancel", {"cancel": 1, "tab": "1"}).json.get("sideUpdate", {})


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], Any]:
    """What the page is told, by place and property; the last word counts."""
    said: dict[tuple[str, str], Any] = {}
    monkeypatch.setattr(news, "set_props", lambda place, props: said.update({(place, name): value for name, value in props.items()}))
    return said


class Views:
    """A session whose jobs are what a test says, each its task's."""

    def __init__(self, *views: JobView) -> None:
        self.views = {view.id: view for view in views}

    def view(self, tab: str, job: str) -> JobView:
        return self.views[job]


def told_of(view: JobView, drawn: dict[str, str]) -> dict[str, str]:
    now, _, _ = news.show_news(Views(view), "tab", {view.task: {"id": view.id}}, drawn, news.Shown(STATE, night=False))  # pyright: ignore
    return now


def test_words_of_what_was_cancelled_go_with_it(told, without_type_checks):
    told_of(JobView("1", "trace", "cancelled"), {})
    assert told["progress", "children"].startswith("Cancelled; what was traced by then is shown")
    told_of(JobView("2", "predict", "running"), {"trace": "1"})
    assert told["progress", "children"] == "" and told["maps", "children"].children == []


def test_tokens_are_stale_while_another_prompt_is_read_and_gone_when_that_fails(told, without_type_checks):
    now = told_of(JobView("1", "predict", "running"), {"predict": "0"})
    assert told["tokens", "className"] == told["prediction", "className"] == "stale" and told["error-predict", "children"] == ""
    told_of(JobView("1", "predict", "failed", error="too long."), now)
    assert told["error-predict", "children"] == "too long." and told["tokens", "className"] == ""
    assert told["tokens", "children"] == told["edited-fact", "children"] == told["cell-token", "options"] == []
    assert told["cell-token", "value"] is None and told["marking", "hidden"] is True


@pytest.mark.parametrize(("task", "words"), [("compare", "Press Compare"), ("cell", "Press Look"), ("circuit", "Press Find the circuit")])
def test_whatever_is_cancelled_says_so_and_what_starts_it_again(told, without_type_checks, task, words):
    told_of(JobView("1", task, "cancelled"), {})
    assert told[f"error-{task}", "children"] == f"Cancelled. {words} to start again."
    told_of(JobView("2", task, "queued"), {})
    assert told[f"error-{task}", "children"] == ""


def test_a_job_that_says_nothing_for_long_is_said_to(told, without_type_checks):
    told_of(JobView("1", "trace", "running", seconds=9, silent=1), {})
    assert "no sign of life" not in told["doing", "children"]
    told_of(JobView("1", "trace", "running", seconds=9, silent=8), {})
    assert told["doing", "children"].endswith(", 9 s, no sign of life for 8 s")


def test_a_click_on_a_token_of_the_prompt_before_marks_nothing(without_type_checks):
    app = explorer_app(Recorder())  # pyright: ignore[reportArgumentType]
    buttons = token_buttons(["BOS", "Rome"], ExplorerState("Rome"), has_bos=True)
    click = {"start": 1, "stop": 2, "of": getattr(buttons[0], "data-of")}
    own = called(app, "marked", {"marked": click, "role": "subject", "address": "#prompt=Rome"})
    assert own.json["response"]["address"]["hash"] == "#prompt=Rome&subject=1-2"
    other = called(app, "marked", {"marked": click, "role": "subject", "address": "#prompt=Paris"})
    assert "are of the prompt before" in other.json["sideUpdate"]["error-predict"]["children"]


def test_news_never_write_down_jobs_which_others_ask_for_meanwhile(without_type_checks):
    app = explorer_app(Recorder())  # pyright: ignore[reportArgumentType]
    heard = [name for name, each in app.callback_map.items() if [one["id"] for one in each["inputs"]] == ["beat"]]
    assert len(heard) == 1 and "jobs.data" not in heard[0] and "pending.data" in heard[0]


def test_a_closed_tab_is_left_by_its_own_page_only(without_type_checks):
    session = Recorder()
    client = explorer_app(session).server.test_client()  # pyright: ignore[reportArgumentType]
    assert client.post("/leave", data="mine", headers={IDENTITY: "abc"}).status_code == 204
    assert client.post("/leave", data="mine").status_code == 409
    assert session.left == ["mine"]
