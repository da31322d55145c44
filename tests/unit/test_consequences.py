"""Consequences of edits whose truth is known, because it was planted; and the whole way from cases to the figure, on FactLM."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from support import fingerprint, hooks_left
from support.places import FACTLM_LAYER

import tl_knowledge as tlk
from tl_knowledge.datasets import EditTest, Query
from tl_knowledge.errors import InputError, ModelStateError
from tl_knowledge.evaluation.run_key import run_key


class Knows:
    """An edit that gives chosen prompts chosen next tokens, and changes nothing else."""

    def __init__(self, model, answers):
        self.model = model
        self.rows = [(tlk.Prompt.from_text(model, text).tokens, tlk.Prompt.from_text(model, "a", target=answer).answer) for text, answer in answers]
        assert all(len(answer) == 1 for _, answer in self.rows)

    def plan(self, model, facts, moments):
        return self

    @contextmanager
    def applied(self, model):
        seen = {}

        def see(activation, *, hook):
            seen["rows"] = activation.detach()

        def say(logits, *, hook):
            changed = logits.clone()
            for tokens, answer in self.rows:
                for row, embedded in enumerate(seen["rows"]):
                    more = len(embedded) - tokens.shape[1]  # of an answer's tokens, which follow the prompt
                    if 0 <= more < logits.shape[1] and torch.equal(embedded[: tokens.shape[1]], model.W_E[tokens[0]]):
                        changed[row, -1 - more, answer[0]] += 1000
            return changed

        with model.hooks(fwd_hooks=[("hook_embed", see), ("unembed.hook_out", say)]):
            yield

    def write_into(self, model):
        raise AssertionError

    def revert(self, model):
        raise AssertionError


@pytest.fixture(scope="module")
def chained():
    """Cases with tests of every kind that FactLM has."""
    facts, relations, reverse = tlk.load_facts(), tlk.datasets.load_relations(), tlk.evaluation.INVERSE_TEMPLATES
    cases = tlk.datasets.chained_edit_cases(facts, relations=relations, reverse=reverse, limit=6)
    return tlk.datasets.with_ripples(cases, facts=facts, relations=relations, reverse=reverse)


def measures():
    return [tlk.evaluation.subject_facts(tlk.load_facts()), tlk.evaluation.ripple_scores(), tlk.evaluation.multi_hop_scores()]


def of_axis(case, axis):
    return [test for test in case.tests if test.axis == axis]


def test_a_ripple_that_is_planted_follows(factlm, chained):
    """The edit alone moves the fact; with one wording of each composed question it moves what follows as well; and what it does not touch stays."""
    case = chained[0]
    multi_hop, onward = of_axis(case, "multi_hop")[0], of_axis(case, "ripple_compositionality_1")
    alone = [(case.fact.text, case.target_new)]
    composed = [(test.queries[1].text, test.queries[1].answers[0][0]) for test in (multi_hop, *onward)]
    before = fingerprint(factlm)
    scores = {}
    for name, answers in (("alone", alone), ("composed", alone + composed)):
        table = tlk.evaluate(factlm, case, Knows(factlm, answers), measures=measures(), progress=False).table
        scores[name] = table.iloc[0]
    for name, follows in (("alone", 0), ("composed", 100)):
        row = scores[name]
        assert (row["reliability"], row["single_hop"]) == (100, 100)  # the second fact of the chain is one that the model knows
        assert (row["multi_hop"], row["ripple_compositionality_1"]) == (follows, follows)
        assert (row["subject_kept"], row["ripple_relation_specificity"]) == (100, 100)
        stays = len(of_axis(case, "ripple_relation_specificity"))
        assert row["ripple"] == pytest.approx(100 * (stays + len(onward) * follows / 100) / (stays + len(onward)))
        assert np.isnan(row["ripple_forgetfulness"]) and np.isnan(row["ripple_subject_aliasing"])
        assert (row["base_single_hop"], row["base_subject_kept"]) == (0, 100)
    assert fingerprint(factlm) == before and hooks_left(factlm) == []


FOLLOWS, STAYS = ("logical_generalization", "compositionality_1", "compositionality_2", "subject_aliasing"), ("forgetfulness", "relation_specificity")


@pytest.mark.parametrize("axis", [*FOLLOWS, *STAYS])
def test_every_axis_of_ripple_edits_has_a_planted_truth(factlm, axis):
    """What should follow is missed by the edit alone and found where it is planted; what should stay is found until it is planted away.

    A test whose condition the unedited model does not meet is asked of neither.
    """
    case, said, unsaid = tlk.load_edit_cases()[0], Query("The capital of Italy is", ((" Rome",),)), Query("The capital of Italy is", ((" Oslo",),))
    asked = Query("The capital of France is", (((" Oslo", " Berlin"),) if axis in FOLLOWS else ((" Paris",),)))
    name = f"ripple_{axis}"
    tests = (EditTest(name, (asked,), (said,)), EditTest(name, (unsaid,), (unsaid,)))
    planted = [(case.fact.text, case.target_new), (asked.text, " Berlin")]
    for answers, passed in ((planted[:1], axis in STAYS), (planted, axis in FOLLOWS)):
        row = tlk.evaluate(factlm, replace(case, tests=tests), Knows(factlm, answers), measures=measures()[1], progress=False).table.iloc[0]
        assert (row["reliability"], row[name], row["ripple"]) == (100, 100 * passed, 100 * passed)
        assert row[f"base_{name}"] == 100 * (axis in STAYS)
        assert all(np.isnan(row[f"ripple_{other}"]) for other in (*FOLLOWS, *STAYS) if other != axis)


def test_multi_hop_asks_for_any_wording_and_single_hop_for_every_fact(factlm):
    """MQuAKE: one of three questions is enough; of the chain's facts all are needed."""
    texts = ("The capital of Spain is", "The capital of Poland is", "The capital of Norway is")
    hops = tuple(Query(text, ((" Berlin",),)) for text in texts[:2])
    tests = (EditTest("single_hop", hops, every=True), EditTest("multi_hop", tuple(Query(text, ((" Berlin", " Vienna"),)) for text in texts)))
    case = replace(tlk.load_edit_cases()[0], tests=tests)
    for said, single, multi in (((), 0, 0), (texts[:1], 0, 100), (texts[2:], 0, 100), (texts[:2], 100, 100)):
        edit = Knows(factlm, [(case.fact.text, case.target_new), *((text, " Berlin") for text in said)])
        row = tlk.evaluate(factlm, case, edit, measures=measures()[2], progress=False).table.iloc[0]
        assert (row["single_hop"], row["multi_hop"]) == (single, multi) and np.isnan(row["multi_hop_old"])


