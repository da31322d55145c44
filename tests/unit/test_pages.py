"""Pages and views: what is text is escaped, what is markup is not, and every program is written once."""

from __future__ import annotations

from importlib.resources import files

import plotly.graph_objects as go
import pytest

import tl_knowledge as tlk
from tl_knowledge.drawing import HtmlView, SideBySide, Table, ViewPage, heading, html_page, label_text, marked_prompt, markup, note, provenance_footer
from tl_knowledge.results.provenance import Provenance

HOSTILE = "</script><b>&'\""
ESCAPED = "&lt;/script&gt;&lt;b&gt;&amp;&#39;&#34;"
PLOTLY, CIRCUITSVIS = "Plotly.newPlot(", "CircuitsVis.render("


def view(number):
    return HtmlView(f"view {number}", "a note", f'<div id="place-{number}"></div>', f'CircuitsVis.render("place-{number}")')


def body_of(*parts):
    return html_page("t", parts).partition("<h1>t</h1>")[2]


@pytest.mark.parametrize(
    "part",
    [
        HOSTILE,
        heading(HOSTILE),
        note(HOSTILE),
        markup("<p>{{ words }}</p>", words=HOSTILE),
        Table((HOSTILE,), [(HOSTILE,)]),
        SideBySide([[HOSTILE], [Table(("a",), [(HOSTILE,)])]]),
        marked_prompt((HOSTILE,), {"subject": (0,)}, HOSTILE),
        provenance_footer(Provenance(HOSTILE, "b", {}, False, "float32", "cpu", 0, "rows", {"prompt": HOSTILE, "several": [HOSTILE]})),
    ],
    ids=lambda part: type(part).__name__,
)
def test_text_is_escaped_wherever_it_stands(part):
    body = body_of(part)
    assert ESCAPED in body and HOSTILE not in body and "</script>" not in body


def test_a_page_s_own_title_is_text_too():
    page = html_page(HOSTILE, [])
    assert page.count(ESCAPED) == 2 and HOSTILE not in page
    assert ESCAPED in ViewPage(HOSTILE, [view(1)])._repr_html_() and ESCAPED in HtmlView(HOSTILE, HOSTILE, "", "")._repr_html_()


def test_strings_are_paragraphs_and_markup_is_html():
    assert "<p>a &lt; b</p>" in body_of("a < b")
    assert "<p>a <i>b</i></p>" in body_of(markup("<p>a <i>b</i></p>"))
    assert "<h3>x</h3>" in body_of(heading("x", 3)) and "<p class='note'>x</p>" in body_of(note("x"))
    assert "<span class='relation'>a</span><span class='subject'>b</span><span class='answer'>c</span>" in body_of(
        marked_prompt(("a", "b"), {"subject": (1,), "relation": (0,)}, "c")
    )


def test_a_page_can_be_added_to():
    """It is a plain string: a `Markup` would escape whatever is put into it."""
    page = html_page("t", ["text"])
    assert type(page) is str and "<b>more</b></body>" in page.replace("</body>", "<b>more</b></body>")


def test_every_program_is_written_once_however_deep_its_views_stand():
    figure = go.Figure(go.Scatter(x=[1], y=[1]))
    page = html_page("t", [SideBySide([[figure, view(1)], [view(2)]]), figure, view(3)])
    assert page.count(PLOTLY) >= 2 and page.count("plotly.js v") == 1
    assert page.count(view(1).program) == 1 and page.replace(view(1).program, "").count(CIRCUITSVIS) == 3
    assert page.index(view(1).program) < page.index('id="place-1"')
    several = ViewPage("Views", [view(1), view(2)])._repr_html_()
    assert several.count(view(1).program) == 1 and several.count("<h3>") == 2


def test_a_template_refuses_what_it_is_not_given():
    with pytest.raises(Exception, match="'words' is undefined"):
        markup("<p>{{ words }}</p>")


def test_templates_travel_with_the_package():
    templates = files(tlk.drawing) / "templates"
    assert {"page.html", "page.css", "table.html"} <= {path.name for path in templates.iterdir()}


def test_a_footer_says_settings_as_people_write_them():
    settings = {"corrupted": {"kind": "Span", "name": "subject", "positions": [1, 2]}, "sever": [], "weights": {"fold_ln": False}}
    footer = provenance_footer(Provenance("m", "b", {}, False, "float32", "cpu", 0, "rows", settings))
    assert "corrupted: Span(name=subject, positions=1, 2); sever: none; weights: fold_ln=False; model: m" in footer


def test_labels_of_figures_are_escaped():
    assert label_text(HOSTILE) == ESCAPED
