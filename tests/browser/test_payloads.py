"""Whatever stands in a label or a name, a page shows it as text: nothing runs, nothing is fetched, nothing complains."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support import build
from support.browser import WATCH, browse
from support.figures import figures
from support.payloads import BETWEEN, HALVES, PAYLOADS, tokenizer_of_payloads

import tl_knowledge as tlk
from tl_knowledge import drawing
from tl_knowledge.cli.scoring import page_parts
from tl_knowledge.drawing.look import shortened
from tl_knowledge.evaluation.report import EvaluationSettings
from tl_knowledge.results.plain_text import printable
from tl_knowledge.results.provenance import Provenance

pytestmark = [pytest.mark.browser, pytest.mark.touches_model]

EVERYTHING = PAYLOADS + HALVES
SHOWN = 21
"""How many payloads a fact of the hostile tokenizer has in its prompt."""

READ = """<script>
const look = () => {
  for (const chart of document.querySelectorAll(".js-plotly-plot")) {
    const number = chart.data.findIndex(d => d.hovertemplate && (d.x || d.z || d.y));
    const at = number < 0 ? null : chart.data[number].type === "heatmap" ? [0, 0] : 0;
    if (at !== null) Plotly.Fx.hover(chart, [{curveNumber: number, pointNumber: at}], Object.keys(chart._fullLayout._plots));
  }
  for (const mark of document.querySelectorAll("[id^=circuits-vis] *")) mark.dispatchEvent(new MouseEvent("mouseover", {bubbles: true}));
};
const read = () => {
  const texts = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) if (walk.currentNode.parentNode.localName !== "script") texts.push(walk.currentNode.data);
  const alien = document.querySelector("main iframe, main base, main meta, main [onerror], main [onload], main a, main img");
  const run = "hit" in window ? "window.hit is set" : alien ? alien.outerHTML : "";
  document.documentElement.setAttribute("data-read", JSON.stringify({run, texts}));
};
addEventListener("load", () => { setTimeout(look, 2500); setTimeout(read, 4500); });
</script>"""


def seen(chromium: str, page: str, folder: Path) -> str:
    """The page's text when everything is drawn and pointed at, all white space as blanks; fails where anything ran or was complained about."""
    path = folder / "page.html"
    path.write_text(page.replace("<head>", "<head>" + WATCH + READ, 1), encoding="utf-8")
    dom = browse(chromium, path, folder / "profile", "--dump-dom")
    head = dom.partition("<head>")[0]
    assert "data-errors" not in head, html.unescape(re.sub(r'data-read="[^"]*"', "", head))
    found = re.search(r'data-read="([^"]*)"', head)
    assert found is not None
    read = json.loads(html.unescape(found[1]))
    assert read["run"] == ""
    return _one_line("\n".join(read["texts"]))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def missing(text: str, payloads: Any) -> list[str]:
    """The payloads that are not shown as they are, not even shortened as a label is whose whole text shows on hovering."""
    forms = {payload: [printable(payload), *(shortened(printable(payload), most) for most in (44, 32, 24))] for payload in payloads}
    return [payload for payload, each in forms.items() if not any(_one_line(form) in text for form in each)]


@pytest.fixture(scope="module")
def hostile() -> Iterator[Any]:
    """A small random model whose name and whose every other token is a payload."""
    model = build("bridge-gpt2")
    before = model.tokenizer, model.cfg.model_name
    model.tokenizer, model.cfg.model_name = tokenizer_of_payloads(), PAYLOADS[0]
    yield model
    model.tokenizer, model.cfg.model_name = before


def fact(number: int) -> tlk.Fact:
    """A fact whose subject, words, answer and relation are payloads."""
    words = [PAYLOADS[(number + i) % len(PAYLOADS)] for i in range(len(PAYLOADS))]
    template = BETWEEN.join([words[1], "{}", *words[2:SHOWN]])
    return tlk.Fact(words[0], template, words[SHOWN], relation=words[number % 2 + 3], paraphrases=(BETWEEN.join(["{}", *words[7:10]]),))