def test_consequences_of_one_edit_are_those_of_its_evaluation(factlm, chained):
    """Question by question, they add up to the scores of `evaluate`; the model is left as it was, also after an error."""
    case = chained[0]
    others = tlk.evaluation.ExtractionAttacks()
    every = [*measures(), others]
    method = Knows(
        factlm, [(case.fact.text, case.target_new), *((query.text, query.answers[0][0]) for query in of_axis(case, "multi_hop")[0].queries[1:2])]
    )
    before = fingerprint(factlm)
    moved = tlk.evaluation.measure_consequences(factlm, case, method, measures=every)
    row = tlk.evaluate(factlm, case, method, measures=every, progress=False).table.iloc[0]
    summary = moved.summary().set_index("moved")
    asked = summary[summary["questions"] > 0]
    assert {"reliability", "generality", "NA", "subject_kept", "multi_hop", "ripple_compositionality_1"} <= set(asked.index)
    for name in asked.index:
        assert asked.loc[name, "edited"] == pytest.approx(row[name]) and asked.loc[name, "unedited"] == pytest.approx(row[f"base_{name}"]), name
        low, high = asked.loc[name, ["low", "high"]]
        assert 0 <= low <= asked.loc[name, "edited"] <= high <= 100 and high - low > 10  # few questions say little
    for name in ("extracted", "old_rank"):
        assert tuple(moved.scores[name]) == (row[f"base_{name}"], row[name])
    table = moved.table
    planted = table[table["axis"] == "multi_hop"].iloc[0]
    assert planted["question"] == of_axis(case, "multi_hop")[0].queries[1].text and planted["moved"] == 1  # the wording that is answered
    assert planted["after"].startswith(planted["answer"]) and not planted["before"].startswith(planted["answer"])
    assert len(moved.questions()) == table["counts"].sum() and len(table.drop_duplicates(["axis", "question", "answer"])) == len(table)
    assert f"{len(moved.questions())} questions" in moved.headline() and "n questions of one edit" in moved.plot().layout.meta["subtitle"]
    assert fingerprint(factlm) == before and hooks_left(factlm) == []


