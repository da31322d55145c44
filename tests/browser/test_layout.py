"""Every kind of figure and page in windows of 600 and 1300 pixels, measured by the browser: nothing hides, nothing is cut, nothing collides."""

from __future__ import annotations

import html
import json
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.browser import browse
from support.extremes import extreme_figures
from support.figures import figures
from support.layout import measured

import tl_knowledge as tlk
from tl_knowledge import drawing
from tl_knowledge.evaluation.report import EvaluationSettings
from tl_knowledge.results.provenance import Provenance

pytestmark = pytest.mark.browser

WIDTHS = [600, 1300]


def check(chromium: str, page: str, folder: Any, width: int, charts: int, **how: bool) -> dict[str, Any]:
    """A page fits its window, and the texts of its figures lie apart and inside."""
    seen = measured(chromium, page, folder, width, **how)
    assert seen["charts"] == charts and seen["scroll"] <= seen["width"] == width
    assert seen["wide"] == [] and seen["cut"] == [] and seen["over"] == []
    return seen


@pytest.mark.parametrize("width", WIDTHS)
def test_figures_with_far_too_long_labels(chromium, tmp_path, width):
    drawn = extreme_figures()
    check(chromium, drawing.html_page("Extremes", drawn), tmp_path, width, len(drawn))


def test_a_figure_alone_has_its_title_subtitle_and_legend_apart(chromium, tmp_path):
    """As a notebook shows it, with its own head; a page writes the head above."""
    roles = [f"{which} {side} token" for side in ("subject", "relation", "further") for which in ("first", "middle", "last")]
    lines = [drawing.Line(role, range(8), [0.1 * n] * 8, [0.0] * 8, [1.0] * 8, n) for n, role in enumerate(roles)]
    panels = [drawing.LinePanel(f"panel {n}", lines) for n in range(3)]
    figure = drawing.line_panels(panels, title="A title", subtitle="40 facts, 5 noise samples each " * 4, x_axis="layer", y_axis="effect")
    seen = measured(chromium, figure.to_html(include_plotlyjs=True), tmp_path, 1300)
    assert seen["charts"] == 1 and seen["cut"] == [] and seen["over"] == []


def test_lines_of_one_method_have_no_legend_over_their_subtitle(chromium, tmp_path):
    figure = drawing.slope_chart(
        ["the edited fact is said"], [0.0], {"ROME": [(100.0, 20.0, 100.0)]}, title="A title", subtitle="one edit " * 9, value_axis="percent"
    )
    seen = measured(chromium, figure.to_html(include_plotlyjs=True), tmp_path, 1300)
    assert seen["charts"] == 1 and seen["cut"] == [] and seen["over"] == []


def test_the_measure_finds_what_it_is_for(chromium, tmp_path):
    """Labels that collide, and one that is cut: a measure that sees neither would hold nothing."""
    figure = figures("word", ["a", "b"])[0]
    crowded = ["a label that is rather long"] * 2
    figure.update_yaxes(tickvals=[0, 0.02], ticktext=crowded)
    figure.add_annotation(text="cut off at the edge", x=1, y=0.5, xref="paper", yref="paper", xanchor="left", showarrow=False)
    seen = measured(chromium, drawing.html_page("t", [figure, drawing.markup("<p style='width: 900px'>wide</p>")]), tmp_path, 600)
    assert seen["over"] == [crowded] and seen["cut"] == ["cut off at the edge"] and seen["scroll"] > 600
    assert seen["wide"] == ["P wide"]


@pytest.fixture(scope="module")
def traces(factlm) -> Any:
    prompt = tlk.Prompt.from_fact(factlm, tlk.load_facts()[0])
    parts = ("mlp_out", "attn_out", "head", "neuron")
    return [tlk.trace(factlm, prompt, corrupt=side, component=part, samples=2, progress=False) for part in parts for side in ("subject", "relation")]


@pytest.mark.parametrize("width", WIDTHS)
def test_a_page_of_traces(chromium, traces, tmp_path, width):
    seen = check(chromium, tlk.tracing.trace_page(traces), tmp_path, width, 5, dark=width == 600)
    assert all(room <= width for room in seen["charted"])


