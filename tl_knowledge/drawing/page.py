"""Tables, circuitsvis views and self-contained HTML pages of both and of figures."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias

import plotly.graph_objects as go
import plotly.io

from tl_knowledge.drawing.fragments import Markup, from_template, heading, markup, note
from tl_knowledge.errors import check_given
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.storage import write_text

__all__ = ["HtmlView", "PagePart", "SideBySide", "Table", "ViewPage", "html_page", "marked_prompt", "provenance_footer"]


@dataclass(frozen=True)
class Table:
    """A table of text."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, repr=False)
class HtmlView:
    """A circuitsvis view: a notebook shows it, `save` writes it as a page. Neither needs a network.

    Attributes:
        title: heading of the page.
        note: what is shown, one sentence.
        place: the element that the view is drawn into.
        call: the line of program that draws it.
    """

    title: str
    note: str
    place: str
    call: str

    @classmethod
    def of(cls, rendered: Any, *, title: str, note: str) -> HtmlView:
        """Wrap what a function of circuitsvis returned.

        Its own text loads the program from a content network, leaves the ``div`` open (so that it swallows whatever follows), and lets a token
        such as ``</script>`` end the program.
        """
        source: str = rendered.local_src
        place, _, rest = source.partition("<script")
        _, call, properties = rest.rpartition("CircuitsVis.render(")
        body = properties.rsplit("</script>", 1)[0].replace("</", "<\\/")
        return cls(title, note, re.sub(r"^(<div [^>]*)/>", r"\1></div>", place.strip()), call + body)

    @property
    def program(self) -> str:
        """circuitsvis itself, which several views on a page share."""
        return _circuitsvis()

    @property
    def source(self) -> str:
        """HTML that draws the view by itself."""
        return str(_script(self.program) + self.drawing)

    @property
    def drawing(self) -> Markup:
        """HTML that draws the view on a page that has the program."""
        return Markup(self.place) + _script(self.call)

    def parts(self) -> list[PagePart]:
        """The view under its title and note, as parts of a page."""
        return [heading(self.title, 3), note(self.note), self]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a self-contained page; returns the path."""
        return write_text(path, html_page(self.title, [note(self.note), self]))

    def _repr_html_(self) -> str:
        return str(markup("<div><b>{{ v.title }}</b><br><small>{{ v.note }}</small>{{ v.source | safe }}</div>", v=self))


@dataclass(frozen=True, repr=False)
class ViewPage:
    """Several circuitsvis views under one heading, in a notebook or on a page; their program is written once.

    Raises:
        DataError: no view.
    """

    title: str
    views: Sequence[HtmlView]

    def __post_init__(self) -> None:
        check_given(self.views, "view", "pass at least one, for example circuit.attention_view()")

    def parts(self) -> list[PagePart]:
        """The views under their titles and notes, as parts of a page."""
        return [part for view in self.views for part in view.parts()]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a self-contained page; returns the path."""
        return write_text(path, html_page(self.title, self.parts()))

    def _repr_html_(self) -> str:
        template = "<div><b>{{ title }}</b>{% for part in parts %}{{ part }}{% endfor %}</div>"
        return str(markup(template, title=self.title, parts=_written(self.parts())))


@dataclass(frozen=True)
class SideBySide:
    """Columns of parts, beside each other where the window is wide enough."""

    columns: Sequence[Sequence[PagePart]]


PagePart: TypeAlias = "str | Markup | Table | go.Figure | HtmlView | SideBySide"
"""A string is a paragraph of text; `markup` is HTML."""


def html_page(title: str, parts: Iterable[PagePart]) -> str:
    """A self-contained page: no network needed.

    Args:
        title: of the page, as text.
        parts: strings are paragraphs of text, `markup` is HTML; tables, plotly figures, circuitsvis views, and columns of all of them.
    """
    return str(from_template("page.html", title=title, parts=_written(parts)))  # a Markup would escape what anybody adds to it


def _written(parts: Iterable[PagePart]) -> list[Markup]:
    """Each part as HTML."""
    writer = _Writer()
    return [writer.write(part) for part in parts]


class _Writer:
    """Writes parts as HTML; the programs of plotly and circuitsvis go with the first part that needs them."""

    def __init__(self) -> None:
        self.programs: set[str] = set()

    def write(self, part: PagePart) -> Markup:
        """One part as HTML."""
        if isinstance(part, Markup):
            return part
        if isinstance(part, str):
            return markup("<p>{{ text }}</p>", text=part)
        if isinstance(part, Table):
            return from_template("table.html", table=part)
        if isinstance(part, SideBySide):
            return from_template("side_by_side.html", columns=[[self.write(inner) for inner in column] for column in part.columns])
        return markup("<figure>{{ drawn }}</figure>", drawn=self._view(part) if isinstance(part, HtmlView) else self._figure(part))

    def _view(self, view: HtmlView) -> Markup:
        return (_script(view.program) if self._is_first("circuitsvis") else Markup()) + view.drawing

    def _figure(self, figure: go.Figure) -> Markup:
        config = {"displayModeBar": False, "responsive": False}
        return Markup(plotly.io.to_html(figure, full_html=False, include_plotlyjs=self._is_first("plotly"), config=config))

    def _is_first(self, program: str) -> bool:
        first = program not in self.programs
        self.programs.add(program)
        return first


def marked_prompt(labels: Sequence[str], spans: Mapping[str, Iterable[int]], target: str) -> Markup:
    """The prompt's tokens, subject and relation in colour, and the answer."""
    role = {pos: name for name in ("relation", "subject") if name in spans for pos in spans[name]}
    return from_template("prompt.html", tokens=[(label, role.get(pos, "")) for pos, label in enumerate(labels)], target=target)


def provenance_footer(provenance: Provenance) -> Markup:
    """How the numbers were computed, as a page's footer."""
    record = provenance.to_dict()
    versions = ", ".join(f"{name} {number}" for name, number in record.pop("versions").items())
    settings = "; ".join(f"{key}: {_shown(value)}" for key, value in (record.pop("settings") | record).items())
    return from_template("footer.html", paragraphs=[settings, versions])


def _shown(value: Any) -> str:
    """A setting as people write it: a dataclass that was made plain data as its class."""
    if isinstance(value, Mapping) and "kind" in value:
        return f"{value['kind']}({', '.join(f'{key}={_shown(inner)}' for key, inner in value.items() if key != 'kind')})"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_shown(inner)}" for key, inner in value.items())
    return (", ".join(map(_shown, value)) or "none") if isinstance(value, list | tuple) else str(value)


def _script(program: str) -> Markup:
    return Markup(f"<script>{program}</script>")


@cache
def _circuitsvis() -> str:
    """The program of the installed circuitsvis, as its own `render_local` puts it on a page."""
    program = (files("circuitsvis") / "dist" / "cdn" / "iife.js").read_text(encoding="utf-8")
    return program.replace("</script>", "")
