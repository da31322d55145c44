"""Further measures, protocols, the store, tables and figures of an evaluation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from support import fingerprint
from support.places import FACTLM_LAYER

import tl_knowledge as tlk
from tl_knowledge.errors import DataError, InputError
from tl_knowledge.evaluation.generation import generate, ngram_entropy
from tl_knowledge.evaluation.run_key import run_key
from tl_knowledge.models.weights import output_weights


@pytest.fixture
def moments(factlm_moments):
    return factlm_moments


@pytest.fixture
def capitals():
    return [case for case in tlk.load_edit_cases() if case.fact.relation == "P36"][:4]


ROME = tlk.ROME(layer=FACTLM_LAYER, contexts=((4, 2),), value=tlk.editing.ValueSettings(steps=8))


class Says:
    """An edit that makes the model say one token everywhere, by hand: what each measure must see is known."""

    def __init__(self, model, token):
        self.model, self.token = model, token

    def plan(self, model, facts, moments):
        return self

    def applied(self, model):
        hook = ("unembed.hook_out", lambda x, *, hook: x + 100 * torch.nn.functional.one_hot(torch.tensor(self.token), x.shape[-1]))
        return model.hooks(fwd_hooks=[hook])

    def write_into(self, model):
        raise AssertionError

    def revert(self, model):
        raise AssertionError


def test_prompts_of_ones_choice_are_asked_before_and_after(factlm, capitals):
    token = tlk.Prompt.from_fact(factlm, capitals[0].rewrite).target_token
    word = factlm.tokenizer.decode([token])
    case = capitals[0]
    measures = [
        tlk.evaluation.symmetry({"P36": "{} is the capital of"}),
        tlk.evaluation.synonymy({"P36": "{} is run from"}, {case.target_new: word}),
        tlk.evaluation.subject_synonymy({case.fact.subject: ["Italy"]}),
        *tlk.evaluation.perspectives({"P36": ["The capital of {} is"]}, {"P36": ["{}, whose capital is", "{} has the capital"]}),
    ]
    (symmetric,) = measures[0].facts(case)
    assert (symmetric.text, symmetric.target) == (f"{case.target_new.strip()} is the capital of", f" {case.fact.subject}")
    (other,) = measures[1].facts(case)
    assert (other.text, other.target) == (f"{case.fact.subject} is run from", word)
    assert [len(measure.facts(case)) for measure in measures] == [1, 1, 1, 1, 0, 1, 1]
    report = tlk.evaluate(factlm, case, Says(factlm, token), measures=measures, progress=False)
    assert report.table["synonymy"][0] == 100 and report.table["base_synonymy"][0] == 0
    assert "symmetry" in report.scores and "entity_reliability" in report.metrics


def test_the_seven_accuracies_of_a_symmetric_relation(factlm):
    facts = tlk.datasets.of_relation(tlk.load_facts(), "P36")[:6]
    cases = tlk.datasets.shifted_edit_cases(facts)
    assert [(case.fact.subject, case.target_new) for case in cases[:2]] == [(facts[0].subject, facts[-1].target), (facts[1].subject, facts[0].target)]
    measure = tlk.evaluation.symmetry_accuracies(facts)
    case, (other, fact) = cases[1], facts[:2]  # the fact is edited to the other's object
    token = tlk.Prompt.from_fact(factlm, case.rewrite).target_token
    report = tlk.evaluate(factlm, case, Says(factlm, token), measures=measure, progress=False)
    inverse = "{} is the capital of"
    asked = {
        "old_fact": fact,
        "new_fact": case.rewrite,
        "new_inverse_subject": tlk.Fact(other.target.strip(), inverse, " " + fact.subject),
        "new_inverse_new_subject": tlk.Fact(other.target.strip(), inverse, " " + other.subject),
        "old_inverse_subject": tlk.Fact(fact.target.strip(), inverse, " " + fact.subject),
        "old_inverse_new_subject": tlk.Fact(fact.target.strip(), inverse, " " + other.subject),
    }

    def share(question, says=None) -> float:
        prompt = tlk.Prompt.from_fact(factlm, question)
        answer = torch.tensor([prompt.answer])
        with torch.no_grad():
            logits = factlm(torch.cat([prompt.tokens, answer[:, :-1]], dim=1))[0, len(prompt) - 1 :]
        predicted = [says] * len(prompt.answer) if says is not None else logits.argmax(-1).tolist()
        return 100 * float(np.mean([a == b for a, b in zip(prompt.answer, predicted, strict=True)]))

    row = report.table.iloc[0]
    for name, question in asked.items():
        assert (row[name], row[f"base_{name}"]) == (pytest.approx(share(question, token)), pytest.approx(share(question))), name
    assert row["old_fact_before"] == share(fact) == 100 > row["old_fact"] and row["new_fact"] >= 50
    assert len(asked) + 1 == 7 and run_key(factlm, [case], ROME, None, report.settings, [measure])["measures"]
    other_relation = replace(case, fact=replace(fact, relation="P19"))
    assert np.isnan(list(measure.scores(measure.read(factlm, case), measure.read(factlm, other_relation)).values())[1:]).all()


def test_symmetry_and_agreement_without_data():
    with pytest.raises(DataError, match="no fact has a relation of P36, P1376"):
        tlk.evaluation.symmetry_accuracies([tlk.Fact("a", "{} is", " b", "P19")])
    with pytest.raises(DataError, match="pass facts of one relation"):
        tlk.datasets.shifted_edit_cases([tlk.Fact("a", "{} is", " b", "P19"), tlk.Fact("c", "{} is", " d", "P20")])


def test_agreement_edits_are_measured_on_other_subjects(factlm):
    names = ["The dogs", "The cars", "Most women", "All students", "Some books"]
    pair = tlk.datasets.MinimalPair
    pairs = [pair(f"{name} are old.", f"{name} is old.", "agreement", prefix=name, word_good="are", word_bad="is") for name in names]
    pairs += [pair(f"{name} is old.", f"{name} are old.", "agreement", prefix=name, word_good="is", word_bad="are") for name in ("The dog", "A car")]
    pairs += [pair("This dog runs.", "These dog runs.", "two", prefix="This", word_good="dog", word_bad="dog", prefix_bad="These")]
    cases = tlk.datasets.agreement_edit_cases(pairs, neighbours=3)
    assert len(cases) == 7 and cases[0].rewrite == tlk.Fact("The dogs", "{}", " is", "agreement")
    assert len(cases[0].neighbourhood) == 3 and {fact.text for fact in cases[0].neighbourhood} < set(names[1:])
    assert {fact.target for fact in cases[0].neighbourhood} == {" are"} and {s.text for s in cases[0].attributes} == {"The dog", "A car"}
    assert tlk.datasets.agreement_edit_cases(pairs, neighbours=3, limit=2) == cases[:2]
    says = tlk.Prompt.from_text(factlm, "a", target=" is").target_token
    report = tlk.evaluate(factlm, cases[:2], Says(factlm, says), progress=False)
    assert report.scores["ES"].mean == 100 and report.scores["NS"].mean == 0  # it spills over to every subject
    before = report.table["base_NS"]
    for case, value in zip(cases[:2], before, strict=True):
        right = []
        for fact in case.neighbourhood:
            prompt = tlk.Prompt.from_fact(factlm, fact)
            with torch.no_grad():
                logits = factlm(prompt.tokens)[0, -1]
            right.append(float(logits[prompt.target_token] > logits[says]))
        assert value == pytest.approx(100 * np.mean(right))
    with pytest.raises(DataError, match="none of 1 pair has one prefix and two words"):
        tlk.datasets.agreement_edit_cases(pairs[-1:])
    with pytest.raises(InputError, match="neighbours=0"):
        tlk.datasets.agreement_edit_cases(pairs, neighbours=0)


def test_generated_texts_are_seeded_and_scored(factlm, capitals):
    case = tlk.EditCase(capitals[0].fact, capitals[0].target_new, (), (), generation=("France is", "Italy is", "The capital of France is"))
    first = generate(factlm, case.generation, length=16, top_k=5, seed=1)
    state = torch.random.get_rng_state()
    assert generate(factlm, case.generation, length=16, top_k=5, seed=1) == first
    assert torch.equal(torch.random.get_rng_state(), state)
    assert generate(factlm, case.generation, length=16, top_k=5, seed=2) != first
    assert [text.startswith(beginning) for text, beginning in zip(first, case.generation, strict=True)] == [True] * 3
    measure = tlk.evaluation.GenerationScores({case.target_new: first}, length=16, seed=1)
    read = measure.read(factlm, case)
    same = measure.scores(read, read)
    assert same["RS"] == pytest.approx(100) and same["GE"] == pytest.approx(100 * np.mean([ngram_entropy(text) for text in first]))
    unlike = measure.scores(read, replace(read, texts=("something entirely different",)))
    assert unlike["RS"] < 30 and ngram_entropy("the the the the") < 0.1 < ngram_entropy("all of these words differ")
    assert all(np.isnan(value) for value in measure.scores(read, replace(read, texts=())).values())


def test_the_unedited_model_is_read_once_for_all_methods(factlm, moments, capitals, monkeypatch):
    import sys

    module = sys.modules["tl_knowledge.evaluation.run"]
    calls, whole = [], module.read_candidates
    monkeypatch.setattr(module, "read_candidates", lambda model, case: calls.append(case) or whole(model, case))
    monkeypatch.setattr(module, "_base", type(module._base)())
    first = tlk.evaluate(factlm, capitals[:2], ROME, moments=moments, progress=False)
    assert len(calls) == 4
    second = tlk.evaluate(factlm, capitals[:2], tlk.FineTune(layer=FACTLM_LAYER, steps=2), progress=False)
    assert len(calls) == 6  # only the edited model
    assert first.base == second.base
    with tlk.plan_edit(factlm, capitals[3].rewrite, ROME, moments=moments).applied(factlm):  # another base: nothing is taken from before
        tlk.evaluate(factlm, capitals[:2], tlk.FineTune(layer=FACTLM_LAYER, steps=2), progress=False)
    assert len(calls) == 10


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_and_ends_the_same(factlm, moments, tmp_path, monkeypatch):
    import sys

    module = sys.modules["tl_knowledge.evaluation.driver"]
    monkeypatch.setattr(module, "CASES_PER_PART", 2)
    cases = tlk.load_edit_cases()[:5]
    whole = tlk.evaluate(factlm, cases, ROME, moments=moments, progress=False)
    planned: list = []
    plan = tlk.ROME.plan

    def killed(self, model, facts, moments):
        planned.append(facts[0])
        if len(planned) == 4:
            raise KeyboardInterrupt
        return plan(self, model, facts, moments)

    before = output_weights(factlm, FACTLM_LAYER).clone()
    monkeypatch.setattr(tlk.ROME, "plan", killed)
    with pytest.raises(KeyboardInterrupt):
        tlk.evaluate(factlm, cases, ROME, moments=moments, store=tmp_path / "run", progress=False)
    assert torch.equal(output_weights(factlm, FACTLM_LAYER), before)
    again = tlk.evaluate(factlm, cases, ROME, moments=moments, store=tmp_path / "run", progress=False)
    assert len(planned) == 4 + 3  # one part of two was finished
    pd.testing.assert_frame_equal(again.table, whole.table)
    with pytest.raises(DataError, match="holds a run with other layer"):
        tlk.evaluate(factlm, cases, tlk.ROME(layer=FACTLM_LAYER + 1), moments=moments, store=tmp_path / "run", progress=False)
    with pytest.raises(DataError, match=r"holds a run with other .*cases"):
        tlk.evaluate(factlm, cases[1:], ROME, moments=moments, store=tmp_path / "run", progress=False)


def test_a_stored_run_is_known_by_what_decides_its_numbers(factlm, moments):
    cases, fine_tune = tlk.load_edit_cases()[:2], tlk.FineTune(layer=FACTLM_LAYER)
    settings = tlk.evaluation.EvaluationSettings

    def key(method=ROME, moments=moments, protocol="single", batch_size=1, measures=()):
        return run_key(factlm, cases, method, moments, settings(type(method).__name__, {}, protocol, batch_size), measures)

    def generation(**more):
        return key(measures=[tlk.evaluation.GenerationScores(**more)])

    def symmetric(template):
        return key(measures=[tlk.evaluation.symmetry({cases[0].fact.relation: template})])

    other, few = replace(ROME, value=replace(ROME.value, steps=9)), replace(moments, tokens=9)
    assert key() == key() and key(other)["settings"]["value"]["steps"] == 9
    assert key(fine_tune, moments) == key(fine_tune, None) == key(fine_tune, few)  # which reads none
    assert key(protocol="batch", batch_size=2) == key(protocol="batch", batch_size=5)
    assert generation() == generation() and symmetric("{} has") == symmetric("{} has")
    swap = {text: tlk.PromptSwap(tlk.Prompt.from_text(factlm, text)) for text in ("France is", "Italy is")}
    forced = [key(replace(ROME, objective=tlk.editing.Objective(noise=noise))) for noise in swap.values()]
    pairs = [(key(), key(other)), (key(), key(moments=few)), (key(batch_size=2), key()), (key(protocol="batch"), key(protocol="sequential"))]
    pairs += [(generation(), generation(seed=1)), (symmetric("{} has"), symmetric("{} owns")), (forced[0], forced[1])]
    for first, second in pairs:
        assert first != second
    unedited, edit = key(fine_tune), tlk.plan_edit(factlm, cases[0].rewrite, tlk.FineTune(layer=FACTLM_LAYER, steps=2))
    with edit.applied(factlm):
        assert key(fine_tune) != unedited
    assert key(fine_tune) == unedited


def test_a_plan_shows_its_progress_only_where_it_is_wanted(factlm, moments, monkeypatch, capsys):
    monkeypatch.setattr("tl_knowledge.engine.progress.DELAY", 0.0)
    fact = tlk.load_edit_cases()[0].rewrite
    tlk.plan_edit(factlm, fact, ROME, moments=moments, progress=False)
    assert "optimise values" not in capsys.readouterr().err
    tlk.plan_edit(factlm, fact, ROME, moments=moments)
    assert "optimise values" in capsys.readouterr().err


def test_batches_and_growth(factlm, moments, tmp_path):
    cases = tlk.load_edit_cases()[:6]
    before = fingerprint(factlm)
    method = tlk.MEMIT(layers=(FACTLM_LAYER,), moment_weight=100.0, contexts=((4, 2),), value=tlk.editing.ValueSettings(steps=8, clamp=0.75))
    sizes: list[int] = []

    class Counts:
        def plan(self, model, facts, moments):
            sizes.append(len(facts))
            return method.plan(model, facts, moments)

    tlk.evaluate(factlm, cases, Counts(), moments=moments, protocol="sequential", batch_size=4, progress=False)
    tlk.evaluate(factlm, cases, Counts(), moments=moments, batch_size=3, progress=False)
    tlk.evaluate(factlm, cases, Counts(), moments=moments, protocol="batch", progress=False)
    assert sizes == [4, 2, 3, 3, 6]
    growth = tlk.evaluation.measure_growth(factlm, cases, {"MEMIT": method}, [2, 6], moments=moments, protocol="batch", progress=False)
    frame = growth.to_dataframe()
    assert list(frame["edits"].unique()) == [2, 6] and frame[frame["score"] == "ES"]["mean"].between(0, 100).all()
    pd.testing.assert_frame_equal(tlk.evaluation.EditGrowth.load(growth.save(tmp_path / "growth")).table, growth.table)
    assert growth.settings["MEMIT"].batch_size == 2 and len(growth.top(2)) == 2 and list(growth.summary()["edits"]) == [2, 6]
    assert {line.name for line in growth.plot().data if line.name} == {"MEMIT"}
    assert fingerprint(factlm) == before
    with pytest.raises(InputError, match="do not fit 6 cases"):
        tlk.evaluation.measure_growth(factlm, cases, {"MEMIT": method}, [7])


@pytest.mark.parametrize("batch_size", [1, 4])
def test_sizes_that_go_on_from_each_other_are_what_each_is_alone(factlm, moments, batch_size):
    """One pass of sequential edits, measured on the way, against a run of its own for every size; sizes end within batches, too."""
    cases, before, planned = tlk.load_edit_cases()[:10], fingerprint(factlm), []
    method = tlk.MEMIT(layers=(FACTLM_LAYER,), moment_weight=50.0, contexts=((4, 2),), value=tlk.editing.ValueSettings(steps=6, clamp=0.75))

    class Counts:
        def plan(self, model, facts, moments):
            planned.append(len(facts))
            return method.plan(model, facts, moments)

    sizes, more = [1, 5, 8, 10], {"protocol": "sequential", "batch_size": batch_size, "moments": moments, "progress": False}
    growth = tlk.evaluation.measure_growth(factlm, cases, {"MEMIT": Counts()}, sizes, **more)
    assert planned == {1: [1] * 10, 4: [1, 4, 1, 4, 2]}[batch_size]
    for size in sizes:
        alone = tlk.evaluate(factlm, cases[:size], method, **more)
        for row in growth.table[growth.table["edits"] == size].to_dict("records"):
            np.testing.assert_array_equal([row[name] for name in ("mean", "low", "high")], list(alone.scores[row["score"]].numbers.values()))
    assert fingerprint(factlm) == before


def test_a_killed_growth_goes_on_and_ends_the_same(factlm, moments, tmp_path, monkeypatch):
    cases = [replace(case, generation=(f"{case.fact.subject} is",)) for case in tlk.load_edit_cases()[:4]]
    methods = {"FT": tlk.FineTune(layer=FACTLM_LAYER, steps=3), "FT+L": tlk.FineTune(layer=FACTLM_LAYER, steps=3, most_change=1e-3)}
    more = {"measures": tlk.evaluation.GenerationScores({cases[0].target_new: ["A text."]}, length=12), "progress": False}
    whole = tlk.evaluation.measure_growth(factlm, cases, methods, [1, 3], **more)
    before, planned, plan = fingerprint(factlm), [], tlk.FineTune.plan

    def killed(self, model, facts, moments):
        planned.append(facts[0])
        if len(planned) == 5:
            raise KeyboardInterrupt
        return plan(self, model, facts, moments)

    monkeypatch.setattr(tlk.FineTune, "plan", killed)
    with pytest.raises(KeyboardInterrupt):
        tlk.evaluation.measure_growth(factlm, cases, methods, [1, 3], store=tmp_path / "run", **more)
    assert fingerprint(factlm) == before
    for _ in range(2):  # goes on; then has nothing left to do
        again = tlk.evaluation.measure_growth(factlm, cases, methods, [1, 3], store=tmp_path / "run", **more)
        pd.testing.assert_frame_equal(again.table, whole.table)
    assert len(planned) == 5 + 3  # the first method and one size of the second were finished; its edits are planned again
    with pytest.raises(DataError, match="holds a run with other sizes"):
        tlk.evaluation.measure_growth(factlm, cases, methods, [1, 2], store=tmp_path / "run", **more)
    with pytest.raises(DataError, match=r"other method 'FT\+L'"):
        other = methods | {"FT+L": tlk.FineTune(layer=FACTLM_LAYER, steps=4)}
        tlk.evaluation.measure_growth(factlm, cases, other, [1, 3], store=tmp_path / "run", **more)
    assert list(whole.summary().columns) == ["method", "edits", "S", "ES", "PS", "NS", "GE", "RS"]
    figure = whole.plot()
    titles = [annotation.text for annotation in figure.layout.annotations]
    assert [title.split("(")[1] for title in titles] == ["S)", "ES)", "PS)", "NS)", "RS)", "GE)"]
    assert {axis.type for axis in (figure.layout.xaxis, figure.layout.xaxis6)} == {"log"}
    assert figure.layout.yaxis6.title.text == "hundredths of a bit" and figure.layout.yaxis6.matches is None != figure.layout.yaxis5.matches
    drawn = next(line for line in figure.data if line.mode == "lines+markers" and line.xaxis == "x6" and line.name == "FT")
    assert list(drawn.y) == whole.table.query("method == 'FT' and score == 'GE'")["mean"].tolist()


def test_methods_stand_in_one_table(factlm, moments, tmp_path):
    cases = tlk.load_edit_cases()[:4]
    reports = [tlk.evaluate(factlm, cases, m, moments=moments, progress=False) for m in (ROME, tlk.FineTune(layer=FACTLM_LAYER, steps=3))]
    table = tlk.score_table(*reports, names=("ROME", "FT_1"))
    frame, text = table.to_dataframe(), table.summary()
    assert list(frame["model"]) == ["unedited", "ROME", "FT_1"] and list(frame.columns)[:5] == ["model", "S", "S_low", "S_high", "ES"]
    assert list(text.columns)[:3] == ["model", "S", "ES"] and text["ES"][1] == str(reports[0].scores["ES"])
    assert table.top(1)["model"][0] == max(frame.to_dict("records"), key=lambda row: row["S"])["model"]
    again = tlk.evaluation.ScoreTable.load(table.save(tmp_path / "scores"))
    pd.testing.assert_frame_equal(again.to_dataframe(), frame)
    assert "FT\\_1" in table.to_latex() and "\\begin{tabular}{l" in table.to_latex() and "4 cases" in table.to_latex()
    assert table.to_markdown("ES", "locality").splitlines()[0].replace(" ", "") == "|model|ES|locality|"
    assert [bar.name for bar in table.plot().data] == ["unedited", "ROME", "FT_1"]
    by = reports[0].by("relation", metric="ES")
    assert by["cases"].sum() == 4 and by["mean"].between(0, 100).all()
    assert len(reports[0].plot_by("relation", metric="PS").data[0].y) == len(by)
    with pytest.raises(InputError, match="different cases"):
        tlk.score_table(reports[0], tlk.evaluate(factlm, cases[:2], ROME, moments=moments, progress=False), names=("a", "b"))
    with pytest.raises(InputError, match="go by the names"):
        tlk.score_table(*reports, names=("a",))
    with pytest.raises(InputError, match="no score 'XS'"):
        table.to_markdown("XS")
    with pytest.raises(InputError, match="no column 'country'"):
        reports[0].by("country")
