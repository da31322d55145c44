"""Files of what should follow from an edit: RippleEdits, MQuAKE, and KnowEdit's portability."""

from __future__ import annotations

import copy
import json

import pytest

import tl_knowledge as tlk
from tl_knowledge.datasets import EditTest, Fact, Query
from tl_knowledge.errors import DataError, PromptError


def answer(value, *aliases):
    return {"value": value, "aliases": list(aliases)}


def query(prompt, *answers):
    return {
        "prompt": prompt,
        "answers": list(answers),
        "query_type": "regular",
        "subject_id": "Q1",
        "relation": "X",
        "target_ids": [],
        "phrase": None,
    }


def asks(*queries, condition="OR", conditions=()):
    return {"test_queries": list(queries), "test_condition": condition, "condition_queries": list(conditions)}


MOTHER = query("The name of the mother of Ann Of Green is", answer("Eve", "Evie", "E"))
RIPPLE = {
    "example_type": "popular",
    "edit": {
        "prompt": "The name of the country of citizenship of Ann Of Green is Peru.",
        "subject_id": "Q1",
        "relation": "COUNTRY_OF_CITIZENSHIP",
        "target_id": "Q2",
        "previous_fact": {
            "prompt": "The name of the country of citizenship of Ann Of Green is New Chile.",
            "subject_id": "Q1",
            "relation": "COUNTRY_OF_CITIZENSHIP",
            "target_id": "Q3",
        },
    },
    "Relation_Specificity": [asks(MOTHER, conditions=[MOTHER])],
    "Logical_Generalization": [
        asks(query("Ann can vote in", answer("Peru")), query("The siblings of Ann are", answer("Bo"), answer("Cy")), condition="AND")
    ],
    "Subject_Aliasing": [],
    "Compositionality_I": [],
    "Compositionality_II": [],
    "Forgetfulness": [],
}
MQUAKE = {
    "case_id": 12,
    "requested_rewrite": [
        {
            "prompt": "{} is a citizen of",
            "relation_id": "P27",
            "target_new": {"str": "Peru", "id": "Q2"},
            "target_true": {"str": "Chile", "id": "Q3"},
            "subject": "Ann",
            "question": "What is the country of citizenship of Ann?",
        },
        {"prompt": "The capital of {} is", "target_new": {"str": "Cusco"}, "target_true": {"str": "Lima"}, "subject": "Peru"},
    ],
    "questions": ["What is the capital of Ann's country?", "Which city rules Ann's country?", "Ann's capital is?"],
    "answer": "Santiago",
    "answer_alias": [],
    "new_answer": "Cusco",
    "new_answer_alias": ["Qosqo", "Cusco"],
    "new_single_hops": [
        {"question": "Whose citizen is Ann?", "cloze": "Ann is a citizen of", "answer": "Peru", "answer_alias": ["Republic of Peru"]},
        {"question": "What is Peru's capital?", "cloze": "The capital of Peru is", "answer": "Cusco", "answer_alias": []},
    ],
}
PORTABLE = {
    "subject": "Leo",
    "prompt": "Which family does Leo belong to?",
    "target_new": "Orion",
    "ground_truth": ["Felidae"],
    "rephrase_prompt": "What family are lions?",
    "portability": {
        "Reasoning": [{"prompt": "What is the common name of Leo's family?", "ground_truth": "hunters"}],
        "Subject_Aliasing": [{"prompt": "Which family does the lion belong to?", "ground_truth": ["Orion", "Orion"]}],
    },
}


def write(path, rows):
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def changed(record, *path, to):
    """A copy with one value replaced, or (``to=None``) taken out."""
    record = copy.deepcopy(record)
    inner = record
    for step in path[:-1]:
        inner = inner[step]
    if to is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = to
    return record


def test_ripple_edits_are_read_as_they_are_published(tmp_path):
    case = tlk.datasets.load_ripple_edits(write(tmp_path / "popular.json", [RIPPLE]))[0]
    assert case.fact == Fact("Ann Of Green", "The name of the country of citizenship of {} is", " New Chile", "COUNTRY_OF_CITIZENSHIP")
    assert (case.target_new, case.case_id, case.paraphrases, case.neighbourhood) == (" Peru", "0", (), ())
    mother = Query("The name of the mother of Ann Of Green is", ((" Eve", " Evie"),))  # "E" is one letter
    vote, siblings = Query("Ann can vote in", ((" Peru",),)), Query("The siblings of Ann are", ((" Bo",), (" Cy",)))
    assert case.tests == (
        EditTest("ripple_logical_generalization", (vote, siblings), every=True),
        EditTest("ripple_relation_specificity", (mother,), (mother,)),
    )


