"""RippleEdits (Cohen et al. 2024): edits, and what should follow from each of them or stay, along six axes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

from more_itertools import unique_everseen

from tl_knowledge.datasets.records import Row, Source, read_rows
from tl_knowledge.door import public
from tl_knowledge.errors import InputError
from tl_knowledge.prompts.edit_tests import EditTest, Query
from tl_knowledge.prompts.facts import EditCase, Fact
from tl_knowledge.prompts.spans import template_of

__all__ = ["RIPPLE", "RIPPLE_AXES", "load_ripple_edits"]

RIPPLE = "ripple_"
RIPPLE_AXES = (
    "logical_generalization",
    "compositionality_1",
    "compositionality_2",
    "subject_aliasing",
    "forgetfulness",
    "relation_specificity",
)
"""The six axes of RippleEdits: four of what should follow, and two of what should stay."""

_FIELDS = {
    "logical_generalization": ("Logical_Generalization",),
    "compositionality_1": ("Compositionality_I",),
    "compositionality_2": ("Compositionality_II",),
    "subject_aliasing": ("Subject_Aliasing",),
    "forgetfulness": ("Forgetfulness",),
    "relation_specificity": ("Relation_Specificity", "Relation_Specifity"),  # the files' spelling, and their description's
}
_VERBS = r"is associated with|is a member of|plays in|is part of|is the capital of|won|has"
_SUBJECTS = (  # of the benchmark's relations, as its prompts state them
    r"The [\w ]+? (?:which|that) (?P<subject>.+) (?:{verbs}) (?:is|are)",
    r"The (?:name of the award|number of children) (?P<subject>.+) (?:{verbs}) is",
    r"The name of the position held by (?P<subject>.+) is",
    r"The name of the currency in (?P<subject>.+) is",
    r"The .*?{words} of (?P<subject>.+) (?:is|are)",
    r"The (?:names? of the )?[\w ]+? of (?P<subject>.+) (?:is|are)",
    r"(?P<subject>.+) (?:follows|is followed by)",
)
_ENDS = re.compile(r"\b(?:is|are|follows|by)(?= )")


@public
def load_ripple_edits(source: Source, *, limit: int | None = None, split: str = "train") -> list[EditCase]:
    """Edit cases of RippleEdits with their tests, read from the benchmark's own files (``popular.json``, ``random.json``, ``recent.json``).

    The files state an edit as a sentence ("The name of the capital city of France is Rome."): the subject is found by the wording of the relation,
    the new object is what follows. Where a subject has an "is" of its own ("Life is Strange"), the previous fact and the tests about the same subject
    tell where it ends. Where there is no previous fact (``recent``) nothing is replaced, so scores that compare two objects are NaN. The cases have
    neither paraphrases nor neighbours; read them with `tl_knowledge.evaluation.ripple_scores`.

    Left out are records that the benchmark's program skips, those with a blank name, and those whose subject ends in several places. A query whose
    answer has a blank name and no alias asks nothing and is left out of its test.

    Args:
        source: a file of the benchmark, or a hub data set of the same fields.
        limit: how many records to read, from the first.
        split: of a hub data set.

    Raises:
        DataError: the source cannot be read, or a record is malformed (file, line, field).
    """
    cases = (_case(row, number) for number, row in islice(enumerate(read_rows(source, split=split)), limit))
    return [case for case in cases if case is not None]


class _Stated(NamedTuple):
    """A sentence that states a fact, read in one way."""

    subject: str
    prompt: str
    target: str


def _case(row: Row, number: int) -> EditCase | None:
    edit = row.row("edit")
    relation, stated = edit.text("relation"), [edit.row("previous_fact"), edit] if "previous_fact" in edit else [edit]
    tests = tuple(test for axis in RIPPLE_AXES for test in _tests(row, axis))
    if any(_has_blank_name(fact.text("prompt").strip()) for fact in stated):
        return None
    old, new = _readings(stated[0], relation), _readings(edit, relation)
    both = [reading for reading in new if any(other[:2] == reading[:2] for other in old)]
    if not both:
        raise stated[0].refuse(
            InputError(f"the previous fact is of {old[0].prompt!r}, and the edit of {new[0].prompt!r}; both must state the same relation.")
        )
    reading = both[-1] if len(both) == 1 else _longest_named(both, tests, sure=len(stated) > 1)
    if reading is None:
        return None
    before = next(other for other in old if other[:2] == reading[:2])
    try:
        fact = Fact(reading.subject, template_of(reading.prompt, reading.subject), before.target, relation)
    except InputError as error:
        raise edit.refuse(error) from error
    return EditCase(fact, reading.target, (), (), case_id=str(number), tests=tests)


def _has_blank_name(sentence: str) -> bool:
    return "  " in sentence or sentence.removesuffix(".").endswith(" ")


def _readings(fact: Row, relation: str) -> list[_Stated]:
    """Every way to read a fact that is stated as a sentence, those with the shortest subject first."""
    sentence = fact.text("prompt").strip()
    words = re.escape(relation.lower().replace("_", " "))
    for pattern in _SUBJECTS:
        whole = re.compile(pattern.format(verbs=_VERBS, words=words), re.IGNORECASE if "{words}" in pattern else 0)
        found = [match for end in _ENDS.finditer(sentence) if (match := whole.fullmatch(sentence, 0, end.end()))]
        readings = [_Stated(match["subject"], match[0], sentence[match.end() :].removesuffix(".")) for match in found]
        if readings:
            return readings
    raise fact.refuse(InputError(f"field 'prompt' is {sentence!r}, in which the subject of relation {relation!r} cannot be found."))


def _longest_named(readings: Sequence[_Stated], tests: Iterable[EditTest], *, sure: bool) -> _Stated | None:
    """The reading with the longest subject that a test's query names.

    Args:
        sure: whether two sentences agree on the readings, so that the longest is meant where no query names one.
    """
    asked = [query.text for query in unique_everseen(query for test in tests for query in (*test.queries, *test.conditions))]
    named = [reading for reading in readings if any(reading.subject in text for text in asked)]
    return named[-1] if named else readings[-1] if sure else None


def _tests(row: Row, axis: str) -> tuple[EditTest, ...]:
    names = _FIELDS[axis]
    name = next((name for name in names if name in row), names[0])
    tests = (_test(test, RIPPLE + axis) for test in row.rows(name))
    return tuple(test for test in tests if test is not None)


def _test(test: Row, axis: str) -> EditTest | None:
    """A test; none where it has no query that can be answered, or rests on one."""
    condition = test.text("test_condition")
    if condition not in ("OR", "AND"):
        raise test.refuse(InputError(f"field 'test_condition' is {condition!r}; it must be 'OR' or 'AND'."))
    given, rests_on = ([_query(query) for query in test.rows(name)] for name in ("test_queries", "condition_queries"))
    queries, conditions = (tuple(query for query in some if query is not None) for some in (given, rests_on))
    needed = len(given) if condition == "AND" else min(len(given), 1)
    if len(queries) < needed or len(conditions) < len(rests_on):
        return None
    try:
        return EditTest(axis, queries, conditions, every=condition == "AND")
    except InputError as error:
        raise test.refuse(error) from error


def _query(query: Row) -> Query | None:
    """A query; forms of one letter do not count, as in the benchmark's program. None where an answer has no form at all."""
    answers: list[tuple[str, ...]] = []
    for answer in query.rows("answers"):
        forms = [form.strip() for form in (answer.text("value", empty=True), *answer.texts("aliases")) if form.strip()]
        if not forms:
            return None
        answers.append(tuple(f" {form}" for form in forms if len(form) > 1 or form.isdigit()) or (f" {forms[0]}",))
    try:
        return Query(query.text("prompt").rstrip(), tuple(answers))
    except InputError as error:
        raise query.refuse(error) from error