def test_consequences_are_of_an_edit_that_is_not_in_the_model(factlm):
    case = tlk.load_edit_cases()[0]
    edit = tlk.plan_edit(factlm, case.rewrite, tlk.FineTune(layer=FACTLM_LAYER, steps=2), progress=False)
    with pytest.raises(InputError, match="EditCosts counts what planning"):
        tlk.evaluation.measure_consequences(factlm, case, edit, measures=tlk.evaluation.EditCosts())
    before = fingerprint(factlm)
    with edit.applied(factlm), pytest.raises(ModelStateError, match="written into this model"):
        tlk.evaluation.measure_consequences(factlm, case, edit)

    class Interrupted(tlk.evaluation.GeneralAbility):
        """Stops when the edit is in the model."""

        def read(self, model, case):
            if fingerprint(model) != before:
                raise KeyboardInterrupt
            return super().read(model, case)

    with pytest.raises(KeyboardInterrupt):
        tlk.evaluation.measure_consequences(factlm, case, edit, measures=Interrupted(corpus=("a",)))
    assert fingerprint(factlm) == before and hooks_left(factlm) == []


def test_consequences_are_of_the_cases_own_edit(factlm):
    """Another subject or another object is refused; an edit of several facts is not, nor one that does not know its facts."""
    case, other = tlk.load_edit_cases()[:2]
    rewrites = [case.rewrite, other.rewrite]
    one = tlk.plan_edit(factlm, other.rewrite, tlk.editing.IKE(k=0), progress=False)
    both = tlk.plan_edit(factlm, rewrites, tlk.FineTune(layer=FACTLM_LAYER, steps=1), progress=False)
    with pytest.raises(InputError, match=f"the case edits {case.fact.subject!r} to {case.target_new!r}, but this edit is of {other.fact.subject!r}"):
        tlk.evaluation.measure_consequences(factlm, case, one)
    with pytest.raises(InputError, match=f"but this edit is of {other.fact.subject!r} to {other.target_new!r}"):
        tlk.evaluation.measure_consequences(factlm, replace(other, target_new=case.target_new), one)
    noted = replace(both, notes=tuple({"subject": fact.subject, "target": fact.target} for fact in rewrites))
    for edit in (both, noted):
        assert tlk.evaluation.measure_consequences(factlm, case, edit).fact == case.fact.text


def test_what_was_not_measured_of_a_method_is_a_dash(factlm):
    """Not a KeyError, and not a number."""
    case = tlk.load_edit_cases()[0]
    methods = [tlk.FineTune(layer=layer, steps=1) for layer in (FACTLM_LAYER, FACTLM_LAYER + 1)]
    plain, fuller = (tlk.evaluate(factlm, case, m, measures=e, progress=False) for m, e in zip(methods, ((), measures()[0]), strict=True))
    for reports in ((plain, fuller), (fuller, plain)):
        table = tlk.score_table(*reports, names=("a", "b"))
        shown = table.summary("subject_kept").set_index("model")["subject_kept"]
        without = "a" if reports[0] is plain else "b"
        assert shown[without] == "-" and shown["unedited"] == "100.0" and table.rows[without]["subject_kept"].cases == 0
    with pytest.raises(InputError, match="none of these scores has a value for every method"):
        table.plot_moved("subject_kept")


