"""Scores of edits, by hand and on FactLM."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from support.places import FACTLM_LAYER

import tl_knowledge as tlk
from tl_knowledge.cli.scoring import page_parts
from tl_knowledge.errors import DataError, InputError
from tl_knowledge.evaluation.scores import COUNTERFACT, Answer, Candidates, case_scores, read_candidates
from tl_knowledge.models.weights import output_weights
from tl_knowledge.results.provenance import Provenance

PROVENANCE = Provenance("m", "b", {}, False, "float32", "cpu", 0, "e", {})


@pytest.fixture
def moments(factlm_moments):
    return factlm_moments


def negative_log_likelihood(model, text, answer) -> float:
    prompt = tlk.Prompt.from_text(model, text, target=answer)
    tokens = prompt.tokens
    total = 0.0
    for token in prompt.answer:
        with torch.no_grad():
            total -= float(model(tokens)[0, -1].double().log_softmax(-1)[token])
        tokens = torch.cat([tokens, torch.tensor([[token]])], dim=1)
    return total / len(prompt.answer)


def test_candidates_are_scored_token_by_token(factlm):
    case = next(c for c in tlk.load_edit_cases() if len(tlk.Prompt.from_fact(factlm, c.rewrite).answer) > 1)
    readings = read_candidates(factlm, case)
    for kind, texts in (("rewrite", [case.fact.text]), ("paraphrase", [f.text for f in case.paraphrases])):
        for row, text in zip(readings[kind], texts, strict=True):
            assert row.new.nll == pytest.approx(negative_log_likelihood(factlm, text, case.target_new), rel=1e-4)
            assert row.true.nll == pytest.approx(negative_log_likelihood(factlm, text, case.fact.target), rel=1e-4, abs=1e-4)
    for row, neighbour in zip(readings["neighbourhood"], case.neighbourhood, strict=True):
        assert row.true.nll == pytest.approx(negative_log_likelihood(factlm, neighbour.text, neighbour.target), rel=1e-4, abs=1e-4)
        assert row.new.nll == pytest.approx(negative_log_likelihood(factlm, neighbour.text, case.target_new), rel=1e-4)


def test_success_magnitude_and_accuracy():
    new = Candidates(Answer(0.1, (1, 2), (1, 2)), Answer(2.0, (3,), (1,)))
    true = Candidates(Answer(3.0, (1, 2), (1, 5)), Answer(0.2, (3,), (3,)))
    scores = case_scores({}, {"rewrite": [new], "paraphrase": [new, true], "neighbourhood": [new, true, true]})
    assert (scores["ES"], scores["PS"], scores["NS"]) == (100, 50, pytest.approx(200 / 3))
    assert scores["EM"] == pytest.approx(100 * (np.exp(-0.1) - np.exp(-2.0)))
    assert scores["NM"] == pytest.approx(100 / 3 * (np.exp(-2.0) - np.exp(-0.1) + 2 * (np.exp(-0.2) - np.exp(-3.0))))
    assert (scores["EA"], scores["PA"], scores["NA"]) == (100, 50, pytest.approx(200 / 3))
    assert (scores["reliability"], scores["generality"], scores["token_generality"]) == (100, 50, 75)
    assert scores["joint_generality"] == 50
    unwritten = case_scores({}, {"rewrite": [true], "paraphrase": [new, true], "neighbourhood": [new]})
    assert (unwritten["generality"], unwritten["joint_generality"]) == (50, 0)  # Wei et al., equation 7: the edited prompt as well
    assert np.isnan(case_scores({}, {"rewrite": [new]})["NS"])


def test_scores_against_the_unedited_model():
    """Hase's scores and EasyEdit's locality, by hand."""
    before = {
        "rewrite": [Candidates(Answer(-math.log(0.2), (1,), (3,)), Answer(-math.log(0.5), (3,), (3,)))],
        "neighbourhood": [Candidates(Answer(2.0, (1,), (3,)), Answer(-math.log(0.9) / 2, (3, 4), (3, 4)))],
    }
    after = {
        "rewrite": [Candidates(Answer(-math.log(0.6), (1,), (1,)), Answer(-math.log(0.1), (3,), (1,)))],
        "neighbourhood": [Candidates(Answer(2.0, (1,), (3,)), Answer(-math.log(0.7) / 2, (3, 4), (3, 9)))],
    }
    scores = case_scores(before, after)
    assert scores["hase_rewrite"] == pytest.approx(50) and scores["hase_erasure"] == pytest.approx(80)
    assert scores["hase_neighbourhood"] == pytest.approx(100 * (1 - 0.2 / 0.9))
    assert (scores["locality"], scores["token_specificity"], scores["token_reliability"]) == (50, 50, 100)
    same = case_scores(before, before)
    assert (same["hase_rewrite"], same["hase_erasure"], same["hase_neighbourhood"], same["locality"]) == (0, 0, 100, 100)


def report(values, seed=0) -> tlk.EditReport:
    rows = [
        {"case_id": str(i), "subject": "s", "relation": "r", "target_new": "t"}
        | {p + m: v for m in COUNTERFACT for p, v in (("", value), ("base_", 0.0))}
        for i, value in enumerate(values)
    ]
    return tlk.EditReport(pd.DataFrame(rows), tlk.evaluation.EvaluationSettings("Method"), PROVENANCE)


def test_half_widths_of_meng_2022_code_by_hand():
    """``1.96 sd / sqrt(n)``, numpy's sd, beside each mean in every table; S has none, as in the tables of Meng et al."""
    whole = report([100.0] * 15 + [50.0] * 5)
    half = 1.96 * np.std([100.0] * 15 + [50.0] * 5) / 20**0.5
    table = tlk.score_table(whole, interval="meng2022_code")
    score = table.rows["Method"]["ES"]
    assert (score.mean, score.high - score.mean, score.mean - score.low) == pytest.approx((87.5, half, half))
    assert list(whole.summary(interval="meng2022_code").iloc[1][["S", "ES"]]) == ["87.5", f"87.5 ({half:.1f})"]
    assert f"87.5 ({half:.1f})" in whole.to_markdown(interval="meng2022_code") and "1.96 sd" in whole.to_latex(interval="meng2022_code")
    figure = whole.plot(interval="meng2022_code")
    assert figure.data[1].error_y.array[1] == pytest.approx(half / 100) and "1.96 sd / sqrt(n)" in figure.layout.meta["subtitle"]
    assert whole.by(metric="ES", interval="meng2022_code")["high"].item() == pytest.approx(87.5 + half)
    holes = tlk.EditReport(whole.table.assign(PS=[np.nan] * 10 + [0.0] * 5 + [100.0] * 5), whole.settings, PROVENANCE)
    missing = tlk.score_table(holes, interval="meng2022_code").rows["Method"]["PS"]
    assert missing.mean == 50 and missing.high == pytest.approx(50 + 1.96 * 50 / 10**0.5)
    with pytest.raises(InputError, match="interval 't' is unknown"):
        tlk.score_table(whole, interval="t")


