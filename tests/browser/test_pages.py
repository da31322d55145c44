"""Pages open in a real browser, offline, and show something."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.browser import WATCH, browse
from support.places import FACTLM_LAYER
from typer.testing import CliRunner

import tl_knowledge as tlk
from tl_knowledge.cli import app

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory, factlm) -> Path:
    prompt = tlk.Prompt.from_text(factlm, "The capital of France is", subject="France", target=" Paris")
    traces = [tlk.trace(factlm, prompt, corrupt=span, component=part) for part in ("resid_post", "attn_out") for span in ("subject", "relation")]
    path = tmp_path_factory.mktemp("pages") / "trace.html"
    path.write_text(tlk.tracing.trace_page(traces), encoding="utf-8")
    return path


def test_the_page_draws_its_heat_maps_offline(chromium, page, tmp_path):
    dom = browse(chromium, page, tmp_path, "--dump-dom")
    assert len(re.findall(r'class="hm"', dom)) == 4  # plotly's own element of a drawn heat map
    assert len(re.findall(r"<image[^>]+data:image/png", dom)) == 4
    for word in ("France*", "indirect effect", "layer", "token", "10 noise samples", "clean"):
        assert word in dom, word


@pytest.fixture(scope="module")
def average_page(tmp_path_factory) -> Path:
    facts = tlk.sample_facts(tlk.load_facts("factlm"), 8)
    average = tlk.trace_facts("factlm", facts, sever=("mlp_out", "attn_out"), samples=2, progress=False)
    path = tmp_path_factory.mktemp("pages") / "average.html"
    path.write_text(average.to_html(), encoding="utf-8")
    return path


def test_the_page_of_a_fact_set_draws_its_figures_offline(chromium, average_page, tmp_path):
    dom = browse(chromium, average_page, tmp_path, "--dump-dom")
    assert len(re.findall(r'class="hm"', dom)) == 6
    assert len(re.findall(r'class="js-line"', dom)) >= 6 * 4 + 6 * 2 + 2 * 3
    for word in ("last subject token*", "average indirect effect (probability)", "8 facts", "Benjamini", "attention output severed", "ours"):
        assert word in dom, word


def test_the_page_is_not_blank(chromium, page, tmp_path):
    picture = tmp_path / "page.png"
    browse(chromium, page, tmp_path / "profile", f"--screenshot={picture}")
    assert picture.stat().st_size > 60_000  # a blank page of this size compresses to about 10 kB


def test_a_neuron_view_shows_its_tokens_offline(chromium, factlm, tmp_path):
    """circuitsvis draws from the program inside the page, and no token breaks out of it."""
    prompt = tlk.Prompt.from_text(factlm, "The capital of France is </script>")
    page = tlk.neurons.neuron_view(factlm, prompt, tlk.NeuronSet.of(factlm, [(4, 28), (3, 5)])).save(tmp_path / "view.html")
    dom = browse(chromium, page, tmp_path / "profile", "--dump-dom")
    drawn = dom.partition('<div id="circuits-vis-')[2].partition("<script")[0]
    for word in ("layer 4, neuron 28", "layer 3, neuron 5", "France", "activation"):
        assert word in drawn, word


def test_the_neurons_page_draws_its_figures_offline(chromium, factlm, tmp_path):
    facts = tlk.sample_facts(tlk.load_facts(), 8, seed=1)
    located = tlk.locate_neurons(factlm, tlk.neurons.fact_groups(factlm, facts, own_wording=False), steps=3, shared_by=0.5, progress=False)
    effects = tlk.neurons.measure_neuron_effects(factlm, facts, located=located, progress=False)
    page = tmp_path / "neurons.html"
    page.write_text(tlk.neurons.neurons_page(located, [effects]), encoding="utf-8")
    dom = browse(chromium, page, tmp_path / "profile", "--dump-dom")
    assert dom.count('class="main-svg"') >= 3 and len(re.findall(r'class="hm"', dom)) == 1
    for word in ("|KN|", "share of the neurons", "Jaccard", "random control", "8 groups"):
        assert word in dom, word


def test_the_page_of_an_evaluation_draws_its_figures_offline(chromium, tmp_path):
    page = tmp_path / "scores.html"
    arguments = ["evaluate", "--method", "ft", "--method", "cne", "--limit", "4", "--measures", "subject-facts", "--out", str(page), "--json"]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    dom = browse(chromium, page, tmp_path / "profile", "--dump-dom")
    assert dom.count('class="main-svg"') >= 4 and len(re.findall(r'class="point"', dom)) >= 12
    for word in ("neighbourhood (NS)", "unedited", "4 cases", "95% bootstrap", "NS by relation", "What an edit moved", "other facts are kept"):
        assert word in dom, word


POINT = """<script>
addEventListener("load", () => setTimeout(() => {
  const named = d => d.text && [...d.text].some(words => words.includes("<b>MLP LOOK_UP"));
  const called = c => c.parentElement.textContent.trim().startsWith("What carries");
  const chart = [...document.querySelectorAll(".js-plotly-plot")].find(c => called(c) && c.data.some(named));
  chart.scrollIntoView();
  const marks = chart.data.find(named);
  const number = marks.text.findIndex(words => words.includes("<b>MLP LOOK_UP"));
  const x = chart._fullLayout.xaxis, y = chart._fullLayout.yaxis, box = chart.querySelector(".nsewdrag").getBoundingClientRect();
  const at = {bubbles: true, clientX: box.left + x.d2p(marks.x[number]), clientY: box.top + y.d2p(marks.y[number])};
  for (const kind of ["mouseover", "mousemove"]) chart.querySelector(".nsewdrag").dispatchEvent(new MouseEvent(kind, at));
}, 3000));
</script>"""


@pytest.fixture(scope="module")
def report_page(tmp_path_factory, factlm) -> Path:
    """A report with an edit; errors are written into the page, and a mouse moves over the circuit."""
    fact = next(fact for fact in tlk.load_facts() if fact.subject == "Paul McCartney" and fact.relation == "P1303")
    moments = tlk.collect_key_moments(factlm, tlk.load_corpus(), layers=FACTLM_LAYER, progress=False)
    report = tlk.report_fact(factlm, fact, edit_to=" violin", method=tlk.ROME(layer=FACTLM_LAYER), moments=moments, samples=2, progress=False)
    path = tmp_path_factory.mktemp("pages") / "report.html"
    path.write_text(report.to_html().replace("<head>", "<head>" + WATCH + POINT.replace("LOOK_UP", str(FACTLM_LAYER)), 1), encoding="utf-8")
    return path


def test_a_report_draws_every_view_offline_without_an_error(chromium, report_page, tmp_path):
    dom = browse(chromium, report_page, tmp_path, "--dump-dom")
    assert "data-errors" not in dom.partition("<head>")[0], dom[:400]
    figures = re.findall(r'class="[^"]*js-plotly-plot[^"]*"', dom)
    assert len(figures) == 13 and dom.count('class="main-svg"') >= 13
    assert len(re.findall(r'class="hm"', dom)) == 2 * 3 + 3 + 1
    views = re.split(r'<div id="circuits-vis-', dom)[1:]
    assert len(views) == 5
    for view, word in zip(views, ("McCartney", "neuron", "head", "violin", "violin"), strict=True):
        drawn = view.partition("<script")[0]
        assert len(drawn) > 300 and word in drawn, word  # an empty view is its own element only


def test_hovering_over_a_circuit_says_what_a_node_does(chromium, report_page, tmp_path):
    dom = browse(chromium, report_page, tmp_path, "--dump-dom")
    labels = dom[dom.index('class="hovertext"') :][:2000]
    assert "restored alone" in labels and f"MLP {FACTLM_LAYER}" in labels


@pytest.mark.parametrize("width", [1300, 480])
def test_a_report_fits_its_window(chromium, report_page, tmp_path, width):
    """What is wider scrolls in its own box: the page itself never scrolls sideways."""
    measured = tmp_path / "measured.html"
    script = "<script>addEventListener('load', () => setTimeout(() => {const e = document.documentElement; "
    script += "e.setAttribute('data-width', e.scrollWidth)}, 2000));</script>"
    measured.write_text(report_page.read_text(encoding="utf-8").replace("<head>", "<head>" + script, 1), encoding="utf-8")
    dom = browse(chromium, measured, tmp_path / "p", "--dump-dom", width=width, height=900)
    scrolled = re.search(r'data-width="(\d+)"', dom)
    assert scrolled and int(scrolled[1]) <= max(width, 500)  # headless Chromium's own narrowest window is 500
