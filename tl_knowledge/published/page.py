"""A reproduction as one page: theirs beside ours, what differs, and the figures."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from tl_knowledge.drawing import PagePart, heading, html_page, markup, note, provenance_footer
from tl_knowledge.published.reproduction import Reproduction

__all__ = ["reproduction_page"]


def reproduction_page(made: Reproduction, figures: Sequence[go.Figure] = ()) -> str:
    """One self-contained page."""
    settings = made.settings
    beside = (
        f"Numbers of {settings.compared_with} stand beside this run's." if len(made.compared) else "There is no published number to stand beside."
    )
    parts: list[PagePart] = [
        markup(
            "<p><b>{{ s.source }}</b>. {{ s.cases }} of the paper's {{ s.published_cases }} cases, data {{ s.data }}, model {{ m }}. "
            "{{ beside }}</p>",
            s=settings,
            m=made.provenance.model,
            beside=beside,
        )
    ]
    if settings.rehearsal:
        parts.append(note("A rehearsal: the weights are random, and no number on this page means anything."))
    parts += [heading(f"{made.whose[0].upper()}{made.whose[1:]} and ours"), made.as_text(), note(_reading(made))]
    parts += [made.plot()] if len(made.compared) else []
    parts += _listed("What is known to differ", settings.differs)
    parts += _listed("Rows of the paper that cannot be had here", [f"{row}: {why}" for row, why in settings.without.items()])
    parts += _listed("Of this run", made.notes)
    parts += [heading("What was measured")] if figures else []
    return html_page(f"{settings.title}", [*parts, *figures, provenance_footer(made.provenance)])


def _reading(made: Reproduction) -> str:
    published = "" if made.settings.interval == "none printed" else f" Half widths in brackets are the paper's: {made.settings.interval}."
    return (
        "Percent, unless the number is a layer, a count, an R² or a p. Ours with 95% intervals: of editors' scores 1.96 sd / sqrt(n), as the "
        "programs do, of everything else bootstrap over cases; "
        f"n: facts, edits, prompts or words.{published}"
    )


def _listed(title: str, lines: Sequence[str]) -> list[PagePart]:
    if not lines:
        return []
    return [heading(title, 3), markup("<ul>{% for line in lines %}<li>{{ line }}</li>{% endfor %}</ul>", lines=lines)]
