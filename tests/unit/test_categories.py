"""Several methods by category, and one method over ranges of layers: tables by hand, figures that show them, stores that go on."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from support.places import FACTLM_LAYER

import tl_knowledge as tlk
from tl_knowledge.errors import ComponentError, DataError, InputError

pytestmark = pytest.mark.slow

LATE = 5  # after the look-up
FT = tlk.FineTune(layer=FACTLM_LAYER, steps=4)


@pytest.fixture(scope="module")
def reports(factlm):
    cases = tlk.load_edit_cases()[:12]
    return [tlk.evaluate(factlm, cases, method, progress=False) for method in (FT, tlk.FineTune(layer=LATE, steps=4))]


def test_categories_by_hand(reports, tmp_path):
    compared = tlk.evaluation.compare_categories(*reports, names=("early", "late"), metrics=("EM",))
    for name, report in zip(("early", "late"), reports, strict=True):
        for relation, group in report.table.groupby("relation"):
            rows = compared.table[(compared.table["method"] == name) & (compared.table["category"] == relation)].set_index("score")
            for metric in ("ES", "PS", "NS", "EM"):
                assert rows.loc[metric, "mean"] == pytest.approx(np.nanmean(group[metric])) and rows.loc[metric, "cases"] == len(group)
            means = [np.nanmean(group[metric]) for metric in ("ES", "PS", "NS")]
            assert rows.loc["S", "mean"] == pytest.approx(0 if min(means) == 0 else 3 / sum(1 / mean for mean in means))
    again = tlk.evaluation.CategoryScores.load(compared.save(tmp_path / "categories"))
    pd.testing.assert_frame_equal(again.table, compared.table)
    assert again.plot().to_json() == compared.plot().to_json() and list(again.settings) == ["early", "late"]


def test_category_figures_are_the_table(reports):
    compared = tlk.evaluation.compare_categories(*reports, names=("early", "late"), interval="meng2022_code")
    summary, figure = compared.summary(metric="ES"), compared.plot(metric="ES")
    assert [bar.name for bar in figure.data] == ["early", "late"] and "1.96 sd" in figure.layout.meta["subtitle"]
    for bar in figure.data:
        np.testing.assert_allclose(np.array(bar.y) * 100, summary[bar.name])
    assert summary[["early", "late"]].mean(axis=1).is_monotonic_decreasing and summary["cases"].sum() == 12
    points = {group.name: group for group in compared.plot_scatter().data}
    wide = compared.table[compared.table["method"] == "late"].pivot(index="category", columns="score", values="mean")
    np.testing.assert_array_equal(points["late"].x, wide["PS"])
    np.testing.assert_array_equal(points["late"].y, wide["NS"])
    assert compared.plot_scatter().layout.yaxis.range == (-4, 104)  # the same in every figure
    with pytest.raises(InputError, match="no score 'XS'"):
        compared.plot(metric="XS")
    with pytest.raises(InputError, match="no column 'country'"):
        tlk.evaluation.compare_categories(*reports, names=("a", "b"), category="country")
    with pytest.raises(InputError, match="go by the names"):
        tlk.evaluation.compare_categories(*reports)


def test_ranges_of_layers_are_evaluations_and_go_on(factlm, factlm_moments, tmp_path, monkeypatch):
    cases = tlk.load_edit_cases()[:3]
    method = tlk.MEMIT(layers=(5,), moment_weight=50.0, contexts=((4, 2),), value=tlk.editing.ValueSettings(steps=4, clamp=0.75))
    ranges, more = [(2,), (3,), (2, 3)], {"moments": factlm_moments, "progress": False}
    planned, plan = [], tlk.MEMIT.plan

    def killed(self, model, facts, moments):
        planned.append(self.layers)
        if len(planned) == 2:
            raise KeyboardInterrupt
        return plan(self, model, facts, moments)

    monkeypatch.setattr(tlk.MEMIT, "plan", killed)
    with pytest.raises(KeyboardInterrupt):
        tlk.evaluation.sweep_layer_ranges(factlm, cases, method, ranges, store=tmp_path / "run", **more)
    sweep = tlk.evaluation.sweep_layer_ranges(factlm, cases, method, ranges, store=tmp_path / "run", **more)
    assert planned == [(2,), (3,), (3,), (2, 3)]
    for layers, words in zip(ranges, ("2", "3", "2-3"), strict=True):
        alone = tlk.evaluate(factlm, cases, tlk.MEMIT(**vars(method) | {"layers": layers}), protocol="batch", **more)
        rows = sweep.table[sweep.table["layers"] == words].set_index("score")
        assert {metric: rows.loc[metric, "mean"] for metric in ("S", "ES", "NM")} == {m: alone.scores[m].mean for m in ("S", "ES", "NM")}
    lines = [line for line in sweep.plot().data if line.mode == "lines+markers" and line.xaxis == "x"]
    assert {line.name: list(line.x) for line in lines} == {"1 layer": [2, 3], "2 layers": [3]}
    pd.testing.assert_frame_equal(tlk.evaluation.LayerRangeScores.load(sweep.save(tmp_path / "sweep")).table, sweep.table)
    assert list(sweep.summary()["layers"]) == ["2", "3", "2-3"] and "3 ranges of layers, 3 cases" in repr(sweep)
    with pytest.raises(DataError, match="holds a run with other methods"):
        tlk.evaluation.sweep_layer_ranges(factlm, cases, method, ranges[:2], store=tmp_path / "run", **more)


@pytest.mark.parametrize(
    ("method", "ranges", "error", "message"),
    [
        (FT, [(0,)], InputError, "has no setting layers"),
        (tlk.MEMIT(layers=(0,)), [], InputError, "at least one range"),
        (tlk.MEMIT(layers=(0,)), [(0,), (0,)], InputError, "each once"),
        (tlk.MEMIT(layers=(0,)), [(99,)], ComponentError, "99"),
    ],
)
def test_ranges_that_cannot_be_swept(factlm, method, ranges, error, message):
    with pytest.raises(error, match=message):
        tlk.evaluation.sweep_layer_ranges(factlm, tlk.load_edit_cases()[:2], method, ranges, progress=False)