def test_the_description_of_ripple_edits_spells_one_axis_otherwise(tmp_path):
    row = {("Relation_Specifity" if name == "Relation_Specificity" else name): value for name, value in RIPPLE.items()}
    case = tlk.datasets.load_ripple_edits(write(tmp_path / "r.json", [row]))[0]
    assert [test.axis for test in case.tests] == ["ripple_logical_generalization", "ripple_relation_specificity"]


@pytest.mark.parametrize(
    ("relation", "sentence", "subject", "target"),
    [
        ("SIBLING", "The names of the siblings of Bank of Ham are Bo.", "Bank of Ham", " Bo"),
        ("COUNTRY", "The name of the country which Lake One is associated with is Peru.", "Lake One", " Peru"),
        ("MEMBER_OF_SPORTS_TEAM", "The name of the sports team which Bo is a member of is FC Two.", "Bo", " FC Two"),
        ("CONTINENT", "The name of the continent which Peru is part of is Asia.", "Peru", " Asia"),
        ("CAPITAL_OF", "The name of the country which Lima is the capital of is Peru.", "Lima", " Peru"),
        ("LEAGUE", "The name of the league which FC Two plays in is Liga.", "FC Two", " Liga"),
        ("AWARD_RECEIVED", "The name of the award Bo won is Gold.", "Bo", " Gold"),
        ("NUMBER_OF_CHILDREN", "The number of children Bo has is 3.", "Bo", " 3"),
        ("POSITION_HELD", "The name of the position held by Bo is mayor.", "Bo", " mayor"),
        ("CURRENCY", "The name of the currency in Peru is sol.", "Peru", " sol"),
        ("CAPITAL", "The name of the capital city of Republic of Peru is Lima.", "Republic of Peru", " Lima"),
        ("PLACE_OF_BIRTH", "The place of birth of Duke of Ham is St. Ives.", "Duke of Ham", " St. Ives"),
        ("HEAD_OF_GOVERNMENT", "The name of the head of government of Peru is Bo.", "Peru", " Bo"),
        ("FOLLOWED_BY", "Day One is followed by Day Two.", "Day One", " Day Two"),
        ("FOLLOWS", "Day Two follows Day One.", "Day Two", " Day One"),
    ],
)
def test_the_subject_is_found_by_the_relations_wording(tmp_path, relation, sentence, subject, target):
    """Without a previous fact nothing is replaced."""
    row = RIPPLE | {"example_type": "recent", "edit": {"prompt": sentence, "relation": relation}}
    case = tlk.datasets.load_ripple_edits(write(tmp_path / "recent.json", [row]))[0]
    assert (case.fact.subject, case.target_new, case.fact.target) == (subject, target, target)
    assert f"{case.fact.text}{target}." == sentence


def stated(relation, sentence, before=None, tests=(), **more):
    """A record whose edit is a sentence, with tests of its subject."""
    edit = {"prompt": sentence, "relation": relation}
    previous = {} if before is None else {"previous_fact": {"prompt": before, "relation": relation}}
    asked = [asks(query(text, answer("x1"))) for text in tests]
    return RIPPLE | {"edit": edit | previous, "Relation_Specificity": asked, "Logical_Generalization": []} | more


STRANGE, HOME = "The name of the director of Life is Strange is", "The name of the author of Home is"


