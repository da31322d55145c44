"""What figures say and how they look, from their JSON: scales, colours by role, sentences, the narrow form, whiskers, words."""

from __future__ import annotations

import html
import itertools
import math
import re

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from plotly.colors import sample_colorscale, unlabel_rgb
from support.extremes import extreme_figures
from support.figures import figures

import tl_knowledge as tlk
from tl_knowledge import drawing
from tl_knowledge.drawing.look import NIGHT, ROLE_COLOURS, ZERO, colour_of, dark, shortened, wrapped
from tl_knowledge.drawing.maps import colour_scale
from tl_knowledge.drawing.narrow import narrow
from tl_knowledge.drawing.says import extremes, sentence_of
from tl_knowledge.errors import InputError
from tl_knowledge.evaluation.definitions import DEFINITIONS, definition_of
from tl_knowledge.evaluation.report import EvaluationSettings
from tl_knowledge.evaluation.table import DRAWN, MOVED, SHOWN
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.wording import RELATION_NAMES, counted, relation_words, with_relation_names


def chart(values, colours="MLP", **more):
    values = np.asarray(values, dtype=float)
    rows, columns = ([str(i) for i in range(size)] for size in values.shape)
    return drawing.HeatMap(values, rows, columns, "", "token", "layer", colours=colours, **more)


def drawn(*charts, **more):
    return drawing.heat_maps(charts, title="T", subtitle="s", colour_axis="effect", **more)


def lightness(scale, at):
    """How light a scale is, from 0 to 3 * 255."""
    return sum(unlabel_rgb(sample_colorscale(scale, [at])[0]))


@pytest.mark.parametrize("colours", ["MLP", "attention", "residual", "RdBu", "Purples", "#123456"])
@pytest.mark.parametrize("signed", [True, False])
def test_zero_is_the_background_and_the_lightest_and_more_is_darker(colours, signed):
    scale = [list(stop) for stop in colour_scale(colours, signed=signed)]
    zero = 0.5 if signed else 0.0
    assert scale[0 if not signed else 2] == [zero, ZERO]
    for way in ([zero, 0.6, 0.8, 1.0],) + (([zero, 0.4, 0.2, 0.0],) if signed else ()):
        lights = [lightness(scale, at) for at in way]
        assert lights == sorted(lights, reverse=True) and len(set(lights)) == 4


@pytest.mark.parametrize(("least", "diverges"), [(-0.5, True), (-0.0011, True), (-0.0009, False), (-1e-9, False), (0.0, False), (0.3, False)])
def test_the_scale_diverges_where_a_value_is_negative_beyond_rounding(least, diverges):
    """Rounding is a thousandth of the largest size, over all maps of a figure."""
    figure = drawn(chart([[1.0, 0.5]]), chart([[least, 0.2]]))
    assert {(trace.zmin, trace.zmax) for trace in figure.data} == {(-1.0 if diverges else 0.0, 1.0)}
    assert {trace.colorscale[0][1] == ZERO for trace in figure.data} == {not diverges}
    assert figure.layout.plot_bgcolor == ZERO


def test_a_large_loss_bounds_the_scale_on_both_sides():
    (trace,) = drawn(chart([[0.1, -0.8]])).data
    assert (trace.zmin, trace.zmax) == (-0.8, 0.8)


def test_a_cell_without_a_value_is_crossed_out_and_not_zero():
    cells, crosses = drawn(chart([[0.0, math.nan], [math.inf, 1.0]])).data
    assert sorted(zip(crosses.y, crosses.x, strict=True)) == [(0, 1), (1, 0)] and crosses.marker.symbol == "x-thin"
    assert np.isnan(cells.z).sum() == 2 and cells.hoverongaps is False and (cells.zmin, cells.zmax) == (0.0, 1.0)
    assert len(drawn(chart([[0.0, 1.0]])).data) == 1


def test_numbers_are_drawn_as_they_are():
    values = np.random.default_rng(0).normal(size=(3, 4))
    np.testing.assert_array_equal(drawn(chart(values)).data[0].z, values)