def test_the_harmonic_mean_with_a_zero_is_zero():
    score = report([0.0] * 8).scores["S"]
    assert score.numbers == {"mean": 0, "low": 0, "high": 0} and score.cases == 8


def test_a_page_says_which_scores_have_no_interval_and_why():
    whole = report([100.0, 50.0, 75.0, 100.0])
    assert tlk.score_table(whole).missing_intervals() == ""
    holes = tlk.EditReport(whole.table.assign(PS=[60.0, np.nan, np.nan, np.nan]), whole.settings, PROVENANCE)
    scores = tlk.score_table(holes)
    assert scores.rows["Method"]["S"].mean > 0 and math.isnan(scores.rows["Method"]["S"].low) and not math.isnan(scores.rows["Method"]["ES"].low)
    words = "Without an interval: PS, which one case has; S, the harmonic mean of ES, PS and NS, because PS has none."
    assert scores.missing_intervals("S", "ES", "PS") == words and scores.missing_intervals("ES", "NS") == ""
    page = tlk.drawing.html_page("t", page_parts(scores, ("S", "ES", "PS"), []))
    assert words in page and "Without an interval" not in tlk.drawing.html_page("t", page_parts(tlk.score_table(whole), ("S", "ES"), []))
    theirs = tlk.score_table(whole, interval="meng2022_code").missing_intervals()
    assert theirs == "Without an interval: S, the harmonic mean of ES, PS and NS, in Meng et al.'s program."
    assert tlk.score_table(report([50.0])).missing_intervals() == "Nothing has an interval: of one case nobody knows how far another would differ."