def test_what_is_forgotten_is_counted(factlm, chained):
    """One of the subject's other facts is given another object."""
    facts = tlk.load_facts()
    case = next(each for each in tlk.load_edit_cases() if len(tlk.evaluation.subject_facts(facts).of_case(each)) == 3)
    lost = tlk.evaluation.subject_facts(facts).of_case(case)[1].queries[0]
    edit = Knows(factlm, [(case.fact.text, case.target_new), (lost.text, " jazz")])
    row = tlk.evaluate(factlm, case, edit, measures=measures()[0], progress=False).table.iloc[0]
    assert row["subject_kept"] == pytest.approx(200 / 3) and row["base_subject_kept"] == 100


def test_conditions_are_of_the_unedited_model(factlm):
    """What the model never knew is not asked; all queries of an ``every`` have to be answered, of another one of them."""
    known, unknown = (Query("The capital of France is", ((answer,),)) for answer in (" Paris", " Oslo"))
    tests = (
        EditTest("any", (known, unknown)),
        EditTest("every", (known, unknown), every=True),
        EditTest("conditional", (known,), (unknown,)),
        EditTest("mixed", (known,), (known,)),
        EditTest("mixed", (unknown,), (known,)),
        EditTest("mixed", (known,), (unknown,)),
    )
    case = replace(tlk.load_edit_cases()[0], tests=tests)
    measure = tlk.evaluation.EditTestScores(("any", "every", "conditional", "mixed"), overall="all")
    before = measure.read(factlm, case)
    assert measure.scores(before, before)["all"] == 50  # any and one of mixed, of four that count
    with Knows(factlm, [("The capital of France is", " Oslo")]).applied(factlm):
        after = measure.read(factlm, case)
    scores = measure.scores(before, after)
    assert (scores["any"], scores["every"], scores["mixed"]) == (100, 0, 50) and np.isnan(scores["conditional"])


def test_the_old_object_is_found_below_the_layer_that_hides_it(factlm):
    """A planted erasure in block 5: the blocks below it say the old object as before, those above the new one."""
    measure = tlk.evaluation.ExtractionAttacks()
    for case in tlk.load_edit_cases():
        before = measure.read(factlm, case)
        if before.ranks[4] < 4 and before.tells:
            break
    old, new = (tlk.Prompt.from_fact(factlm, fact).target_token for fact in (case.fact, case.rewrite))
    push = 50 * (factlm.W_U[:, new] - factlm.W_U[:, old])
    with factlm.hooks(fwd_hooks=[("blocks.5.hook_resid_post", lambda x, *, hook: x + push)]):
        after = measure.read(factlm, case)
    scores = measure.scores(before, after)
    assert after.ranks[:5].tolist() == before.ranks[:5].tolist() and min(after.ranks[5:].tolist()) > 100
    assert (scores["lens_4"], scores["lens_5"], scores["lens_7"]) == (100, 0, 0)
    assert (scores["extracted_lens"], scores["extracted_paraphrase"], scores["extracted"]) == (100, 0, 100)
    assert scores["extracted_delta"] == 100  # from block 4 to 5 it falls most of all
    assert scores["old_rank"] == after.answered[0] > 100
    same = replace(case, target_new=case.fact.target)
    nothing = measure.read(factlm, same)
    assert all(np.isnan(value) for value in measure.scores(nothing, nothing).values())