def test_one_colour_a_role_in_every_kind_of_figure():
    violet, orange = ROLE_COLOURS["subject"], ROLE_COLOURS["relation"]
    sides = [drawing.Line(f"{side} corrupted", [0], [1.0], [1.0], [1.0], 5) for side in ("subject", "relation")]
    lines = drawing.line_panels([drawing.LinePanel("", sides)], title="", subtitle="", x_axis="x", y_axis="y")
    assert [trace.line.color for trace in lines.data if trace.showlegend] == [violet, orange]
    points = drawing.scatter({f"{s} corrupted (costs 3%)": drawing.Points([0.0], [0.0], ["a"]) for s in ("relation", "subject")},
                             title="", subtitle="", x_axis="x", y_axis="y")  # fmt: skip
    assert [trace.marker.color for trace in points.data] == [orange, violet]
    bars = drawing.grouped_bars(
        ["S"], {n: [(0.5, 0.4, 0.6)] for n in ("unedited", "ROME", "MEMIT")}, title="", subtitle="", group_axis="", value_axis=""
    )
    assert [bar.marker.color for bar in bars.data] == [ROLE_COLOURS["before"], *drawing.PALETTE[:2]]
    beside = {name: [(0.5, 0.4, 0.6)] for name in ("clean", "neurons suppressed", "random neurons suppressed")}
    bars = drawing.grouped_bars(["S"], beside, title="", subtitle="", group_axis="", value_axis="")
    assert [bar.marker.color for bar in bars.data] == [ROLE_COLOURS["before"], *drawing.PALETTE[:2]]
    from tl_knowledge.circuits.figures import LOOKS
    from tl_knowledge.tracing.words import COLOUR_SCALES

    assert {LOOKS[kind][1] for kind in ("attention", "head")} == {ROLE_COLOURS[COLOUR_SCALES["attn_out"]]} == {ROLE_COLOURS[COLOUR_SCALES["head"]]}
    assert {LOOKS[kind][1] for kind in ("MLP", "neurons")} == {ROLE_COLOURS[COLOUR_SCALES["mlp_out"]]} == {ROLE_COLOURS[COLOUR_SCALES["neuron"]]}
    assert LOOKS["state"][1] == ROLE_COLOURS[COLOUR_SCALES["resid_post"]]


@pytest.mark.parametrize("family", [("subject", "relation", "last token", "answer"), ("attention", "MLP", "residual"),
                                    ("before", "after", "both"), ("raises", "lowers")])  # fmt: skip
def test_roles_that_meet_in_a_figure_differ_by_day_and_by_night(family):
    colours = [ROLE_COLOURS[role] for role in family]
    assert len(set(colours)) == len({NIGHT.get(colour, colour) for colour in colours}) == len(family)


def test_the_page_marks_tokens_in_the_roles_colours():
    page = drawing.html_page("t", [])
    for role in ("subject", "relation", "answer"):
        assert f"--{role}-line: {ROLE_COLOURS[role]}" in page


def test_a_label_that_is_spelt_like_a_colour_stays():
    figure = drawing.bar_chart(["white", "#000000"], [1.0, 2.0], title="white", subtitle="", value_axis="x")
    night = dark(figure)
    assert (
        night.layout.yaxis.ticktext == ("white", "#000000")
        and night.layout.meta["title"] == "white"
        and list(night.data[0].customdata) == ["white", "#000000"]
    )
    assert night.layout.paper_bgcolor == "#15181f" != figure.layout.paper_bgcolor


# Sentences


def test_a_trace_says_where_its_largest_effect_is(factlm):
    prompt = tlk.Prompt.from_fact(factlm, tlk.load_facts()[0])
    trace = tlk.trace(factlm, prompt, component="mlp_out", samples=3, progress=False)
    best, said = trace.top(1).iloc[0], sentence_of(trace.plot())
    where = f"layer {best['layer']}, token {best['token'].strip()!r} ({best['role']})"
    assert said.startswith(f"Largest indirect effect (probability): {best['effect']:.3g} at mlp_out") and where in said
    assert said.endswith("Mean of 3 noise samples.") and f"Smallest: {trace.to_dataframe()['effect'].min():.3g}" in said
    one = tlk.trace(factlm, prompt, component="mlp_out", samples=1, progress=False)
    assert sentence_of(one.plot()).endswith("Mean of 1 noise sample.") and "; 1 noise sample;" in one.plot().layout.title.subtitle.text
    both = tlk.compare(trace, tlk.trace(factlm, prompt, corrupt="relation", component="mlp_out", samples=3, progress=False))
    assert "(subject corrupted)" in sentence_of(both.plot()) or "(relation corrupted)" in sentence_of(both.plot())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([math.nan, math.nan], "No effect has a value."),
        ([], "No effect has a value."),
        ([0.0, 0.0], "Every effect is 0."),
        ([math.nan, 2.0], "The only effect: 2 b."),
        ([1.0, 1.0, -1.0], "Largest effect: 1 a (and at 1 other place). Smallest: -1 c."),
        ([math.inf, 1.0, 0.5], "Largest effect: 1 b. Smallest: 0.5 c."),
    ],
)
def test_a_sentence_claims_nothing_that_the_numbers_do_not(values, said):
    assert extremes("effect", values, ["a", "b", "c"][: len(values)]) == said