def test_the_report_averages_with_intervals_and_a_harmonic_mean(tmp_path):
    whole = report([100.0] * 15 + [50.0] * 5)
    assert whole.scores["ES"].mean == 87.5 and whole.scores["ES"].low < 87.5 < whole.scores["ES"].high
    assert whole.scores["S"].mean == pytest.approx(87.5) and whole.base["S"].mean == 0
    mixed = whole.table.assign(NS=25.0)
    assert tlk.EditReport(mixed, whole.settings, PROVENANCE).scores["S"].mean == pytest.approx(3 / (2 / 87.5 + 1 / 25))
    assert "| Method " in whole.to_markdown() and list(whole.summary()["model"]) == ["unedited", "Method"]
    again = tlk.EditReport.load(whole.save(tmp_path / "report"))
    assert again.table.equals(whole.table) and again.method == "Method"
    comparison = whole.compare(report([60.0] * 20))
    compared = comparison.to_dataframe().set_index("metric")
    assert compared.loc["ES", "difference"] == pytest.approx(27.5) and compared.loc["ES", "p"] < 0.05
    assert comparison.cases == 20 and len(comparison.plot().data[0].x) == len(COUNTERFACT)
    assert [bar.name for bar in whole.plot().data] == ["unedited", "Method"]


@pytest.mark.slow
def test_rome_on_factlm(factlm, moments):
    """A fact is changed in its own and unseen wordings, its neighbours mostly keep theirs, and the weights come back bit for bit."""
    before = output_weights(factlm, FACTLM_LAYER).clone()
    report = tlk.evaluate(factlm, tlk.load_edit_cases()[:6], tlk.ROME(layer=FACTLM_LAYER), moments=moments, progress=False)
    assert report.scores["ES"].mean == 100 and report.scores["PS"].mean >= 90 and report.scores["NS"].mean >= 70
    assert report.base["ES"].mean < 20 and report.base["NS"].mean > 90
    assert torch.equal(output_weights(factlm, FACTLM_LAYER), before)
    assert report.method == "ROME" and report.settings.method_settings["layer"] == FACTLM_LAYER


def test_sequential_edits_stay_until_the_end(factlm, moments):
    before, short = output_weights(factlm, FACTLM_LAYER).clone(), tlk.ROME(layer=FACTLM_LAYER, contexts=((5, 5),))
    cases = tlk.load_edit_cases()[:3]
    report = tlk.evaluate(factlm, cases, short, moments=moments, protocol="sequential", progress=False)
    assert report.scores["ES"].mean == 100 and torch.equal(output_weights(factlm, FACTLM_LAYER), before)

    class Fails:
        def __init__(self):
            self.calls = 0

        def plan(self, model, facts, moments):
            self.calls += 1
            if self.calls == 3:
                raise KeyboardInterrupt
            return short.plan(model, facts, moments)

    with pytest.raises(KeyboardInterrupt):
        tlk.evaluate(factlm, cases, Fails(), moments=moments, protocol="sequential", progress=False)
    assert torch.equal(output_weights(factlm, FACTLM_LAYER), before)


@pytest.mark.slow
def test_memit_edits_a_batch_on_factlm(factlm, moments):
    method = tlk.MEMIT(layers=(FACTLM_LAYER,), moment_weight=100.0)
    report = tlk.evaluate(factlm, tlk.load_edit_cases()[:8], method, moments=moments, protocol="batch", progress=False)
    assert report.scores["ES"].mean >= 85 and report.scores["S"].mean > 70


def test_the_relations_side_can_be_edited(factlm, moments):
    case = tlk.load_edit_cases()[0]
    edit = tlk.plan_edit(factlm, case.rewrite, tlk.ROME(layer=FACTLM_LAYER, at="relation"), moments=moments)
    assert edit.notes[0]["target_probability"] > 0.5


def test_bad_input(factlm, moments):
    with pytest.raises(DataError, match="no case"):
        tlk.evaluate(factlm, [], tlk.ROME(layer=FACTLM_LAYER), moments=moments)
    with pytest.raises(InputError, match="one fact at a time"):
        tlk.evaluate(factlm, tlk.load_edit_cases()[:2], tlk.ROME(layer=FACTLM_LAYER), moments=moments, protocol="batch", progress=False)
