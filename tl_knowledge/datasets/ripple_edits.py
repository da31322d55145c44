"""RippleEdits (Cohen et al. 2024): edits, and what should follow from each of them or stay, along six axes."""

from __future__ import annotations

import re
from itertools import islice

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
    r"^The .+? (?:which|that) (?P<subject>.+?) (?:{verbs}) (?:is|are)\b",
    r"^The (?:name of the award|number of children) (?P<subject>.+?) (?:{verbs}) is\b",
    r"^The name of the position held by (?P<subject>.+?) is\b",
    r"^The name of the currency in (?P<subject>.+?) is\b",
    r"^The .*?{words} of (?P<subject>.+?) (?:is|are)\b",
    r"^The (?:names? of the )?[\w ]+? of (?P<subject>.+?) (?:is|are)\b",
    r"^(?P<subject>.+?) (?:follows|is followed by)\b",
)


@public
def load_ripple_edits(source: Source, *, limit: int | None = None, split: str = "train") -> list[EditCase]:
    """Edit cases of RippleEdits with their tests, read from the benchmark's own files (``popular.json``, ``random.json``, ``recent.json``).

    The files state an edit as a sentence ("The name of the capital city of France is Rome."): the subject is found by the wording of the relation,
    the new object is what follows. Where there is no previous fact (``recent``) nothing is replaced, so scores that compare two objects are NaN. The
    cases have neither paraphrases nor neighbours; read them with `tl_knowledge.evaluation.ripple_scores`.

    Args:
        source: a file of the benchmark, or a hub data set of the same fields.
        limit: how many to take, from the first.
        split: of a hub data set.

    Raises:
        DataError: the source cannot be read, or a record is malformed (file, line, field).
    """
    return [_case(row, number) for number, row in islice(enumerate(read_rows(source, split=split)), limit)]


def _case(row: Row, number: int) -> EditCase:
    edit = row.row("edit")
    relation = edit.text("relation")
    subject, prompt, new = _stated(edit, relation)
    old = new
    if "previous_fact" in edit:
        previous = edit.row("previous_fact")
        same, same_prompt, old = _stated(previous, relation)
        if (same, same_prompt) != (subject, prompt):
            raise previous.refuse(
                InputError(f"the previous fact is of {same_prompt!r}, and the edit of {prompt!r}; both must state the same relation.")
            )
    try:
        fact = Fact(subject, template_of(prompt, subject), old, relation)
    except InputError as error:
        raise edit.refuse(error) from error
    tests = tuple(test for axis in RIPPLE_AXES for test in _tests(row, axis))
    return EditCase(fact, new, (), (), case_id=str(number), tests=tests)


def _stated(fact: Row, relation: str) -> tuple[str, str, str]:
    """Subject, prompt and object of a fact that is stated as a sentence."""
    sentence = fact.text("prompt").strip()
    words = re.escape(relation.lower().replace("_", " "))
    for pattern in _SUBJECTS:
        found = re.search(pattern.format(verbs=_VERBS, words=words), sentence, re.IGNORECASE if "{words}" in pattern else 0)
        target = sentence[found.end() :].removesuffix(".") if found else ""
        if found and target.strip():
            return found["subject"], sentence[: found.end()], " " + target.strip()
    raise fact.refuse(InputError(f"field 'prompt' is {sentence!r}, in which the subject of relation {relation!r} cannot be found."))


def _tests(row: Row, axis: str) -> tuple[EditTest, ...]:
    names = _FIELDS[axis]
    name = next((name for name in names if name in row), names[0])
    return tuple(_test(test, RIPPLE + axis) for test in row.rows(name))


def _test(test: Row, axis: str) -> EditTest:
    condition = test.text("test_condition")
    if condition not in ("OR", "AND"):
        raise test.refuse(InputError(f"field 'test_condition' is {condition!r}; it must be 'OR' or 'AND'."))
    queries, conditions = (tuple(map(_query, test.rows(name))) for name in ("test_queries", "condition_queries"))
    try:
        return EditTest(axis, queries, conditions, every=condition == "AND")
    except InputError as error:
        raise test.refuse(error) from error


def _query(query: Row) -> Query:
    """A query; forms of one letter do not count, as in the benchmark's program."""
    answers: list[tuple[str, ...]] = []
    for answer in query.rows("answers"):
        forms = (answer.text("value"), *answer.texts("aliases"))
        long = tuple(f" {form.strip()}" for form in forms if len(form.strip()) > 1 or form.strip().isdigit())
        answers.append(long or (f" {forms[0].strip()}",))
    try:
        return Query(query.text("prompt").rstrip(), tuple(answers))
    except InputError as error:
        raise query.refuse(error) from error
