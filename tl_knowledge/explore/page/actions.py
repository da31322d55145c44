"""What each control does: the tab's next state, written into the address, from which everything else follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dash import ALL, Dash, Input, Output, State, ctx, no_update, set_props

from tl_knowledge.errors import InputError
from tl_knowledge.explore.links import from_query, to_query
from tl_knowledge.explore.page import changes
from tl_knowledge.explore.page.draw import prompt_mark
from tl_knowledge.explore.page.marks import fact_marked
from tl_knowledge.explore.session import ExplorerSession
from tl_knowledge.explore.state import ExplorerState

__all__ = ["add_actions", "state_at"]

PAST = 100
"""How many steps can be undone."""

Change = Callable[..., ExplorerState]


def state_at(address: str | None) -> ExplorerState:
    """The tab that an address says after its ``#``, which never leaves the browser by itself.

    Raises:
        InputError: as `from_query`.
    """
    return from_query((address or "").removeprefix("#"))


def add_actions(app: Dash, session: ExplorerSession) -> None:
    """Connect every control."""
    _typed_actions(app, session)
    _pressed_actions(app)
    _undo(app)
    _cancel(app, session)


def _typed_actions(app: Dash, session: ExplorerSession) -> None:
    """Controls with something typed, ticked or marked beside them."""
    _action(app, "predict", Input("read", "n_clicks"), changes.asked, State("prompt", "value"), State("target", "value"))
    _action(app, "predict", Input("marked", "data"), _marked, State("marked", "data"), State("role", "value"))
    settings = [State(name, "value") for name in ("corrupt", "components", "window", "samples", "seed", "metric")]
    _action(app, "trace", Input("trace", "n_clicks"), changes.traced, *settings)
    cell = [State(name, "value") for name in ("cell-component", "cell-layer", "cell-token")]
    _action(app, "cell", Input("look", "n_clicks"), changes.looked_at, *cell)

    def edit(state: ExplorerState, tab: str, method: Any, layers: Any, target_new: Any) -> ExplorerState:
        known = session.known(tab, state)
        if "prediction" not in known:
            raise InputError("the prompt is not read yet; wait a moment, or press Read.")
        editor = next((offer.editor for offer in session.methods if offer.name == method), "")
        return changes.edited(state, fact_marked(known["prediction"].labels, state), method, layers, target_new, editor)

    _action(
        app,
        "edit",
        Input("edit", "n_clicks"),
        edit,
        State("tab", "data"),
        State("method", "value"),
        State("layers", "value"),
        State("target-new", "value"),
    )
    _action(app, "further", Input("compare", "n_clicks"), changes.compared_on, State("further", "value"))


def _pressed_actions(app: Dash) -> None:
    """Controls that came with results; which one was pressed says what to do."""
    _action(app, "circuit", Input("find-circuit", "n_clicks"), changes.circuit_found)
    _action(app, "cell", Input({"type": "map", "component": ALL}, "clickData"), _clicked)
    _action(app, "cell", Input({"type": "unit", "kind": ALL, "layer": ALL, "unit": ALL}, "n_clicks"), _switched)
    _action(app, "cell", Input({"type": "units", "kind": ALL, "units": ALL}, "n_clicks"), _all_switched)
    _action(app, "compare", Input({"type": "drop", "kind": ALL, "number": ALL}, "n_clicks"), _dropped)


def _marked(state: ExplorerState, marked: dict[str, Any], role: Any) -> ExplorerState:
    if marked["of"] != prompt_mark(state.prompt):
        raise InputError("those tokens are of the prompt before; wait until this one is read, and mark its own.")
    return changes.marked(state, role, int(marked["start"]), int(marked["stop"]))


def _pressed() -> dict[str, Any]:
    """The name of the control that was pressed."""
    name: Any = ctx.triggered_id
    return dict(name)


def _clicked(state: ExplorerState) -> ExplorerState:
    point = ctx.triggered[0]["value"]["points"][0]
    return changes.looked_at(state, _pressed()["component"], point["x"], point["y"])


def _switched(state: ExplorerState) -> ExplorerState:
    pressed = _pressed()
    return changes.toggled(state, pressed["kind"], [(pressed["layer"], pressed["unit"])])


def _all_switched(state: ExplorerState) -> ExplorerState:
    pairs = [tuple(map(int, pair.split("."))) for pair in _pressed()["units"].split(",")]
    return changes.toggled(state, _pressed()["kind"], [(layer, unit) for layer, unit in pairs])


def _dropped(state: ExplorerState) -> ExplorerState:
    return changes.without(state, _pressed()["kind"], _pressed()["number"])


def _action(app: Dash, where: str, trigger: Input, change: Change, *values: State) -> None:
    """One control: what it makes of the state, or the sentence of its error beside it."""

    @app.callback(
        Output("address", "hash", allow_duplicate=True),
        Output("past", "data", allow_duplicate=True),
        Output("again", "data", allow_duplicate=True),
        trigger,
        State("address", "hash"),
        State("past", "data"),
        State("again", "data"),
        *values,
        prevent_initial_call=True,
    )
    def act(_: Any, address: str | None, past: list[str] | None, again: int | None, *given: Any) -> tuple[Any, Any, Any]:  # pyright: ignore[reportUnusedFunction]
        if not any(each["value"] for each in ctx.triggered):  # it came onto the page, nobody pressed it
            return no_update, no_update, no_update
        old, known = _state_or_empty(address)
        try:
            new = changes.settled(old, change(old, *given))
        except InputError as error:
            set_props(f"error-{where}", {"children": str(error)})
            return no_update, no_update, no_update
        set_props(f"error-{where}", {"children": ""})
        if new == old:  # asked once more: what failed or was cancelled is tried again
            return no_update, no_update, (again or 0) + 1
        return f"#{to_query(new)}", [*(past or []), *([address or ""] if known else [])][-PAST:], no_update


def _state_or_empty(address: str | None) -> tuple[ExplorerState, bool]:
    """The tab that an address says; an empty one where it says none, so that a broken link stops nobody who types a prompt of his own."""
    try:
        return state_at(address), True
    except InputError:
        return ExplorerState(components=()), False


def _undo(app: Dash) -> None:
    @app.callback(
        Output("address", "hash", allow_duplicate=True),
        Output("past", "data", allow_duplicate=True),
        Input("undo", "n_clicks"),
        State("past", "data"),
        prevent_initial_call=True,
    )
    def undo(_: Any, past: list[str] | None) -> tuple[Any, Any]:  # pyright: ignore[reportUnusedFunction]
        return (past[-1] or "#", past[:-1]) if past else (no_update, no_update)

    @app.callback(Output("undo", "disabled"), Input("past", "data"))
    def can_undo(past: list[str] | None) -> bool:  # pyright: ignore[reportUnusedFunction]
        return not past


def _cancel(app: Dash, session: ExplorerSession) -> None:
    """What is computed is given up; the state stays."""

    @app.callback(
        Output("jobs", "data", allow_duplicate=True),
        Input("cancel", "n_clicks"),
        State("tab", "data"),
        State("jobs", "data"),
        prevent_initial_call=True,
    )
    def cancel(_: Any, tab: str, jobs: Any) -> Any:  # pyright: ignore[reportUnusedFunction]
        for job in (jobs or {"of": {}})["of"].values():
            session.cancel(tab, job["id"])
        return no_update
