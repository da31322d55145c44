"""What should follow from an edit, built of any fact set's own facts."""

from __future__ import annotations

import pytest

import tl_knowledge as tlk
from tl_knowledge.datasets import EditTest, Fact, Query, Relation
from tl_knowledge.errors import DataError, InputError, PromptError, TargetError
from tl_knowledge.evaluation import INVERSE_TEMPLATES
from tl_knowledge.evaluation.run_key import run_key
from tl_knowledge.prompts.facts import case_values

RELATIONS = [
    Relation("born", "born", ("{} was born in", "The birthplace of {} is")),
    Relation("capital", "capital", ("The capital of {} is", "{} is ruled from")),
    Relation("rules", "rules", ("{} is the capital of",)),
    Relation("speaks", "speaks", ("{} speaks",)),
]
FACTS = [
    Fact("Ann", "{} was born in", " Peru", "born", ("Born: {},",)),
    Fact("Ann", "{} speaks", " Aymara", "speaks"),
    Fact("Bo", "{} was born in", " Chile", "born"),
    Fact("Cy", "{} was born in", " Peru", "born"),
    Fact("Dee", "{} was born in", " Mars", "born"),
    Fact("Peru", "The capital of {} is", " Lima", "capital"),
    Fact("Peru", "{} speaks", " Spanish", "speaks"),
    Fact("Chile", "The capital of {} is", " Santiago", "capital"),
    Fact("Chile", "{} speaks", " Spanish", "speaks"),
    Fact("Lima", "{} is the capital of", " Peru", "rules"),
]
REVERSE = {"capital": "{} is the capital of"}


def ripples(fact, new, **more):
    (case,) = tlk.datasets.with_ripples(tlk.EditCase(fact, new, (), ()), facts=FACTS, relations=RELATIONS, reverse=REVERSE, **more)
    return [(test.axis.removeprefix("ripple_"), [q.text for q in test.queries], test.queries[0].answers[0], test.conditions) for test in case.tests]


def test_ripples_of_a_birthplace():
    """What follows from Ann's birth in Chile: its capital; not its language, which Peru shares."""
    ann_speaks, chile = Query("Ann speaks", ((" Aymara",),)), Query("The capital of Chile is", ((" Santiago",),))
    assert ripples(FACTS[0], " Chile", names={"Ann": ["Annie"]}) == [
        ("compositionality_1", ["The capital of the birthplace of Ann is", "The birthplace of Ann is ruled from"], (" Santiago",), (chile,)),
        ("subject_aliasing", ["Annie was born in"], (" Chile",), ()),
        ("relation_specificity", ["Ann speaks"], (" Aymara",), (ann_speaks,)),
    ]


def test_ripples_of_a_capital():
    """Those who were born in Peru have another capital then; "the capital of Peru is the capital of" would lead back."""
    found = ripples(FACTS[5], " Santiago")
    assert found[0] == ("logical_generalization", ["Santiago is the capital of"], (" Peru",), ())
    wordings = [[f"The capital of the birthplace of {name} is", f"The birthplace of {name} is ruled from"] for name in ("Ann", "Cy")]
    conditions = [(Query(f"{name} was born in", ((" Peru",),)),) for name in ("Ann", "Cy")]
    assert found[1:3] == [("compositionality_2", texts, (" Santiago",), before) for texts, before in zip(wordings, conditions, strict=True)]
    assert [axis for axis, *_ in found[3:]] == ["relation_specificity"]


def test_chains_need_two_objects_that_differ_in_a_second_relation():
    cases = tlk.datasets.chained_edit_cases(FACTS, relations=RELATIONS, reverse=REVERSE)
    edited = {(case.fact.subject, case.fact.target, case.target_new) for case in cases}
    assert edited == {("Ann", " Peru", " Chile"), ("Bo", " Chile", " Peru"), ("Cy", " Peru", " Chile")}  # nothing is known of Mars
    single, new, old = next(case for case in cases if case.fact.subject == "Ann").tests
    assert [query.text for query in single.queries] == ["Ann was born in", "The capital of Chile is"] and single.every
    assert [query.text for query in new.queries] == ["The capital of the birthplace of Ann is", "The birthplace of Ann is ruled from"]
    assert new.queries[0].answers == ((" Santiago",),) and old.queries[0].answers == ((" Lima",),)
    with pytest.raises(DataError, match="pass facts that are linked"):
        tlk.datasets.chained_edit_cases(FACTS[:2], relations=RELATIONS)
    with pytest.raises(InputError, match="neighbours=0"):
        tlk.datasets.chained_edit_cases(FACTS, relations=RELATIONS, neighbours=0)


def test_factlm_has_chains_of_its_own():
    facts, relations = tlk.load_facts(), tlk.datasets.load_relations()
    known = {(fact.subject, fact.relation): fact.target for fact in facts}
    cases = tlk.datasets.chained_edit_cases(facts, relations=relations, reverse=INVERSE_TEMPLATES)
    assert cases == tlk.datasets.chained_edit_cases(facts, relations=relations, reverse=INVERSE_TEMPLATES) and len(cases) > 200
    for case in cases:
        hop = case.tests[0].queries[1]
        assert known[case.fact.subject, case.fact.relation] == case.fact.target != case.target_new
        assert any(subject == case.target_new.strip() and target == hop.answers[0][0] for (subject, _), target in known.items())
        old, new = (test.queries[0].answers[0][0] for test in (case.tests[2], case.tests[1]))
        assert old != new and new.strip() not in (case.fact.subject, case.target_new.strip())
        assert all(near.subject != case.fact.subject and near.target != case.target_new for near in case.neighbourhood)
    with_all = tlk.datasets.with_ripples(cases[:40], facts=facts, relations=relations, reverse=INVERSE_TEMPLATES)
    assert {test.axis for case in with_all for test in case.tests} >= {"ripple_compositionality_1", "ripple_relation_specificity", "multi_hop"}


def test_texts_about_a_subject_leave_out_what_is_edited():
    case = tlk.EditCase(FACTS[0], " Chile", (), (), also=(FACTS[5].retarget(" Santiago"),))
    assert tlk.datasets.subject_texts(case, facts=FACTS) == {"Ann": ("Ann speaks Aymara.",)}


def test_queries_and_tests_refuse_what_asks_nothing():
    with pytest.raises(PromptError, match="the query's text is ' '"):
        Query(" ", ((" a",),))
    for answers in ((), ((),), ((" ",),)):
        with pytest.raises(TargetError, match="pass at least one, each with a form"):
            Query("a", answers)
    with pytest.raises(InputError, match="a test of 'x' asks nothing"):
        EditTest("x", ())


def test_a_case_without_tests_is_stored_as_before(factlm):
    """Stores of runs that knew no tests are still theirs; a case's tests make another run."""
    case = tlk.load_edit_cases()[0]
    assert {"also", "tests"}.isdisjoint(case_values(case))
    fuller = tlk.EditCase(case.fact, case.target_new, case.paraphrases, case.neighbourhood, tests=(EditTest("x", (Query("a", ((" b",),)),)),))
    settings = tlk.evaluation.EvaluationSettings("FineTune")
    keys = [run_key(factlm, [each], tlk.FineTune(layer=0), None, settings, ())["cases"] for each in (case, fuller)]
    assert keys[0] != keys[1]
