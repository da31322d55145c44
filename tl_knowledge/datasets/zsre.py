"""zsRE (Levy et al. 2017) as used for editing: MEND's form (De Cao et al. 2021; Mitchell et al. 2022a) and KnowEdit's."""

from __future__ import annotations

from itertools import islice
from typing import Literal, TypeAlias

from tl_knowledge.datasets.known import fact_from_prompt
from tl_knowledge.datasets.records import Row, Source, read_rows
from tl_knowledge.door import public
from tl_knowledge.errors import InputError, check_choice
from tl_knowledge.prompts.edit_tests import EditTest, Query
from tl_knowledge.prompts.facts import EditCase, Fact, Statement

__all__ = ["KNOWEDIT_HUB", "KNOWEDIT_ZSRE_FILE", "PORTABILITY", "PORTABILITY_AXES", "WrittenAnswer", "load_zsre"]

KNOWEDIT_HUB, KNOWEDIT_ZSRE_FILE = "zjunlp/KnowEdit", "benchmark/ZsRE/ZsRE-test-all.json"

PORTABILITY = "portability_"
PORTABILITY_AXES = ("reasoning", "logical_generalization", "subject_aliasing")
"""What KnowEdit (Zhang et al. 2024) asks beyond an edit: one hop on, what it implies, and under the subject's other names."""

WrittenAnswer: TypeAlias = Literal["right", "alternative"]
"""Which answer an edit writes: the right one, which the model may not know, or another in its place."""


@public
def load_zsre(
    source: Source = KNOWEDIT_HUB,
    *,
    target: WrittenAnswer = "right",
    limit: int | None = None,
    split: str = "train",
    data_files: str | None = None,
) -> list[EditCase]:
    """Edit cases of zsRE: questions, and the answer to write.

    ``target="right"`` is the experiment of Meng et al. (2022, 2023): the right answer (``answers[0]``) is written, whether or not the model knows
    it, and MEND's locality question ends in ``"?"``. Nothing is replaced, so scores that compare a new object with the old one are NaN; read the
    token accuracies. ``"alternative"`` writes MEND's ``alt`` (KnowEdit's ``target_new``) in the right answer's place, and leaves the locality
    question as it stands; records without an alternative (there are some in MEND's training data) are left out.

    MEND's locality question (Natural Questions, about something unrelated) and KnowEdit's locality prompts become the neighbourhood.
    A rephrasing that names the subject in other words is left out of the paraphrases: nothing says where its subject stands. KnowEdit's portability
    prompts (Zhang et al. 2024) follow from its ``target_new``, so they become tests of ``"alternative"`` only; read them with
    `tl_knowledge.evaluation.portability_scores`.

    Args:
        source: a file in either form, or a hub data set.
        target: which answer to write.
        limit: how many records to read, from the first.
        split: of a hub data set.
        data_files: which file of a hub data set; KnowEdit's zsRE test set for the default source.

    Raises:
        DataError: the source cannot be read, or a record is malformed (file, line, field).
        InputError: an unknown ``target``.
    """
    check_choice("target", target, WrittenAnswer)
    file = KNOWEDIT_ZSRE_FILE if source == KNOWEDIT_HUB and data_files is None else data_files
    numbered = islice(enumerate(read_rows(source, split=split, data_files=file)), limit)
    cases = (_mend(row, number, target) if "src" in row else _knowedit(row, number, target) for number, row in numbered)
    return [case for case in cases if case is not None]


def _mend(row: Row, number: int, target: WrittenAnswer) -> EditCase | None:
    right, alternative = _first(row, "answers"), row.text("alt", empty=True).strip() if target == "alternative" else ""
    if target == "alternative" and not alternative:
        return None
    fact = fact_from_prompt(row, "src", row.text("subject"), right)
    question = row.text("loc") + ("?" if target == "right" else "")
    neighbourhood = (Statement(question, " " + row.text("loc_ans").strip()),)
    new = right if target == "right" else " " + alternative
    return EditCase(fact, new, _paraphrases(row, "rephrase", fact), neighbourhood, case_id=str(number))


def _knowedit(row: Row, number: int, target: WrittenAnswer) -> EditCase:
    right = _first(row, "ground_truth")
    fact = fact_from_prompt(row, "prompt", row.text("subject"), right)
    locality = row.row("locality") if "locality" in row else Row({}, row.where)
    kept = tuple(Statement(item.text("prompt"), _first(item, "ground_truth")) for kind in locality.fields for item in locality.rows(kind))
    new = right if target == "right" else " " + row.text("target_new").strip()
    tests = _portability(row) if target == "alternative" else ()
    return EditCase(fact, new, _paraphrases(row, "rephrase_prompt", fact), kept, case_id=str(number), tests=tests)


def _portability(row: Row) -> tuple[EditTest, ...]:
    """What should follow from the alternative answer, by kind."""
    kinds = row.row("portability") if "portability" in row else Row({}, row.where)
    return tuple(_follows(kinds, kind, item) for kind in kinds.fields for item in kinds.rows(kind))


def _follows(kinds: Row, kind: str, item: Row) -> EditTest:
    name = kind.lower()
    if name not in PORTABILITY_AXES:
        raise kinds.refuse(InputError(f"field {kind!r} is no kind of portability; they are {', '.join(PORTABILITY_AXES)}."))
    forms = tuple(dict.fromkeys(" " + Row({"ground_truth": text}, item.where).text("ground_truth").strip() for text in item.texts("ground_truth")))
    if not forms:
        raise item.refuse(InputError("field 'ground_truth' is empty; it must have an answer."))
    return EditTest(PORTABILITY + name, (Query(item.text("prompt").rstrip(), (forms,)),))


def _paraphrases(row: Row, field: str, fact: Fact) -> tuple[Fact, ...]:
    return (fact_from_prompt(row, field, fact.subject, fact.target),) if fact.subject in row.text(field) else ()


def _first(row: Row, field: str) -> str:
    texts = row.texts(field)
    return " " + Row({field: texts[0] if texts else ""}, row.where).text(field).strip()
