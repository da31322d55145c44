"""Tables, circuitsvis views and self-contained HTML pages of both and of figures."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import plotly.graph_objects as go
import plotly.io
import plotly.offline

from tl_knowledge.drawing.fragments import Markup, from_template, heading, markup, note
from tl_knowledge.drawing.look import NIGHT, NIGHT_PAPER
from tl_knowledge.drawing.narrow import narrow, without_head
from tl_knowledge.drawing.says import head_of, sentence_of
from tl_knowledge.drawing.scripts import circuitsvis_program, content_policy, data_in_script, json_in_script, script
from tl_knowledge.errors import DataError, check_given
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.storage import write_text

__all__ = ["HtmlView", "PagePart", "SideBySide", "Table", "ViewPage", "html_page", "marked_prompt", "provenance_footer"]

# circuitsvis' page is its frame around one line of JSON; the frame's own random name tells it from whatever a token says.
_CALL = re.compile(
    r"""\A<div id="(?P<place>circuits-vis-[0-9a-f-]+)".*?^ *render\(\n *"(?P=place)",\n *(?P<element>\w+),\n *(?P<properties>[^\n]*)\n *\)\n""",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Table:
    """A table of text."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, repr=False)
class HtmlView:
    """A circuitsvis view: a notebook shows it, `save` writes it as a page. Neither needs a network.

    It is data, not program: a view that comes from a file can show whatever it likes and run nothing.

    Attributes:
        title: heading of the page.
        note: what is shown, one sentence.
        element: circuitsvis' name of what draws it.
        properties: what that is given, as plain data.

    Raises:
        DataError: an element that is not a name.
    """

    title: str
    note: str
    element: str
    properties: dict[str, Any]

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Z][A-Za-z0-9]*", self.element):
            raise DataError(
                f"{self.element!r} is no element of circuitsvis; pass a name such as 'ColoredTokens', or make the view with HtmlView.of()."
            )

    @classmethod
    def of(cls, rendered: Any, *, title: str, note: str) -> HtmlView:
        """Wrap what a function of circuitsvis returned.

        Its own text loads the program from a content network, leaves the ``div`` open (so that it swallows whatever follows), and lets a token
        such as ``</script>`` end the program; so only the element and its data are taken from it.

        Raises:
            DataError: something else, or a circuitsvis that writes otherwise.
        """
        call = _CALL.search(str(getattr(rendered, "cdn_src", "")))
        if call is None:
            raise DataError(
                f"{type(rendered).__name__} is not what circuitsvis 1.43 returns; pass a view of circuitsvis, and install tl-knowledge's version."
            )
        return cls(title, note, call["element"], json.loads(call["properties"]))

    @property
    def program(self) -> str:
        """circuitsvis itself, which several views on a page share."""
        return circuitsvis_program()

    @property
    def source(self) -> str:
        """HTML that draws the view by itself."""
        return str(_Writer(_random_name()).view(self))

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
        return str(markup(template, title=self.title, parts=_Writer(_random_name()).written(self.parts())))


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
    writer = _Writer("")
    written = writer.written(parts)
    page = from_template("page.html", title=title, parts=written, policy=content_policy(writer.programs))
    return str(page)  # a Markup would escape what anybody adds to it


class _Writer:
    """Writes parts as HTML; the programs of plotly and circuitsvis go with the first part that needs them.

    Attributes:
        programs: every program that was written, for the page's policy.
    """

    def __init__(self, name: str) -> None:
        """Places are numbered after ``name``, which tells the outputs of a notebook apart."""
        self.programs: list[str] = []
        self._name, self._places = name, 0

    def written(self, parts: Iterable[PagePart]) -> list[Markup]:
        """Each part as HTML."""
        return [self.write(part) for part in parts]

    def write(self, part: PagePart) -> Markup:
        """One part as HTML."""
        if isinstance(part, Markup):
            return part
        if isinstance(part, str):
            return markup("<p>{{ text }}</p>", text=part)
        if isinstance(part, Table):
            return from_template("table.html", table=part)
        if isinstance(part, SideBySide):
            return from_template("side_by_side.html", columns=[self.written(column) for column in part.columns])
        return markup("<figure class='view'>{{ drawn }}</figure>", drawn=self.view(part)) if isinstance(part, HtmlView) else self._figure(part)

    def view(self, view: HtmlView) -> Markup:
        """A circuitsvis view."""
        place = self._place("circuits-vis")
        call = f"CircuitsVis.render({data_in_script(place)}, CircuitsVis.{view.element}, {data_in_script(view.properties)})"
        return self._shared(view.program) + markup('<div id="{{ place }}"></div>', place=place) + self._script(call)

    def _figure(self, figure: go.Figure) -> Markup:
        """A figure under its title and subtitle and over its sentence, drawn as wide as there is room; in a narrow window its panels stack."""
        place, (title, subtitle) = self._place("figure"), head_of(figure)
        wide, words = without_head(figure), {"title": title, "subtitle": subtitle, "says": sentence_of(figure)}
        drawn = go.Figure(figure.data)
        both = {"wide": wide, "narrow": narrow(figure)} if wide.get("width") else {"wide": wide}
        data = json_in_script(f'{{"data": {_as_json(drawn.data)}, "layouts": {_as_json(both)}}}')
        call = f"drawFigure({data_in_script(place)}, {data})"
        shared = self._shared(plotly.offline.get_plotlyjs()) + self._shared(_drawing_program())
        height = int(wide.get("height") or 450)
        return shared + from_template("figure.html", place=place, height=height, **words) + self._script(call)

    def _place(self, kind: str) -> str:
        self._places += 1
        return f"{kind}-{self._name}{self._places}"

    def _shared(self, program: str) -> Markup:
        """A program where it is first needed, nothing elsewhere."""
        return Markup() if program in self.programs else self._script(program)

    def _script(self, program: str) -> Markup:
        self.programs.append(program)
        return script(program)


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


def _as_json(value: Any) -> str:
    return str(plotly.io.json.to_json_plotly(value, engine="json"))


@cache
def _drawing_program() -> str:
    """What draws every figure of a page: as wide as there is room, by day and by night."""
    program = (files("tl_knowledge.drawing") / "templates" / "figures.js").read_text(encoding="utf-8")
    return program.replace('"NIGHT"', data_in_script(NIGHT)).replace('"PAPER"', data_in_script(NIGHT_PAPER))


def _random_name() -> str:
    return f"{uuid4().hex[:12]}-"