@pytest.fixture(scope="module")
def report(hostile) -> Any:
    method, query = tlk.FineTune(layer=1, steps=2), tlk.datasets.Query(fact(1).text, ((PAYLOADS[1],),))
    paraphrases, tests = (fact(0).rephrase(fact(0).paraphrases[0]),), (tlk.datasets.EditTest(PAYLOADS[2], (query, query)),)
    case = tlk.EditCase(fact(0), PAYLOADS[SHOWN + 2], paraphrases, (fact(2),), tests=tests)
    return tlk.report_fact(hostile, case, method=method, samples=1, limit=6, progress=False)


def test_a_report(chromium, report, tmp_path):
    """Traces, all circuitsvis views, circuits, attention, an edit, what it moved, and the footer."""
    text = seen(chromium, report.to_html(), tmp_path)
    assert "What this edit moved" in text
    assert missing(text, PAYLOADS[: SHOWN + 1]) == [] and missing(text, [PAYLOADS[SHOWN + 2]]) == []


def test_what_a_notebook_shows(chromium, hostile, report, tmp_path):
    """The same without a page's policy: nothing but the escapes."""
    views = [
        report.neurons.view,
        *report.edited.views,
        report.attention.attention_view(limit=2),
        tlk.tracing.effect_view(report.traces["subject"][0]),
    ]
    results = [report, report.attention, report.circuits["subject"], report.lens, report.traces["subject"][0], report.edited.edit]
    outputs = [shown._repr_html_() for shown in [*views, drawing.ViewPage(PAYLOADS[1], views), *results]]
    page = f"<!doctype html><html><head><meta charset='utf-8'></head><body><main>{''.join(outputs)}</main></body></html>"
    assert missing(seen(chromium, page, tmp_path), PAYLOADS[:SHOWN]) == []


def test_a_trace_of_labels_that_no_tokenizer_has(chromium, hostile, tmp_path):
    labels = [*PAYLOADS, "", "\n", " "]
    prompt = tlk.Prompt.from_tokens(list(range(len(labels))), subject=range(1, 4), target=5, labels=labels)
    traces = [tlk.trace(hostile, prompt, corrupt=side, component="mlp_out", samples=1, progress=False) for side in ("subject", "relation")]
    traces = [replace(each, target=PAYLOADS[0], provenance=replace(each.provenance, engine=HALVES[0])) for each in traces]
    assert missing(seen(chromium, tlk.tracing.trace_page(traces), tmp_path), [*PAYLOADS, HALVES[0]]) == []


def test_a_fact_set(chromium, hostile, tmp_path):
    average = tlk.trace_facts(hostile, [fact(i) for i in range(6)], components="mlp_out", samples=1, known_only=False, progress=False)
    average = replace(average, provenance=replace(average.provenance, settings={word: [word, {"kind": word}] for word in EVERYTHING}))
    assert missing(seen(chromium, average.to_html(), tmp_path), EVERYTHING) == []


def test_the_neurons_of_a_fact_set(chromium, hostile, tmp_path):
    facts = [replace(fact(0), relation=PAYLOADS[i]) for i in range(len(PAYLOADS))]
    groups = tlk.neurons.fact_groups(hostile, facts[:], own_wording=True)
    located = tlk.locate_neurons(hostile, groups, steps=2, shared_by=0.1, progress=False)
    effects = tlk.neurons.measure_neuron_effects(hostile, facts, located=located, progress=False)
    located = replace(located, provenance=replace(located.provenance, device=HALVES[1]))
    assert missing(seen(chromium, tlk.neurons.neurons_page(located, [effects]), tmp_path), [*PAYLOADS, HALVES[1]]) == []


