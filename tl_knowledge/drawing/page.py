"""Tables, circuitsvis views and self-contained HTML pages of both and of figures."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import plotly.graph_objects as go
import plotly.io

from tl_knowledge.errors import InputError
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.storage import write_text

__all__ = ["HtmlView", "PagePart", "Table", "ViewPage", "html_page", "marked_prompt", "provenance_footer"]


@dataclass(frozen=True)
class Table:
    """A table of text."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, repr=False)
class HtmlView:
    """A circuitsvis view with its program: a notebook shows it, `save` writes it as a page. Neither needs a network.

    Attributes:
        title: heading of the page.
        note: what is shown, one sentence.
        place: the element that the view is drawn into.
        call: the line of program that draws it.
        program: circuitsvis itself, which several views on a page share.
    """

    title: str
    note: str
    place: str
    call: str
    program: str

    @classmethod
    def of(cls, rendered: Any, *, title: str, note: str) -> HtmlView:
        """Wrap what a function of circuitsvis returned.

        Its own text loads the program from a content network, leaves the ``div`` open (so that it swallows whatever follows), and lets a token
        such as ``</script>`` end the program.
        """
        source: str = rendered.local_src
        place, _, rest = source.partition("<script")
        program, call, properties = rest.partition(">")[2].rpartition("CircuitsVis.render(")
        body = properties.rsplit("</script>", 1)[0].replace("</", "<\\/")
        return cls(title, note, re.sub(r"^(<div [^>]*)/>", r"\1></div>", place.strip()), call + body, program)

    @property
    def source(self) -> str:
        """HTML that draws the view by itself."""
        return f"{_script(self.program)}{self.place}{_script(self.call)}"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a self-contained page; returns the path."""
        return write_text(path, html_page(self.title, [f"<p class='note'>{html.escape(self.note)}</p>", self]))

    def _repr_html_(self) -> str:
        return f"<div><b>{html.escape(self.title)}</b><br><small>{html.escape(self.note)}</small>{self.source}</div>"


@dataclass(frozen=True, repr=False)
class ViewPage:
    """Several circuitsvis views under one heading, in a notebook or on a page; their program is written once.

    Raises:
        InputError: no view.
    """

    title: str
    views: Sequence[HtmlView]

    def __post_init__(self) -> None:
        if not self.views:
            raise InputError("no view was given; pass at least one, for example circuit.attention_view().")

    def parts(self) -> list[str | HtmlView]:
        """The views with their headings, as parts of a page."""
        return [part for view in self.views for part in (f"<h3>{html.escape(view.title)}</h3><p class='note'>{html.escape(view.note)}</p>", view)]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a self-contained page; returns the path."""
        return write_text(path, html_page(self.title, self.parts()))

    def _repr_html_(self) -> str:
        return f"<div><b>{html.escape(self.title)}</b>{''.join(_body(self.parts()))}</div>"


PagePart: TypeAlias = "str | Table | go.Figure | HtmlView"


def html_page(title: str, parts: Sequence[PagePart]) -> str:
    """A self-contained page: no network needed. Strings are taken as HTML paragraphs, escape them first."""
    content = "\n".join(_body(parts))
    name = html.escape(title)
    head = f"<meta charset='utf-8'><meta name='viewport' content='width=device-width'><title>{name}</title><style>{_STYLE}</style>"
    return f"<!doctype html>\n<html lang='en'><head>{head}</head><body><main>\n<h1>{name}</h1>\n{content}\n</main></body></html>\n"


def _body(parts: Sequence[PagePart]) -> list[str]:
    """Each part as HTML; the programs of plotly and circuitsvis go with the first that needs them."""
    body: list[str] = []
    plotly_written, programs = False, set[str]()
    for part in parts:
        if isinstance(part, str):
            body.append(part)
        elif isinstance(part, Table):
            body.append(_html_table(part))
        elif isinstance(part, HtmlView):
            body.append(("" if part.program in programs else _script(part.program)) + f"<figure>{part.place}{_script(part.call)}</figure>")
            programs.add(part.program)
        else:
            chart = plotly.io.to_html(
                part, full_html=False, include_plotlyjs=not plotly_written, config={"displayModeBar": False, "responsive": False}
            )
            body.append(f"<figure>{chart}</figure>")
            plotly_written = True
    return body


def marked_prompt(labels: Sequence[str], spans: Mapping[str, Iterable[int]], target: str) -> str:
    """The prompt's tokens, subject and relation in colour, and the answer."""
    role = {pos: name for name in ("relation", "subject") if name in spans for pos in spans[name]}
    tokens = "".join(f"<span class='{role.get(i, '')}'>{html.escape(label)}</span>" for i, label in enumerate(labels))
    return f"{tokens}<span class='answer'>{html.escape(target)}</span>"


def provenance_footer(provenance: Provenance) -> str:
    """How the numbers were computed, as a page's footer."""
    record = provenance.to_dict()
    versions = ", ".join(f"{name} {number}" for name, number in record.pop("versions").items())
    settings = "; ".join(f"{key}: {value}" for key, value in (record.pop("settings") | record).items())
    return f"<footer><p>{html.escape(settings)}</p><p>{html.escape(versions)}</p></footer>"


def _script(text: str) -> str:
    return f"<script>{text}</script>"


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.header)
    rows = "\n".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return f"<div class='table'><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"


_STYLE = """
body { margin: 0; background: white; color: #1f2430; font: 15px/1.5 Inter, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif; }
main { max-width: 1280px; margin: 0 auto; padding: 24px 32px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 36px 0 4px; } h3 { font-size: 15px; margin: 24px 0 0; }
p, li { max-width: 76ch; } .prompt { font: 17px/2.1 ui-monospace, 'DejaVu Sans Mono', monospace; overflow-wrap: anywhere; }
.prompt span { padding: 3px 1px; border-bottom: 3px solid transparent; white-space: pre; }
.prompt .subject { background: #efe6f7; border-color: #6a51a3; } .prompt .relation { background: #e5f3e8; border-color: #238b45; }
.prompt .answer { background: #fdeee0; border-color: #d94801; }
table { border-collapse: collapse; margin: 12px 0; } th, td { text-align: left; padding: 4px 16px 4px 0; border-bottom: 1px solid #e4e7ec; }
th { font-weight: 600; color: #667085; } td { font-variant-numeric: tabular-nums; } .table { overflow-x: auto; }
.pair { display: flex; flex-wrap: wrap; gap: 0 32px; } .pair > div { flex: 1 1 360px; min-width: 0; }
figure { margin: 12px 0; overflow-x: auto; } footer, .note { color: #667085; font-size: 13px; }
footer { overflow-wrap: anywhere; } @media (max-width: 700px) { main { padding: 16px 14px 40px; } }
"""