def test_every_figure_has_a_sentence_of_its_own_numbers_and_a_page_writes_it():
    for figure in [*figures("word", ["a", "b"]), *extreme_figures()]:
        said = sentence_of(figure)
        assert said.endswith((".", "!")) and re.search(r"\d", said)
        assert html.escape(said, quote=False)[:40] in drawing.html_page("t", [figure]).replace("&#39;", "'").replace("&#34;", '"')
    none = drawing.graph([], [], looks={}, rows=["a"], columns=[(0.0, "0")], title="T", subtitle="")
    assert sentence_of(none) == "Nothing is drawn: no site was kept."


def test_a_map_s_sentence_names_the_cell():
    values = np.zeros((2, 3))
    values[1, 2], values[0, 0] = 0.7, -0.25
    assert sentence_of(drawn(chart(values))) == "Largest effect: 0.7 at token '1', layer 2. Smallest: -0.25 at token '0', layer 0."


# The narrow form


def panels_of(layout):
    return [axis for axis in layout if axis.startswith("yaxis")]


@pytest.mark.parametrize("number", range(len(extreme_figures())))
def test_the_narrow_form_stacks_every_panel_and_leaves_nothing_out(number):
    figure = extreme_figures()[number]
    below = narrow(figure)
    axes = panels_of(below["layout"])
    domains = sorted(below["layout"][axis].get("domain") or (0, 1) for axis in axes)
    assert all(high <= low for (_, high), (low, _) in itertools.pairwise(domains)) and domains[0][0] >= 0 and domains[-1][1] <= 1.0001
    assert {trace["of"] for trace in below["traces"]} == set(range(len(figure.data)))
    assert {tuple(below["layout"][axis.replace("y", "x")]["domain"]) for axis in axes} == {(0, 1)}
    assert "title" not in below["layout"] and figure.layout.title.text
    for axis in axes:  # what only the first panel of a row says in the wide form
        wide = figure.layout[axis] if axis in figure.layout.to_plotly_json() else None
        if wide is not None and wide.ticktext is not None:
            assert any(below["layout"][axis]["ticktext"]) or any(below["layout"][axis.replace("y", "x")].get("ticktext") or ())


def test_upright_bars_lie_down_where_they_have_no_room():
    bars = {name: [(i / 40, 0.0, 1.0) for i in range(40)] for name in ("unedited", "ROME")}
    figure = drawing.grouped_bars([f"score {i}" for i in range(40)], bars, title="T", subtitle="", group_axis="score", value_axis="share")
    below = narrow(figure)
    assert all(trace["set"]["orientation"] == "h" for trace in below["traces"]) and len(below["layout"]["yaxis"]["ticktext"]) == 40
    plain = figure.to_plotly_json()["data"]
    for trace, was in zip(below["traces"], plain, strict=True):
        assert trace["set"]["x"] == was["y"] and trace["set"]["error_x"] == was["error_y"]
    assert below["layout"]["xaxis"]["title"]["text"] == "share" and below["layout"]["height"] > 40 * 2 * 14


def test_words_in_cells_are_split_over_panels_and_every_column_is_in_one():
    texts = [[f"word number {i}" for i in range(10)]] * 2
    below = narrow(drawn(chart(np.eye(10)[:2], texts=texts)))
    ranges = sorted(below["layout"][axis]["range"] for axis in below["layout"] if axis.startswith("xaxis"))
    assert len(ranges) > 1 and ranges[0][0] == -0.5 and ranges[-1][1] == 9.5
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(ranges))


def test_labels_are_wrapped_and_shortened():
    assert wrapped("a " * 100, 100, 12) == ["a a a a a a a"] * 14 + ["a a"]
    assert len(shortened("x" * 500)) == 44 and shortened("short") == "short" and shortened("beginning" + "x" * 90 + "end").endswith("end")
    figure = drawing.bar_chart(["x" * 500], [1.0], title="T" * 400, subtitle="", value_axis="v")
    assert len(figure.layout.yaxis.ticktext[0]) == 44 and figure.data[0].customdata[0] == "x" * 500  # hovering says it whole
    assert figure.layout.title.text.count("<br>") > 4 and figure.layout.meta["title"] == "T" * 400


