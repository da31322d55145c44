"""Comparing the sides, and the figures of averages: what is drawn is what the tables say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import tl_knowledge as tlk
from tl_knowledge.results.statistics import scalar_interval


@pytest.fixture(scope="module")
def average():
    facts = tlk.sample_facts(tlk.load_facts("factlm"), 12, seed=1)
    return tlk.trace_facts("factlm", facts, sever=("mlp_out", "attn_out"), samples=2, progress=False)


def effects_by_hand(average, side, component, place) -> np.ndarray:
    """``[fact layer]`` at the last corrupted or the last token, found by walking the traces."""
    rows = []
    for trace in average.traces:
        if (trace.corrupt, trace.component, trace.severed) == (side, component, ()):
            spans = {"subject": trace.subject_positions, "relation": trace.relation_positions}
            rows.append(trace.effect[:, spans[side][-1] if place == "last corrupted token" else len(trace.labels) - 1])
    return np.array(rows)


def test_compare_sides_by_hand(average):
    frame, raw = average.compare_sides().to_dataframe(), []
    for row in frame.to_dict(orient="records"):
        subject, relation = (effects_by_hand(average, side, row["component"], row["place"])[:, row["layer"]] for side in ("subject", "relation"))
        assert row["difference"] == pytest.approx((subject - relation).mean(), abs=1e-12) and row["facts"] == 12
        assert row["low"] <= row["difference"] <= row["high"]
        raw.append(stats.wilcoxon(subject - relation).pvalue if np.any(subject != relation) else 1.0)
    assert len(frame) == 3 * 2 * 8
    np.testing.assert_allclose(frame["p"], raw)
    np.testing.assert_allclose(frame["p_corrected"], stats.false_discovery_control(raw))
    assert (frame["differs"] == (frame["p_corrected"] < 0.05)).all() and 0 < frame["differs"].sum() < len(frame)


def test_compare_modules_by_hand(average):
    frame, raw = average.compare_modules().to_dataframe(), []
    for row in frame.to_dict(orient="records"):
        attention, mlps = (effects_by_hand(average, row["corrupt"], module, row["place"]) for module in ("attn_out", "mlp_out"))
        at = slice(None) if row["layer"] == -1 else slice(row["layer"], row["layer"] + 1)
        difference = attention[:, at].mean(1) - mlps[:, at].mean(1)
        assert row["difference"] == pytest.approx(difference.mean(), abs=1e-12) and row["low"] <= row["difference"] <= row["high"]
        assert row["attn_out"] - row["mlp_out"] == pytest.approx(row["difference"], abs=1e-12) and row["facts"] == 12
        raw.append(stats.wilcoxon(difference).pvalue if np.any(difference != 0) else 1.0)
        nonzero = difference[difference != 0]
        pairs = [(i, j) for i in range(len(nonzero)) for j in range(i, len(nonzero))]  # Walsh averages: each sign weighs as its rank
        signs = [np.sign(nonzero[i] + nonzero[j]) for i, j in pairs]
        assert row["effect_size"] == pytest.approx(np.mean(signs) if signs else 0.0, abs=1e-12)
    assert len(frame) == 2 * 2 * 9
    np.testing.assert_allclose(frame["p"], raw)
    np.testing.assert_allclose(frame["p_corrected"], stats.false_discovery_control(raw))
    assert (frame["differs"] == (frame["p_corrected"] < 0.05)).all() and 0 < frame["differs"].sum() < len(frame)
    late = frame.query("corrupt == 'subject' and place == 'last token' and layer == 5").iloc[0]
    assert late["effect_size"] > 0.8 and late["differs"]  # FactLM's attention reads the subject there


def test_modules_are_compared_only_where_both_were_traced(average):
    facts = tlk.load_facts("factlm")[:6]
    only = tlk.trace_facts("factlm", facts, components="mlp_out", samples=1, layers=[0], known_only=False, progress=False)
    with pytest.raises(tlk.errors.ComponentError, match="'attn_out' was not traced"):
        only.compare_modules()
    few = tlk.trace_facts("factlm", facts[:3], components=("mlp_out", "attn_out"), samples=1, layers=[0], known_only=False, progress=False)
    with pytest.raises(tlk.errors.InputError, match="a paired test of 3 facts"):
        few.compare_modules()
    assert average.compare_modules().headline().startswith("attention minus MLPs at the last token: subject +0.")


def test_a_comparison_of_sides_is_a_result(tmp_path, average):
    comparison = average.compare_sides()
    again = tlk.tracing.SideComparison.load(comparison.save(tmp_path / "sides"))
    assert again.to_dataframe().equals(comparison.to_dataframe()) and again.settings == average.settings == comparison.settings
    assert again.plot().to_json() == average.plot_sides().to_json()
    assert abs(again.top(1)["difference"].item()) == comparison.table["difference"].abs().max()
    for row in comparison.to_dataframe().iloc[::7].to_dict(orient="records"):
        for side in ("subject", "relation"):
            effects = effects_by_hand(average, side, row["component"], row["place"])[:, row["layer"]]
            assert row[side] == pytest.approx(effects.mean()) and row[f"{side}_low"] <= row[side] <= row[f"{side}_high"]
            ends = scalar_interval(effects)[1:]
            assert (row[f"{side}_low"], row[f"{side}_high"]) == pytest.approx(ends)


def test_results_say_in_one_line_what_they_are(average):
    assert repr(average).startswith("<TraceAverage: resid_post, mlp_out, attn_out; average total effect: subject 0.")
    assert repr(average.compare_sides()).endswith("places and layers; 12 facts, 2 noise samples each; factlm>")
    assert "<small>" in average._repr_html_() and len(average._repr_html_()) < 10_000


def test_locate_sides_by_hand(average):
    frame = average.locate_sides()
    totals = average.total_effects().set_index("corrupt")["total_effect"]
    for (component, place), group in frame.groupby(["component", "place"]):
        rows, centres = group.set_index("side"), {}
        for side in ("subject", "relation"):
            mean = effects_by_hand(average, side, component, place).mean(0)
            centres[side] = (np.arange(8) * mean.clip(0)).sum() / mean.clip(0).sum()
            assert rows.loc[side, "peak_layer"] == mean.argmax() and rows.loc[side, "peak_effect"] == pytest.approx(mean.max())
            assert rows.loc[side, "peak_share"] == pytest.approx(mean.max() / totals[side])
            assert rows.loc[side, "centre"] == pytest.approx(centres[side])
            assert rows.loc[side, "low"] <= rows.loc[side, "centre"] <= rows.loc[side, "high"]
        assert rows.loc["difference", "centre"] == pytest.approx(centres["subject"] - centres["relation"])


def drawn_lines(figure) -> list:
    return [trace for trace in figure.data if trace.mode == "lines+markers"]


def test_role_lines_are_the_dataframe(average):
    frame = average.to_dataframe().query("severed == 'none'")
    figure = average.plot()
    lines = drawn_lines(figure)
    first_panel = {line.name: line for line in lines if line.xaxis == "x"}
    assert set(first_panel) == {
        "first subject token",
        "middle subject tokens",
        "last subject token",
        "first token after",
        "further tokens",
        "last token",
    }
    expected = frame.query("corrupt == 'subject' and component == 'resid_post' and role == 'last subject token'")
    np.testing.assert_allclose(first_panel["last subject token"].y, expected["effect"])
    np.testing.assert_allclose(first_panel["last subject token"].customdata, expected[["low", "high"]])
    assert "12 facts, 2 noise samples each; factlm; bands: 95% bootstrap" in figure.layout.meta["subtitle"]
    assert "1.96 sd" in average.plot("meng2022_code").layout.meta["subtitle"]


def test_heat_maps_are_the_dataframe(average):
    figure = average.plot_heat_maps()
    assert len(figure.data) == 6
    table = average.to_dataframe().query("severed == 'none' and corrupt == 'relation' and component == 'attn_out' and role == 'last relation token'")
    np.testing.assert_allclose(figure.data[5].z[-1], table["effect"])
    assert len({(trace.zmin, trace.zmax) for trace in figure.data}) == 1


def test_severed_lines(average):
    lines = drawn_lines(average.plot_severed())
    assert [line.name for line in lines] == ["intact", "MLP output severed", "attention output severed"] * 2
    np.testing.assert_allclose(lines[1].y, average.effects_at("last corrupted token", "subject", "resid_post", "mlp_out").mean(0))


def test_filled_points_are_the_layers_that_differ(average):
    frame = average.compare_sides().table
    lines = drawn_lines(average.plot_sides())
    for index, place in enumerate(("last corrupted token", "last token")):
        for column, component in enumerate(average.components):
            differs = frame[(frame["place"] == place) & (frame["component"] == component)]["differs"].tolist()
            first = 2 * (3 * index + column)
            assert [[color != "white" for color in line.marker.color] for line in lines[first : first + 2]] == [differs, differs]


def test_the_page_says_what_it_rests_on(average):
    page = average.to_html()
    for words in (
        "12 facts of",
        "2 noise samples",
        "Benjamini",
        "Severed",
        "outputs of all MLPs or, as another line, ",
        "transformer-lens",
        "average total effect",
    ):
        assert words in page
    one_side = tlk.trace_facts("factlm", average.facts[:2], corrupt="subject", components="mlp_out", samples=1, progress=False)
    assert "Subject against relation" not in one_side.to_html()


def test_top_is_of_unsevered_usual_roles(average):
    top = average.top(5)
    assert len(top) == 5 and set(top["severed"]) == {"none"} and top["effect"].is_monotonic_decreasing