@pytest.mark.parametrize(
    ("row", "subject", "old", "new"),
    [
        (stated("DIRECTOR", f"{STRANGE} Bo.", f"{STRANGE} Cy."), "Life is Strange", " Cy", " Bo"),
        (stated("AUTHOR", f"{HOME} Home is Here.", f"{HOME} Bo."), "Home", " Bo", " Home is Here"),
        (stated("AUTHOR", f"{HOME} This is Us.", tests=("The genre of Home is",)), "Home", " This is Us", " This is Us"),
        (stated("DIRECTOR", f"{STRANGE} Bo.", tests=("The genre of Life is Strange is",)), "Life is Strange", " Bo", " Bo"),
    ],
)
def test_a_subject_with_a_verb_of_its_own_is_read_whole(tmp_path, row, subject, old, new):
    (case,) = tlk.datasets.load_ripple_edits(write(tmp_path / "r.json", [row]))
    assert (case.fact.subject, case.fact.target, case.target_new) == (subject, old, new)


def test_a_subject_that_may_end_in_two_places_is_left_out(tmp_path):
    """Does Day One follow "What", or "What follows"? Nothing says."""
    assert tlk.datasets.load_ripple_edits(write(tmp_path / "r.json", [stated("FOLLOWS", "What follows follows Day One.")])) == []


def test_blank_names_are_left_out_as_the_program_does(tmp_path):
    """Wikidata has no label for some entities: such an edit states nothing, and a query for one cannot be answered."""
    nameless = [
        stated("MOTHER", "The name of the mother of  is Eve."),
        stated("COUNTRY", "The name of the country which Ann is associated with is ."),
        stated("MOTHER", "The name of the mother of Ann is Eve.", "The name of the mother of Ann is ."),
    ]
    blank, known = query("The aunt of Ann is", answer("")), query("The uncle of Ann is", answer("", "Bo"))
    tests = [
        asks(known),
        asks(blank),
        asks(blank, known),
        asks(blank, known, condition="AND"),
        asks(known, conditions=[blank]),
    ]
    whole = stated("MOTHER", "The name of the mother of Ann is Eve.") | {"Forgetfulness": tests}
    (case,) = tlk.datasets.load_ripple_edits(write(tmp_path / "r.json", [*nameless, whole]))
    assert case.case_id == "3" and [(test.axis, [each.text for each in test.queries]) for test in case.tests] == [
        ("ripple_forgetfulness", ["The uncle of Ann is"]),
        ("ripple_forgetfulness", ["The uncle of Ann is"]),
    ]
    assert case.tests[0].queries[0].answers == ((" Bo",),)