# Words


def test_counted_things():
    assert [counted(n, "prompt") for n in (0, 1, 2, np.int64(1))] == ["0 prompts", "1 prompt", "2 prompts", "1 prompt"]


def test_relations_have_the_names_of_the_bundled_data():
    for relation in tlk.datasets.load_relations():
        assert RELATION_NAMES[relation.id] == relation.label and relation_words(relation.id) == f"{relation.id} ({relation.label})"
    assert relation_words("P123456") == "P123456" and relation_words(None) == "None"
    assert with_relation_names("P36, XP36, P361") == "P36 (capital), XP36, P361 (part of)"


def report(cases):
    names = ["ES", "EM", "PS", "PM", "NS", "NM"]
    rows = {name: np.linspace(20, 80, cases) + number for number, name in enumerate([*names, *(f"base_{name}" for name in names)])}
    about = {"case_id": range(cases), "subject": ["s"] * cases, "relation": ["P36"] * cases, "target_new": ["t"] * cases}
    return tlk.EditReport(pd.DataFrame({**about, **rows}), EvaluationSettings("ROME"), Provenance("m", "b", {}, False, "float32", "cpu", 0, "rows"))


def ends(figure: go.Figure) -> list[float]:
    """Every whisker's length."""
    bars = [trace[axis] for trace in figure.data for axis in ("error_x", "error_y") if trace[axis].array is not None]
    return [value for bar in bars for side in (bar.array, bar.arrayminus) for value in side]


def test_one_case_has_no_whiskers_and_no_interval():
    one, many = report(1), report(9)
    for figure in (one.plot(), one.plot_by(metric="NS")):
        assert ends(figure) == []
    assert len(ends(many.plot())) == 16 and all(math.isfinite(value) for value in ends(many.plot()))
    mixed = drawing.bar_chart(["a", "b"], [1.0, 2.0], [0.5, math.nan], title="", subtitle="", value_axis="x")
    assert ends(mixed) == [0.5, "none", 0.5, "none"]
    assert "[" not in "".join(map(str, one.summary().iloc[0])) and "[" in "".join(map(str, many.summary().iloc[0]))
    frame = tlk.score_table(one).to_dataframe()
    assert frame["ES"].notna().all() and frame["ES_low"].isna().all() and frame["ES_high"].isna().all()
    assert "[" not in sentence_of(one.plot()) and "[" in sentence_of(many.plot())
    assert one.headline().startswith("ROME on 1 case,") and "1 case;" in one.plot().layout.title.subtitle.text
    assert one.plot_by(metric="NS").layout.yaxis.ticktext == ("P36 (capital) (n = 1)",)


# Definitions of scores


def test_every_score_that_is_shown_has_a_definition():
    from tl_knowledge.evaluation.scores import case_scores

    measured = {*case_scores({}, {}), *SHOWN, *DRAWN, *MOVED, *tlk.evaluation.ripple_scores().axes, *tlk.evaluation.multi_hop_scores().axes}
    measured |= {*tlk.evaluation.portability_scores().axes, "milliseconds", "stored_kib", "lens_3", "old_rank", "old_lens_rank", "essence"}
    assert {name for name in measured if definition_of(name) is None} == set()
    assert all(each.says and each.better in ("higher", "lower", "unchanged") and each.unit for each in DEFINITIONS.values())
    assert definition_of("lens_x") is None and "layer 3" in definition_of("lens_3").says


def test_a_table_of_scores_defines_what_it_and_its_figures_show():
    table = tlk.score_table(report(4))
    frame = table.definitions("EM", "NM")
    assert list(frame["score"]) == ["EM", "NM", "S", "ES", "PS", "NS"] and set(frame["better"]) == {"higher"}
    assert "harmonic mean" in frame.set_index("score").loc["S", "definition"]
    own = tlk.evaluation.score_definitions(["mine"]).iloc[0]
    assert (own["better"], own["definition"]) == ("", "a score of a measure of your own")
    with pytest.raises(tlk.errors.DataError, match="no score"):
        tlk.evaluation.score_definitions([])


def test_colours_by_number_are_those_of_no_role():
    assert colour_of("ROME", 1) == drawing.PALETTE[1] and colour_of("MLPs", 1) == ROLE_COLOURS["MLP"]


def test_a_head_is_asked_of_a_figure():
    with pytest.raises(InputError, match=r"figure is a str; pass a plotly Figure, for example what \.plot\(\) returns\."):
        drawing.head_of("x")
