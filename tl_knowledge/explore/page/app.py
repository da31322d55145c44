"""The page of one session: what is on it, what its controls do, and how it hears from the server."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from dash import ClientsideFunction, Dash, Input, Output, State, no_update, set_props
from flask import request

from tl_knowledge.errors import InputError
from tl_knowledge.explore.code import state_code
from tl_knowledge.explore.export import UNCHANGED, changes_in_words
from tl_knowledge.explore.page.actions import add_actions, state_at
from tl_knowledge.explore.page.draw import active_changes
from tl_knowledge.explore.page.forms import fill_in
from tl_knowledge.explore.page.keeping import add_keeping
from tl_knowledge.explore.page.layout import page_layout
from tl_knowledge.explore.page.news import Shown, show_news
from tl_knowledge.explore.page.server import IDENTITY, answer_only
from tl_knowledge.explore.page.wanted import submitted, wanted_tasks
from tl_knowledge.explore.session import ExplorerSession

__all__ = ["explorer_app"]


def explorer_app(session: ExplorerSession) -> Dash:
    """A Dash app, offline: its programs come from the installed packages."""
    about: dict[str, Any] = {"title": "tl_knowledge explorer", "update_title": "", "on_error": _failed}
    about["meta_tags"] = [{"name": IDENTITY, "content": session.identity}]  # what explorer.js sends with every question
    app = Dash(__name__, serve_locally=True, enable_mcp=False, suppress_callback_exceptions=True, **about)
    app.layout = page_layout(session)
    answer_only(app.server, session.identity)
    in_the_page = [("tab", "name", Input("address", "pathname")), ("pace", "pace", Input("pending", "data"))]
    for name, function, heard in in_the_page:
        app.clientside_callback(ClientsideFunction("explorer", function), Output(name, "data"), heard)
    _leave(app, session)
    _ask(app, session)
    _listen(app, session)
    add_actions(app, session)
    add_keeping(app, session)
    return app


def _leave(app: Dash, session: ExplorerSession) -> None:
    """A tab says that it is closed, so that nothing is computed any more that nobody will see."""

    @app.server.post("/leave")
    def leave() -> tuple[str, int]:  # pyright: ignore[reportUnusedFunction]
        session.leave(request.get_data(as_text=True)[:100])
        return "", 204


def _failed(error: Exception) -> None:
    """Whatever a control ran into, as a sentence on the page; in the terminal as a whole."""
    logging.getLogger(__name__).error("the explorer's page failed", exc_info=error)
    words = f"{type(error).__name__}: {error}. This is not a mistake of yours that we know of; load the page again, or report it."
    set_props("error-link", {"children": words})


def _ask(app: Dash, session: ExplorerSession) -> None:
    """Whenever the address changes: ask for what it needs, fill in the forms, and draw what is there already."""

    @app.callback(
        Output("jobs", "data"),
        Output("drawn", "data"),
        Output("pending", "data"),
        Input("address", "hash"),
        Input("again", "data"),
        Input("tab", "data"),
        State("jobs", "data"),
        State("drawn", "data"),
        State("beat", "data"),
    )
    def ask(address: str | None, again: int | None, tab: str | None, jobs: Any, drawn: Any, beat: Any) -> tuple[Any, Any, Any]:  # pyright: ignore[reportUnusedFunction]
        if not tab:
            return no_update, no_update, no_update
        before: Mapping[str, Any] = jobs or {"of": {}}
        try:
            state = state_at(address)
            once_more = again != before.get("again")
            wanted = wanted_tasks(state)
            program = state_code(state, session.name, options=session.options) if state.prompt else ""
            asked = submitted(session, tab, state, wanted, before["of"], once_more=once_more)
        except InputError as error:
            set_props("error-link", {"children": f"This cannot be opened: {error}"})
            return no_update, no_update, no_update
        set_props("error-link", {"children": ""})
        fill_in(state, state_at(before.get("address")))
        set_props("active", {"children": active_changes(state)})
        set_props("unchanged", {"children": UNCHANGED if changes_in_words(state) else ""})
        set_props("code", {"children": program})
        now, pending, _ = show_news(session, tab, asked, drawn or {}, Shown(state, _is_dark(beat)))
        return {"of": asked, "address": address or "", "again": again}, now, pending


def _listen(app: Dash, session: ExplorerSession) -> None:
    """At every beat: what is new. A server that was started anew knows no job, so the tab asks again, from its own state."""

    @app.callback(
        Output("drawn", "data", allow_duplicate=True),
        Output("pending", "data", allow_duplicate=True),
        Output("again", "data", allow_duplicate=True),
        Input("beat", "data"),
        State("tab", "data"),
        State("jobs", "data"),
        State("drawn", "data"),
        State("pending", "data"),
        State("again", "data"),
        prevent_initial_call=True,
    )
    def listen(beat: Any, tab: str | None, jobs: Any, drawn: Any, before: bool | None, again: int | None) -> tuple[Any, Any, Any]:  # pyright: ignore[reportUnusedFunction]
        if not tab or not jobs:
            return no_update, no_update, no_update
        now, pending, forgotten = show_news(session, tab, jobs["of"], drawn or {}, Shown(state_at(jobs["address"]), _is_dark(beat)))
        if forgotten:
            return now, pending, (again or 0) + 1
        paced = pending if pending != before else no_update
        return now if now != drawn else no_update, paced, no_update  # never the jobs: meanwhile others may have been asked for


def _is_dark(beat: Mapping[str, Any] | None) -> bool:
    return bool(beat and beat.get("dark"))
