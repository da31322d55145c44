"""What is new for a tab since it was last told: results as they come, how far jobs are, and what went wrong, each beside what caused it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dash import html, set_props

from tl_knowledge.errors import InputError
from tl_knowledge.explore.jobs import JobView
from tl_knowledge.explore.page.draw import circuit_parts, comparison_table, prediction_bars, site_parts, token_buttons, trace_map
from tl_knowledge.explore.page.marks import fact_marked
from tl_knowledge.explore.session import ExplorerSession
from tl_knowledge.explore.state import ExplorerState
from tl_knowledge.results.plain_text import printable

__all__ = ["TASK_WORDS", "Shown", "show_news"]

PATIENCE = 0.2
"""Seconds that an answer may take to draw."""

QUIET = 5.0
"""Seconds after which a job that says nothing is told."""

TASK_WORDS = {"predict": "reading", "trace": "tracing", "cell": "looking into the cell", "compare": "comparing", "circuit": "finding the circuit"}


@dataclass(frozen=True)
class Shown:
    """What a tab is shown with.

    Attributes:
        state: of the tab.
        night: whether the system is dark.
    """

    state: ExplorerState
    night: bool


def show_news(
    session: ExplorerSession, tab: str, jobs: Mapping[str, Mapping[str, str]], drawn: Mapping[str, str], shown: Shown
) -> tuple[dict[str, str], bool, bool]:
    """Draw what has come since ``drawn``; returns what is drawn now, whether more will come, and whether the server has forgotten a job."""
    views = {task: session.view(tab, jobs[task]["id"]) for task in TASK_WORDS if task in jobs}
    now, left = _drawn_now(views, drawn, shown)
    for task in drawn.keys() - views.keys():
        _DRAWN[task](JobView("", task, "done"), shown)
        set_props(f"error-{task}", {"children": ""})
    pending = [view for view in views.values() if not view.over]
    set_props("doing", {"children": "; ".join(map(_doing, pending)) or "ready"})
    set_props("pulse", {"className": "busy" if pending else ""})
    set_props("progress", {"children": _progress(views["trace"]) if "trace" in views else ""})
    set_props("cancel", {"disabled": not any(view.task in ("trace", "circuit", "compare", "cell") for view in pending)})
    return now, bool(pending) or left, any(view.status == "unknown" for view in views.values())


def _drawn_now(views: Mapping[str, JobView], drawn: Mapping[str, str], shown: Shown) -> tuple[dict[str, str], bool]:
    """Draw what is new of one task after the other, for as long as nobody would notice; what is left comes with the next beat."""
    now, end = {task: drawn[task] for task in views if task in drawn}, time.monotonic() + PATIENCE
    for task, view in views.items():
        version = _version(view, shown)
        if drawn.get(task) == version or view.status == "unknown":  # what is drawn stays until it is asked for again
            continue
        if time.monotonic() > end:
            return now, True
        for place in _PLACES[task]:
            set_props(place, {"className": "" if view.results or view.over else "stale"})
        if view.results or view.over:
            _DRAWN[task](view, shown)
        set_props(f"error-{task}", {"children": _went_wrong(view)})
        now[task] = version
    return now, False


def _went_wrong(view: JobView) -> str:
    """What a job failed of, or that it was cancelled; a cancelled trace says so where its progress stood."""
    if view.status == "cancelled" and view.task in _AGAIN:
        return f"Cancelled{'; what was there by then is shown' if view.results else ''}. {_AGAIN[view.task]} to start again."
    return view.error if view.status == "failed" else ""


def _version(view: JobView, shown: Shown) -> str:
    """What decides how a job's results look."""
    state = shown.state
    parts: dict[str, tuple[object, ...]] = {
        "predict": (state.subject, state.relation),
        "cell": (state.suppressed, state.knocked_out),
        "circuit": (state.cell,),
    }
    size = len(view.results) + len(view.results.get("comparisons", ()))
    return f"{view.id} {view.status if view.over else ''} {size} {shown.night} {parts.get(view.task, ())}"


def _doing(view: JobView) -> str:
    words = TASK_WORDS[view.task]
    if view.status == "queued":
        return f"{words}: {view.place} before it in the queue, {view.seconds:.0f} s"
    quiet = f", no sign of life for {view.silent:.0f} s" if view.silent >= QUIET else ""
    return f"{words} {_far(view)}, {view.seconds:.0f} s{quiet}"


def _far(view: JobView) -> str:
    steps = f"{view.done} of {view.total}" if view.total > 1 else ""
    inner = f"{view.inner[2]} {view.inner[0]}" + (f" of {view.inner[1]}" if view.inner[1] else "") if view.inner else ""
    return ", ".join(part for part in (view.words, steps, inner) if part)


def _progress(view: JobView) -> str:
    if view.status == "cancelled":
        return "Cancelled; what was traced by then is shown. Press Trace to start again."
    return f"{_doing(view)}." if not view.over else ""


def _draw_prediction(view: JobView, shown: Shown) -> None:
    prediction = view.results.get("prediction")
    if prediction is None:
        if view.over:
            set_props("marking", {"hidden": True})
            set_props("cell-token", {"options": [], "value": None})
            for place in ("prediction", "tokens", "edited-fact"):
                set_props(place, {"children": []})
        return
    labels = prediction.labels
    set_props("tokens", {"children": token_buttons(labels, shown.state, has_bos=prediction.has_bos)})
    set_props("cell-token", {"options": [{"label": f"{pos}: {label}", "value": pos} for pos, label in enumerate(labels)]})
    if shown.state.cell is not None:
        set_props("cell-token", {"value": shown.state.cell[2]})  # a list without that token would have taken it off
    set_props("marking", {"hidden": False})
    set_props("edited-fact", {"children": _fact_in_words(labels, shown.state)})
    set_props("prediction", {"children": prediction_bars(prediction)})


def _fact_in_words(labels: Sequence[str], state: ExplorerState) -> str:
    if state.subject is None:
        return "Mark the subject above: an edit changes what the model says after this prompt about it."
    try:
        subject, template = fact_marked(labels, state)
    except InputError as error:
        return str(error)
    return f"An edit changes what the model says after {printable(template)!r} with {printable(subject)!r} in the place of {{}}."


def _draw_maps(view: JobView, shown: Shown) -> None:
    maps = [trace_map(trace, night=shown.night) for trace in view.results.values()]
    set_props("maps", {"children": html.Div(maps, className="figures")})


def _draw_site(view: JobView, shown: Shown) -> None:
    details = view.results.get("cell")
    set_props("site", {"children": [] if details is None else site_parts(details, shown.state, night=shown.night)})


def _draw_comparison(view: JobView, shown: Shown) -> None:
    rows = view.results.get("comparisons", ())
    set_props("compared", {"children": comparison_table(rows) if rows else []})


def _draw_circuit(view: JobView, shown: Shown) -> None:
    circuit = view.results.get("circuit")
    set_props("circuit", {"children": [] if circuit is None else circuit_parts(circuit, shown.state.cell, night=shown.night)})


_DRAWN: dict[str, Callable[[JobView, Shown], None]] = {
    "predict": _draw_prediction,
    "trace": _draw_maps,
    "cell": _draw_site,
    "compare": _draw_comparison,
    "circuit": _draw_circuit,
}

_PLACES = {"predict": ("prediction", "tokens"), "trace": ("maps",), "cell": ("site",), "compare": ("compared",), "circuit": ("circuit",)}
_AGAIN = {"predict": "Press Read", "cell": "Press Look", "compare": "Press Compare", "circuit": "Press Find the circuit"}
