"""What is on the screen, as files to keep."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from dash import Dash, Input, Output, State, dcc, no_update, set_props

from tl_knowledge.errors import InputError
from tl_knowledge.explore.export import export_data, export_page
from tl_knowledge.explore.page.actions import state_at
from tl_knowledge.explore.session import ExplorerSession
from tl_knowledge.explore.state import ExplorerState

__all__ = ["add_keeping"]


def add_keeping(app: Dash, session: ExplorerSession) -> None:
    """Connect the two buttons that download something."""

    def page(tab: str, state: ExplorerState) -> Any:
        return {"content": export_page(session, tab, state), "filename": _file_name(state, ".html"), "type": "text/html"}

    def data(tab: str, state: ExplorerState) -> Any:
        return dcc.send_bytes(export_data(session, tab, state), _file_name(state, ".zip"))

    _download(app, "save-page", page)
    _download(app, "save-data", data)


def _download(app: Dash, button: str, write: Callable[[str, ExplorerState], Any]) -> None:
    @app.callback(
        Output("download", "data", allow_duplicate=True),
        Input(button, "n_clicks"),
        State("tab", "data"),
        State("address", "hash"),
        prevent_initial_call=True,
    )
    def download(_: Any, tab: str, address: str | None) -> Any:  # pyright: ignore[reportUnusedFunction]
        try:
            written = write(tab, state_at(address))
        except InputError as error:
            set_props("error-keep", {"children": str(error)})
            return no_update
        set_props("error-keep", {"children": ""})
        return written


def _file_name(state: ExplorerState, ending: str) -> str:
    """The prompt's first words as a name that every system takes.

    Example:
        >>> _file_name(ExplorerState("The capital of <b>France</b> is"), ".zip")
        'the_capital_of_b_france_b_is.zip'
    """
    words = "_".join(re.findall(r"[a-z0-9]+", state.prompt.lower()))
    return (words[:50].strip("_") or "explorer") + ending