@pytest.mark.parametrize("width", WIDTHS)
def test_a_page_of_a_fact_set(chromium, tmp_path, width):
    average = tlk.trace_facts("factlm", tlk.sample_facts(tlk.load_facts(), 6), components=("mlp_out", "attn_out"), samples=1, progress=False)
    check(chromium, average.to_html(), tmp_path, width, 3)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_page_of_neurons(chromium, factlm, tmp_path, width):
    facts = tlk.sample_facts(tlk.load_facts(), 8, seed=1)
    groups = tlk.neurons.fact_groups(factlm, facts, own_wording=False)
    located = tlk.locate_neurons(factlm, groups, steps=2, shared_by=0.5, progress=False)
    effects = tlk.neurons.measure_neuron_effects(factlm, facts, located=located, progress=False)
    page = tlk.neurons.neurons_page(located, [effects])
    check(chromium, page, tmp_path, width, 3)
    assert "P1412 (language spoken)" in page or any(name in page for name in map(tlk_relation, facts))


def tlk_relation(fact: tlk.Fact) -> str:
    """A relation as a page calls it."""
    label = {each.id: each.label for each in tlk.datasets.load_relations()}[fact.relation]
    return f"{fact.relation} ({label})"


PANELS = """<script>
addEventListener("load", () => setTimeout(() => {
  const [chart] = document.querySelectorAll(".js-plotly-plot"), full = chart._fullLayout;
  const said = {tops: ["yaxis", "yaxis2"].map(a => full[a]._offset), background: full.plot_bgcolor, zero: chart._fullData[0].colorscale[0][1],
    page: getComputedStyle(document.body).backgroundColor, ink: getComputedStyle(document.body).color};
  document.documentElement.setAttribute("data-said", JSON.stringify(said));
}, 3000));
</script>"""


@pytest.mark.parametrize(("width", "dark"), [(600, False), (600, True), (1300, False)])
def test_panels_stack_and_zero_is_the_background_by_day_and_by_night(chromium, tmp_path, width, dark):
    chart = [drawing.HeatMap(np.eye(3), ["a", "b", "c"], ["0", "1", "2"], title, "token", "layer") for title in ("one", "two")]
    page = tmp_path / "page.html"
    figure = drawing.heat_maps(chart, title="T", subtitle="", colour_axis="effect")
    page.write_text(drawing.html_page("t", [figure]).replace("<head>", "<head>" + PANELS, 1), encoding="utf-8")
    more = ("--blink-settings=preferredColorScheme=0",) if dark else ()
    dom = browse(chromium, page, tmp_path / "profile", *more, "--dump-dom", width=width)
    found = re.search(r'data-said="([^"]*)"', dom)
    assert found is not None
    said = json.loads(html.unescape(found[1]))
    first, second = said["tops"]
    assert (second > first + 50) if width == 600 else second == first
    assert said["zero"] == said["background"] == ("#1f2430" if dark else "#ffffff")
    assert (said["page"], said["ink"]) == (("rgb(21, 24, 31)", "rgb(230, 232, 236)") if dark else ("rgb(255, 255, 255)", "rgb(31, 36, 48)"))


WHISKERS = """<script>
addEventListener("load", () => setTimeout(() => {
  const size = path => path.getBBox().height + path.getBBox().width;
  const drawn = [...document.querySelectorAll("path.yerror, path.xerror")].filter(path => path.getAttribute("d") && size(path) > 0);
  document.documentElement.setAttribute("data-whiskers", drawn.length);
}, 3000));
</script>"""


@pytest.mark.parametrize(("cases", "whiskers"), [(1, 1), (9, 9)])
def test_one_case_draws_no_whisker(chromium, tmp_path, cases, whiskers):
    """Of a bar chart with one interval of two, one is drawn, too."""
    names = ["ES", "EM", "PS", "PM", "NS", "NM"]
    rows = {name: np.linspace(20, 80, cases) for name in [*names, *(f"base_{name}" for name in names)]}
    about = {"case_id": range(cases), "subject": "s", "relation": "P36", "target_new": "t"}
    provenance = Provenance("m", "b", {}, False, "float32", "cpu", 0, "rows")
    report = tlk.EditReport(pd.DataFrame({**about, **rows}), EvaluationSettings("ROME"), provenance)
    page = tmp_path / "page.html"
    mixed = drawing.bar_chart(["a", "b"], [1.0, 2.0], [0.5, float("nan")], title="", subtitle="", value_axis="x")
    page.write_text(drawing.html_page("t", [report.plot(), mixed]).replace("<head>", "<head>" + WHISKERS, 1), encoding="utf-8")
    assert f'data-whiskers="{whiskers}"' in browse(chromium, page, tmp_path / "profile", "--dump-dom")