def test_the_scores_of_an_evaluation(chromium, tmp_path):
    names = ["ES", "EM", "PS", "PM", "NS", "NM"]
    rows = {name: np.linspace(0, 1, len(PAYLOADS)) for name in [*names, *(f"base_{name}" for name in names)]}
    about = {"case_id": range(len(PAYLOADS)), "subject": PAYLOADS, "relation": PAYLOADS, "target_new": PAYLOADS}
    provenance = Provenance(PAYLOADS[1], "b", {}, False, "float32", "cpu", 0, "rows")
    reports = [tlk.EditReport(pd.DataFrame({**about, **rows}), EvaluationSettings(name), provenance) for name in PAYLOADS]
    scores = tlk.score_table(*reports)
    parts = [
        *page_parts(scores, (), [scores.plot(), *(report.plot_by(metric="NS") for report in reports[:2])]),
        drawing.provenance_footer(provenance),
    ]
    assert missing(seen(chromium, drawing.html_page(PAYLOADS[2], parts), tmp_path), PAYLOADS) == []


@pytest.mark.parametrize("number", range(0, len(EVERYTHING), 7))
def test_every_figure(chromium, number, tmp_path):
    words = list(EVERYTHING[number : number + 7])
    drawn = figures(words[0], words)
    text = seen(chromium, drawing.html_page("figures", [*drawn, *map(drawing.dark, drawn)]), tmp_path)
    assert missing(text, words) == [] and "%{customdata}" not in text


def test_every_part_of_a_page(chromium, tmp_path):
    words = list(EVERYTHING)
    view = drawing.HtmlView("view", words[0], "ColoredTokens", {"tokens": words, "values": [0.5] * len(words), words[1]: words[1]})
    parts: list[drawing.PagePart] = [
        *words,
        *map(drawing.heading, words),
        *map(drawing.note, words),
        drawing.Table(words, [words]),
        drawing.SideBySide([words, [drawing.Table(["a"], [[word]]) for word in words]]),
        drawing.marked_prompt(words, {"subject": (0, 1), "relation": range(2, 9)}, words[0]),
        drawing.markup("<p title='{{ word }}' id=\"{{ word }}\">{{ word }}</p>", word=words[0]),
        view,
    ]
    for title in (PAYLOADS[16], HALVES[0]):
        assert missing(seen(chromium, drawing.html_page(title, parts), tmp_path), [*words, title]) == []


def test_a_view_from_a_hostile_file_runs_nothing(chromium, report, tmp_path):
    """A saved view is data; whoever changes the file cannot put a program into it."""
    view = report.neurons.view
    with pytest.raises(tlk.errors.DataError, match="no element of circuitsvis"):
        replace(view, element="x);window.hit=1;(")
    changed = replace(view, title=PAYLOADS[0], note=PAYLOADS[1], properties={**view.properties, "firstDimensionName": PAYLOADS[0]})
    text = seen(chromium, changed.save(tmp_path / "view.html").read_text(encoding="utf-8"), tmp_path)
    assert missing(text, PAYLOADS[:SHOWN]) == []


def test_the_policy_stops_what_comes_past_the_escapes(chromium, tmp_path):
    """A program, a handler and a picture that stand in the page as markup: the policy refuses each."""
    smuggled = drawing.markup("<script>window.hit=1</script><img src='http://127.0.0.1/x.png' onerror='window.hit=1'>")
    path = tmp_path / "page.html"
    path.write_text(drawing.html_page("t", [smuggled]).replace("<head>", "<head>" + WATCH + READ, 1), encoding="utf-8")
    head = html.unescape(browse(chromium, path, tmp_path / "profile", "--dump-dom").partition("<head>")[0])
    for refused in ("script-src-elem inline", "img-src http://127.0.0.1/x.png", "script-src-attr inline"):
        assert refused in head, head
    path.write_text(path.read_text(encoding="utf-8").replace("default-src", "x-src").replace("script-src", "y-src").replace("img-src", "z-src"))
    assert "window.hit is set" in html.unescape(browse(chromium, path, tmp_path / "profile", "--dump-dom").partition("<head>")[0])
