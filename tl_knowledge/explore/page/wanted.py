"""Which tasks a tab's state asks for, and when a job that is there already answers them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tl_knowledge.explore.keys import ResultKeys, key_text
from tl_knowledge.explore.session import ExplorerSession
from tl_knowledge.explore.state import ExplorerState
from tl_knowledge.explore.tasks import TaskName

__all__ = ["submitted", "wanted_tasks"]


def wanted_tasks(state: ExplorerState) -> dict[TaskName, str]:
    """The tasks of a state, each with what decides its answer, as text."""
    if not state.prompt:
        return {}
    keys = ResultKeys(state)
    found: dict[TaskName, str] = {"predict": key_text(keys.prediction)}
    if state.components and (state.subject or state.relation):
        found["trace"] = key_text(keys.traces)
        if state.cell is not None:
            found["cell"] = key_text(keys.cell)
        if state.circuit:
            found["circuit"] = key_text(keys.circuit)
    if state.edits or state.suppressed or state.knocked_out or state.further:
        found["compare"] = key_text(keys.comparisons)
    return found


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
