"""A relation's report is what its parts say, each asked by itself."""

from __future__ import annotations

import pytest

import tl_knowledge as tlk
from tl_knowledge.errors import InputError, UnsupportedModelError
from tl_knowledge.results.statistics import scalar_interval

FACTS = [fact for fact in tlk.load_facts("factlm") if fact.relation == "P1303"][:9]
QUIET = {"progress": False}


@pytest.fixture(scope="module")
def report(factlm):
    return tlk.report.report_relation(factlm, FACTS, examples=3, limit=6, samples=2, seed=1, **QUIET)


def line(report, panel, what):
    rows = report.table[(report.table["panel"] == panel) & (report.table["what"] == what)]
    return rows[["layer", "value", "low", "high", "facts"]].reset_index(drop=True)


def test_every_line_is_what_its_part_says(factlm, report):
    average = tlk.trace_facts(factlm, FACTS[:6], components=("mlp_out", "attn_out"), samples=2, seed=1, **QUIET)
    knockout = tlk.measure_attention_knockout(factlm, FACTS[:6], at=("subject", "relation"), **QUIET).to_dataframe()
    maps = tlk.relations.measure_relation_maps(factlm, FACTS, examples=3, limit=6, seed=1, **QUIET).table
    places = {
        ("subject traced", "MLP, subject's last token"): ("last corrupted token", "subject", "mlp_out"),
        ("subject traced", "attention, last token"): ("last token", "subject", "attn_out"),
        ("relation traced", "MLP, last token"): ("last token", "relation", "mlp_out"),
        ("relation traced", "attention, last token"): ("last token", "relation", "attn_out"),
    }
    for (panel, what), place in places.items():
        effects, drawn = average.effects_at(*place), line(report, panel, what)
        assert drawn["value"].tolist() == pytest.approx(effects.mean(0)) and drawn["facts"].tolist() == [6] * 8
        assert tuple(drawn.loc[3, ["value", "low", "high"]]) == pytest.approx(scalar_interval(effects[:, 3]))
    for span in ("subject", "relation"):
        assert line(report, "attention blocked", f"{span} tokens")["value"].tolist() == knockout[knockout["blocked"] == span]["change"].tolist()
    for score, what in (("faithful", "map says what the model says"), ("constant", "mean object does"), ("causal", "edit by the map works")):
        drawn = line(report, "relation as a map", what)
        assert drawn["value"].tolist() == pytest.approx(maps.groupby("layer")[score].mean().tolist()) and drawn["layer"].tolist() == list(range(7))
    tested = average.compare_modules().table.query("layer == -1 and place == 'last token'")
    assert [test.effect_size for test in report.modules] == tested["effect_size"].tolist()
    assert [test.corrupt for test in report.modules] == ["subject", "relation"] and report.relation == "P1303" and not report.missing
    assert len(report.plot().layout.annotations) == 4


def test_what_a_model_does_not_have_is_left_out_and_said(factlm, monkeypatch):
    def refuse(*_, **__):
        raise UnsupportedModelError("no scores here")

    monkeypatch.setattr("tl_knowledge.report.relation.measure_attention_knockout", refuse)
    report = tlk.report.report_relation(factlm, FACTS, examples=3, limit=6, samples=1, **QUIET)
    assert report.missing == {"attention blocked": "no scores here"} and len(report.plot().layout.annotations) == 3


def test_several_relations_and_too_few_facts_are_refused(factlm):
    with pytest.raises(InputError, match="facts of 2 relations"):
        tlk.report.report_relation(factlm, FACTS + tlk.load_facts("factlm")[:1], **QUIET)
    with pytest.raises(InputError, match="a paired test of 5 facts"):
        tlk.report.report_relation(factlm, FACTS[:5], examples=3, samples=1, **QUIET)
