"""Which tasks a tab's state asks for, and when a job that is there already answers them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tl_knowledge.explore.links import to_query
from tl_knowledge.explore.session import ExplorerSession
from tl_knowledge.explore.state import ExplorerState
from tl_knowledge.explore.tasks import TaskName

__all__ = ["circuit_key", "submitted", "wanted_tasks"]


def wanted_tasks(state: ExplorerState, circuit_of: str | None) -> dict[TaskName, str]:
    """The tasks of a state, each with what decides its answer, as text.

    Args:
        circuit_of: what a circuit was asked for.
    """
    if not state.prompt:
        return {}
    runs = _runs(state)
    found: dict[TaskName, str] = {"predict": to_query(ExplorerState(state.prompt, target=state.target))}
    if state.components and (state.subject or state.relation):
        found["trace"] = to_query(replace(runs, components=state.components, window=state.window))
        if state.cell is not None:
            found["cell"] = to_query(replace(runs, cell=state.cell))
        if circuit_of is not None and circuit_of == circuit_key(state):
            found["circuit"] = circuit_of
    if state.edits or state.suppressed or state.knocked_out or state.further:
        usual = ExplorerState(state.prompt, target=state.target)
        found["compare"] = to_query(
            replace(usual, suppressed=state.suppressed, knocked_out=state.knocked_out, edits=state.edits, further=state.further)
        )
    return found


def circuit_key(state: ExplorerState) -> str:
    """What decides a circuit."""
    return to_query(_runs(state))


def _runs(state: ExplorerState) -> ExplorerState:
    """A state with nothing but what decides its clean and corrupted runs."""
    return replace(state, cell=None, suppressed=(), knocked_out=(), edits=(), further=(), components=(), window="auto")


def submitted(
    session: ExplorerSession, tab: str, state: ExplorerState, wanted: Mapping[TaskName, str], before: Mapping[str, Any], *, once_more: bool
) -> dict[str, dict[str, str]]:
    """A job for every task, by task: its id and key. One that answers the same already goes on, what is not wanted any more is given up.

    Args:
        before: the jobs so far.
        once_more: what failed, was cancelled or is forgotten, or whose results are, is asked for again.

    Raises:
        InputError: as `ExplorerSession.submit`.
    """
    jobs: dict[str, dict[str, str]] = {}
    for task, key in wanted.items():
        known = before.get(task)
        if known is None or known["key"] != key or (once_more and not _goes_on(session, tab, known["id"], state)):
            known = {"id": session.submit(tab, task, state), "key": key}
        jobs[task] = known
    for task, known in before.items():
        if task not in jobs:
            session.cancel(tab, known["id"])
    return jobs


def _goes_on(session: ExplorerSession, tab: str, job: str, state: ExplorerState) -> bool:
    view = session.view(tab, job)
    return view.status in ("queued", "running") or (view.status == "done" and view.results.keys() <= session.known(tab, state).keys())
