"""Pages and views: what is text is escaped, what is markup is not, and every program is written once."""

from __future__ import annotations

import html
import json
import re
from importlib.resources import files

import plotly.graph_objects as go
import plotly.io
import pytest
from circuitsvis.tokens import colored_tokens
from support.figures import figures
from support.payloads import HALVES, PAYLOADS

import tl_knowledge as tlk
from tl_knowledge.drawing import (
    HtmlView,
    SideBySide,
    Table,
    ViewPage,
    heading,
    html_page,
    label_text,
    marked_prompt,
    markup,
    note,
    provenance_footer,
    scripts,
)
from tl_knowledge.drawing.scripts import content_policy, data_in_script
from tl_knowledge.errors import DataError
from tl_knowledge.results.plain_text import printable
from tl_knowledge.results.provenance import Provenance

HOSTILE = "</script><b>&'\""
ESCAPED = "&lt;/script&gt;&lt;b&gt;&amp;&#39;&#34;"
FIGURE, CIRCUITSVIS = 'drawFigure("figure-', "CircuitsVis.render("


def view(number):
    return HtmlView(f"view {number}", "a note", "ColoredTokens", {"tokens": ["a"], "values": [number]})


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
    assert ESCAPED in ViewPage(HOSTILE, [view(1)])._repr_html_() and ESCAPED in HtmlView(HOSTILE, HOSTILE, "ColoredTokens", {})._repr_html_()


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
    assert page.count(FIGURE) == 2 and page.count("plotly.js v") == page.count("const drawFigure =") == 1
    assert page.count(view(1).program) == 1 and page.replace(view(1).program, "").count(CIRCUITSVIS) == 3
    assert page.index(view(1).program) < page.index('id="circuits-vis-2"')
    several = ViewPage("Views", [view(1), view(2)])._repr_html_()
    assert several.count(view(1).program) == 1 and several.count("<h3>") == 2


def test_a_template_refuses_what_it_is_not_given():
    with pytest.raises(Exception, match="'words' is undefined"):
        markup("<p>{{ words }}</p>")


def test_templates_travel_with_the_package():
    templates = files(tlk.drawing) / "templates"
    assert {"page.html", "page.css", "table.html"} <= {path.name for path in templates.iterdir()}


def test_a_footer_says_settings_as_people_write_them():
    settings = {"corrupted": {"kind": "Span", "name": "subject", "positions": [1, 2]}, "sever": [], "processed": {"fold_ln": False}}
    footer = provenance_footer(Provenance("m", "b", {}, False, "float32", "cpu", 0, "rows", settings))
    assert "corrupted: Span(name=subject, positions=1, 2); sever: none; processed: fold_ln=False; model: m" in footer


def test_labels_of_figures_are_escaped():
    assert label_text(HOSTILE) == ESCAPED


def test_no_text_of_a_figure_is_read_as_markup_or_as_a_place_for_a_value():
    word = "<b>%{nothing}</b>$x$"
    for figure in figures(word, [word, "b"]):
        drawn = plotly.io.to_json(figure, engine="json")
        assert "%{nothing}" not in drawn and "$x$" not in drawn and "\\u003cb\\u003e%" not in drawn and "<b>%" not in drawn
        assert drawn.count("%&#123;nothing}") > 3


@pytest.mark.parametrize("label", [*PAYLOADS, *HALVES])
def test_a_view_keeps_any_label_as_data(label):
    """What circuitsvis wrote around it is left behind, whatever a label says; in the page it is JSON that ends no script."""
    view = HtmlView.of(colored_tokens([label, "b"], [1.0, float("nan")]), title="t", note="n")
    assert view.element == "ColoredTokens" and view.properties["tokens"] == [label, "b"]
    call = view.source.rpartition("CircuitsVis.render(")[2].removesuffix("</script>")
    assert not set(call) & set("<>&\u2028\u2029") and "NaN" in call
    call.encode("ascii" if label.isascii() else "utf-8")


def test_a_view_is_of_circuitsvis():
    with pytest.raises(DataError, match="int is not what circuitsvis"):
        HtmlView.of(3, title="t", note="n")
    with pytest.raises(DataError, match=r"'a\.b' is no element of circuitsvis"):
        HtmlView("t", "n", "a.b", {})


def test_data_in_a_script_comes_back_as_it_was():
    for text in PAYLOADS:
        assert json.loads(data_in_script({text: [text]})) == {printable(text): [printable(text)]}


def test_a_page_allows_its_own_programs_only():
    page = html_page("t", [go.Figure(go.Scatter(x=[1], y=[1])), view(1), view(2)])
    policy = re.search(r"http-equiv='Content-Security-Policy' content=\"([^\"]*)\"", page)
    assert policy is not None and page.index(policy[0]) < page.index("<style>") < page.index("<script>")
    programs = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    assert len(programs) == 6 and html.unescape(policy[1]) == content_policy(programs)
    assert "unsafe-inline" not in re.search(r"script-src [^;]*", policy[1])[0] and "default-src &#39;none&#39;" in policy[1]
    assert html_page("t", [view(1)]) == html_page("t", [view(1)])  # no random names, which would change the hashes


def test_an_unknown_circuitsvis_is_refused(monkeypatch, tmp_path):
    """One that writes labels as HTML in another way would be unsafe, so it is not used."""
    program = tmp_path / "dist" / "cdn" / "iife.js"
    program.parent.mkdir(parents=True)
    monkeypatch.setattr(scripts, "files", lambda _: tmp_path)
    for source in ("var nothing", "a({dangerouslySetInnerHTML:{__html:x}}); b({__html:{y:1}})"):
        program.write_text(source)
        with pytest.raises(DataError, match=r"install circuitsvis 1\.43\.3"):
            scripts.circuitsvis_program.__wrapped__()