@pytest.mark.parametrize(
    ("load", "rows", "message"),
    [
        (tlk.datasets.load_ripple_edits, [MQUAKE], "line 1: field 'edit' is missing; the record has 'case_id', 'requested_rewrite'"),
        (tlk.datasets.load_mquake, [RIPPLE], "line 1: field 'requested_rewrite' is missing; the record has 'example_type', 'edit'"),
        (tlk.datasets.load_zsre, [MQUAKE], "line 1: field 'ground_truth' is missing; the record has 'case_id'"),
        (tlk.datasets.load_ripple_edits, {"data": [RIPPLE]}, "line 1: field 'edit' is missing; the record has 'data'"),
        (tlk.datasets.load_mquake, [[MQUAKE]], "is no record; every line or array element must be a JSON object"),
        (tlk.datasets.load_counterfact, [MQUAKE], "field 'requested_rewrite' is .* it must be a record"),
    ],
)
def test_the_file_of_another_data_set_is_refused(tmp_path, load, rows, message):
    with pytest.raises(DataError, match=message):
        load(write(tmp_path / "other.json", rows))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (changed(RIPPLE, "edit", to=None), "line 1: field 'edit' is missing"),
        (changed(RIPPLE, "Forgetfulness", to=None), "line 1: field 'Forgetfulness' is missing; the record has 'example_type'"),
        (changed(RIPPLE, "edit", "prompt", to="Ann is."), "'edit': field 'prompt' is 'Ann is.', in which the subject of relation 'COUNTRY_OF"),
        (changed(RIPPLE, "edit", "previous_fact", "prompt", to="The gender of Ann is x."), "must state the same relation"),
        (changed(RIPPLE, "Relation_Specificity", 0, "test_condition", to="XOR"), "field 'test_condition' is 'XOR'; it must be 'OR' or 'AND'"),
        (changed(RIPPLE, "Relation_Specificity", 0, "test_queries", to=[]), "asks nothing"),
        (changed(RIPPLE, "Relation_Specificity", 0, "test_queries", 0, "answers", to=[]), "'test_queries' 0: the answers of .* are"),
        (changed(RIPPLE, "Relation_Specificity", 0, "test_queries", 0, "answers", to=["Eve"]), "field 'answers' is .* must be a list of records"),
        (changed(RIPPLE, "Relation_Specificity", 0, "test_queries", 0, "answers", 0, "aliases", to=None), "field 'aliases' is missing"),
    ],
)  # fmt: skip
def test_a_wrong_ripple_schema_is_refused(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        tlk.datasets.load_ripple_edits(write(tmp_path / "r.json", [row]))


def test_mquake_is_read_as_it_is_published(tmp_path):
    case = tlk.datasets.load_mquake(write(tmp_path / "MQuAKE-CF-3k.json", [MQUAKE]))[0]
    assert case.fact == Fact("Ann", "{} is a citizen of", " Chile", "P27") and (case.target_new, case.case_id) == (" Peru", "12")
    assert [fact.template for fact in case.paraphrases] == ["What is the country of citizenship of {}?"]
    assert [(fact.text, fact.target, fact.replaces) for fact in case.also] == [("The capital of Peru is", " Cusco", " Lima")]
    assert [fact.text for fact in case.writes] == ["Ann is a citizen of", "The capital of Peru is"]
    single, new, old = case.tests
    hops = (Query("Ann is a citizen of", ((" Peru", " Republic of Peru"),)), Query("The capital of Peru is", ((" Cusco",),)))
    assert single == EditTest("single_hop", hops, every=True)
    assert [query.text for query in new.queries] == [f"Q: {question} A:" for question in MQUAKE["questions"]]
    assert {query.answers for query in new.queries} == {((" Cusco", " Qosqo"),)} and {query.answers for query in old.queries} == {((" Santiago",),)}
    asked = tlk.datasets.load_mquake(tmp_path / "MQuAKE-CF-3k.json", template="{}")[0]
    assert asked.tests[1].queries[0].text == MQUAKE["questions"][0]
    with pytest.raises(PromptError, match=r"template 'Q:' has no \{\}"):
        tlk.datasets.load_mquake(tmp_path / "MQuAKE-CF-3k.json", template="Q:")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (changed(MQUAKE, "requested_rewrite", to=[]), "field 'requested_rewrite' is empty"),
        (
            changed(MQUAKE, "requested_rewrite", 0, "target_new", to="Peru"),
            "'requested_rewrite' 0: field 'target_new' is 'Peru'; it must be a record",
        ),
        (changed(MQUAKE, "requested_rewrite", 1, "prompt", to="no place"), r"has no \{\}"),
        (changed(MQUAKE, "questions", to=[]), "asks nothing"),
        (changed(MQUAKE, "new_single_hops", 0, "cloze", to=None), "'new_single_hops' 0: field 'cloze' is missing"),
        (changed(MQUAKE, "new_answer", to=" "), "field 'new_answer' is ' '; it must be text that is not blank"),
        (changed(MQUAKE, "new_answer_alias", to=[3]), "field 'new_answer_alias' holds 3; it must be a list of texts"),
    ],
)
def test_a_wrong_mquake_schema_is_refused(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        tlk.datasets.load_mquake(write(tmp_path / "m.json", [row]))


def test_portability_is_of_the_alternative_answer(tmp_path):
    path = write(tmp_path / "z.json", [PORTABLE])
    assert tlk.datasets.load_zsre(path)[0].tests == ()  # it does not follow from the right answer
    reasoning, aliasing = tlk.datasets.load_zsre(path, target="alternative")[0].tests
    assert reasoning == EditTest("portability_reasoning", (Query("What is the common name of Leo's family?", ((" hunters",),)),))
    assert (aliasing.axis, aliasing.queries[0].answers) == ("portability_subject_aliasing", ((" Orion",),))
    for wrong, message in (
        ({"Magic": [{"prompt": "x", "ground_truth": "y"}]}, "field 'Magic' is no kind of portability"),
        ({"Reasoning": [{"prompt": "x"}]}, "'ground_truth' is missing"),
    ):
        with pytest.raises(DataError, match=message):
            tlk.datasets.load_zsre(write(tmp_path / "w.json", [PORTABLE | {"portability": wrong}]), target="alternative")
