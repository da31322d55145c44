"""A session of the explorer, asked and waited for."""

from __future__ import annotations

import time
from typing import Any

from tl_knowledge.explore.jobs import JobView
from tl_knowledge.explore.session import ExplorerSession
from tl_knowledge.explore.state import ExplorerState

LONGEST = 120.0  # seconds; a job that takes longer hangs


def finished(session: ExplorerSession, job: str, tab: str = "tab") -> JobView:
    """A job once it is over."""
    end = time.monotonic() + LONGEST
    while not (view := session.view(tab, job)).over:
        assert time.monotonic() < end, view
        time.sleep(0.005)
    return view


def asked(session: ExplorerSession, task: Any, state: ExplorerState, tab: str = "tab") -> dict[str, Any]:
    """A task's results; it must not fail."""
    view = finished(session, session.submit(tab, task, state), tab)
    assert view.status == "done", view.error
    return dict(view.results)


def refused(session: ExplorerSession, task: Any, state: ExplorerState) -> str:
    """The words with which a task fails."""
    view = finished(session, session.submit("tab", task, state))
    assert view.status == "failed"
    return view.error
