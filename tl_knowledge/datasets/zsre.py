"""zsRE (Levy et al. 2017) as used for editing: MEND's form (De Cao et al. 2021; Mitchell et al. 2022) and KnowEdit's."""

from __future__ import annotations

from itertools import islice

from tl_knowledge.datasets.known import fact_from_prompt
from tl_knowledge.datasets.records import Row, Source, read_rows
from tl_knowledge.door import public
from tl_knowledge.prompts.facts import EditCase, Fact, Statement

__all__ = ["KNOWEDIT_HUB", "KNOWEDIT_ZSRE_FILE", "load_zsre"]

KNOWEDIT_HUB, KNOWEDIT_ZSRE_FILE = "zjunlp/KnowEdit", "benchmark/ZsRE/ZsRE-test-all.json"


@public
def load_zsre(source: Source = KNOWEDIT_HUB, *, limit: int | None = None, split: str = "train", data_files: str | None = None) -> list[EditCase]:
    """Edit cases of zsRE: questions, with an answer to write in the right answer's place.

    MEND's locality question (Natural Questions, about something unrelated) and KnowEdit's locality prompts become the neighbourhood.
    MEND's records without a new answer (``alt`` is empty in some of its training data) are left out.
    A KnowEdit rephrasing that names the subject in other words is left out of the paraphrases: nothing says where its subject stands.

    Args:
        source: a file in either form, or a hub data set.
        limit: how many to take, from the first.
        split: of a hub data set.
        data_files: which file of a hub data set; KnowEdit's zsRE test set for the default source.

    Raises:
        DataError: the source cannot be read, or a record is malformed (file, line, field).
    """
    file = KNOWEDIT_ZSRE_FILE if source == KNOWEDIT_HUB and data_files is None else data_files
    numbered = islice(enumerate(read_rows(source, split=split, data_files=file)), limit)
    cases = (_mend(row, number) if "src" in row else _knowedit(row, number) for number, row in numbered)
    return [case for case in cases if case is not None]


def _mend(row: Row, number: int) -> EditCase | None:
    if not row.text("alt", empty=True).strip():
        return None
    subject, true = row.text("subject"), _first(row, "answers")
    fact = fact_from_prompt(row, "src", subject, true)
    neighbourhood = (Statement(row.text("loc"), " " + row.text("loc_ans").strip()),)
    return EditCase(fact, " " + row.text("alt").strip(), _paraphrases(row, "rephrase", fact), neighbourhood, case_id=str(number))


def _knowedit(row: Row, number: int) -> EditCase:
    subject, true = row.text("subject"), _first(row, "ground_truth")
    fact = fact_from_prompt(row, "prompt", subject, true)
    locality = row.row("locality") if "locality" in row else Row({}, row.where)
    kept = tuple(Statement(item.text("prompt"), _first(item, "ground_truth")) for kind in locality.fields for item in locality.rows(kind))
    return EditCase(fact, " " + row.text("target_new").strip(), _paraphrases(row, "rephrase_prompt", fact), kept, case_id=str(number))


def _paraphrases(row: Row, field: str, fact: Fact) -> tuple[Fact, ...]:
    return (fact_from_prompt(row, field, fact.subject, fact.target),) if fact.subject in row.text(field) else ()


def _first(row: Row, field: str) -> str:
    texts = row.texts(field)
    return " " + Row({field: texts[0] if texts else ""}, row.where).text(field).strip()