def test_a_case_of_several_edits_is_planned_together(factlm, chained):
    """The second fact is written as well, and a method for one fact refuses."""
    other = tlk.load_edit_cases()[3].rewrite
    hops = EditTest("single_hop", tuple(Query(fact.text, ((fact.target,),)) for fact in (chained[0].rewrite, other)), every=True)
    case = replace(chained[0], also=(other,), tests=(hops,))
    method = tlk.FineTune(layer=FACTLM_LAYER)
    report = tlk.evaluate(factlm, case, method, measures=tlk.evaluation.multi_hop_scores(), progress=False)
    assert report.table["single_hop"][0] == 100 and report.table["base_single_hop"][0] == 0
    first = replace(case, also=())
    assert tlk.evaluate(factlm, first, method, measures=tlk.evaluation.multi_hop_scores(), progress=False).table["single_hop"][0] == 0
    with pytest.raises(InputError, match="one fact at a time"):
        tlk.evaluate(factlm, case, tlk.ROME(layer=FACTLM_LAYER), progress=False)
    with pytest.raises(InputError, match="two targets"):
        tlk.evaluate(factlm, replace(case, also=(case.fact,)), method, progress=False)
    with pytest.raises(InputError, match="writes 2 facts at once"):
        tlk.localised.editing_problem(factlm, case, "error_injection")


class Counting(tlk.evaluation.GeneralAbility):
    """How often a model is read."""

    reads = 0

    def read(self, model, case):
        type(self).reads += 1
        return super().read(model, case)


def test_from_cases_to_the_figure(factlm, chained, tmp_path):
    ability = Counting(tlk.datasets.load_blimp(tlk.datasets.BLIMP_SAMPLE, limit=4), tlk.load_corpus(limit=2), ("The child",))
    every = [*measures(), ability, tlk.evaluation.ExtractionAttacks()]
    method = tlk.FineTune(layer=FACTLM_LAYER, steps=3)
    report = tlk.evaluate(factlm, chained[:3], method, measures=every, batch_size=3, progress=False)
    assert Counting.reads == 2  # once unedited, once with the one edit of three cases
    tlk.evaluate(factlm, chained[:3], method, measures=ability, protocol="sequential", progress=False)
    assert Counting.reads == 4
    table = tlk.score_table(report)
    columns = list(table.summary().columns)
    assert {"subject_kept", "ripple", "multi_hop", "blimp", "perplexity_rise", "next_token_KL", "extracted"} < set(columns)
    assert "portability" not in columns and "lens_0" not in columns and "lens_0" in table.rows["unedited"]
    assert table.rows["unedited"]["next_token_KL"].mean == 0 < table.rows["FineTune"]["next_token_KL"].mean
    loaded = tlk.EditReport.load(report.save(tmp_path / "report"))
    assert loaded.scores == report.scores or str(loaded.scores) == str(report.scores)
    figure = report.plot_moved()
    labels = list(figure.layout.yaxis.ticktext)
    assert labels[0] == "the edited fact is said" and "multi-hop: the old answer" in labels and "forgetfulness" not in labels
    line, after, before = figure.data
    row = labels.index("the subject&#39;s other facts are kept")
    assert after.x[row] == report.scores["subject_kept"].mean and before.x[row] == report.base["subject_kept"].mean == 100
    assert list(line.x[3 * row : 3 * row + 2]) == [before.x[row], after.x[row]]
    low, high, _ = after.customdata[row]
    assert (low, high) == (report.scores["subject_kept"].low, report.scores["subject_kept"].high)
    with pytest.raises(InputError, match="there is no score 'portability'"):
        report.plot_moved("portability")
    with pytest.raises(InputError, match="none of these scores has a value"):
        report.plot_moved("ripple_forgetfulness")


def test_what_is_asked_makes_the_run(factlm, chained):
    """Runs whose tests or ways of reading differ are told apart."""
    settings = tlk.evaluation.EvaluationSettings("FineTune")

    def key(measure):
        return str(run_key(factlm, chained, tlk.FineTune(layer=FACTLM_LAYER), None, settings, (measure,))["measures"])

    facts, e = tlk.load_facts(), tlk.evaluation
    asked = [e.subject_facts(facts), e.subject_facts(facts[400:]), e.ripple_scores(), e.ripple_scores(length=9), e.multi_hop_scores()]
    asked += [e.ExtractionAttacks(), e.ExtractionAttacks(k=2), e.GeneralAbility(corpus=("a",)), e.GeneralAbility(corpus=("b",))]
    assert len({key(measure) for measure in asked}) == len(asked)
    assert key(e.subject_facts(facts)) == key(e.subject_facts(list(facts)))
