"""CounterFact (Meng et al. 2022): counterfactual edits with paraphrase, neighbourhood, attribute and generation prompts."""

from __future__ import annotations

from itertools import islice

from tl_knowledge.datasets.known import fact_from_prompt
from tl_knowledge.datasets.records import Row, Source, read_rows
from tl_knowledge.door import public
from tl_knowledge.errors import InputError
from tl_knowledge.prompts.facts import EditCase, Fact, Statement

__all__ = ["COUNTERFACT_HUB", "load_counterfact"]

COUNTERFACT_HUB = "azhx/counterfact"


@public
def load_counterfact(source: Source = COUNTERFACT_HUB, *, limit: int | None = None, split: str = "train") -> list[EditCase]:
    """Edit cases of CounterFact, in the original form or in EasyEdit's.

    In EasyEdit's reduced form the one ``rephrase_prompt`` is usually a *generation* prompt of the original, not a paraphrase, so it is
    kept in ``generation`` and the case has no paraphrases.

    Args:
        source: a file in either form, or a hub data set.
        limit: how many to take, from the first.
        split: of a hub data set.

    Raises:
        DataError: the source cannot be read, or a record is malformed (file, line, field).
    """
    return [_original(row) if "requested_rewrite" in row else _easyedit(row) for row in islice(read_rows(source, split=split), limit)]


def _original(row: Row) -> EditCase:
    rewrite = row.row("requested_rewrite")
    subject = rewrite.text("subject")
    true, new = (" " + rewrite.row(name).text("str").strip() for name in ("target_true", "target_new"))
    try:
        fact = Fact(subject, rewrite.text("prompt"), true, rewrite.optional_text("relation_id"))
    except InputError as error:
        raise rewrite.refuse(error) from error
    paraphrases = tuple(
        fact_from_prompt(Row({"paraphrase_prompts": text}, row.where), "paraphrase_prompts", subject, true, fact.relation)
        for text in row.texts("paraphrase_prompts")
    )
    return EditCase(
        fact,
        new,
        paraphrases,
        tuple(Statement(text, true) for text in row.texts("neighborhood_prompts")),
        tuple(Statement(text, new) for text in _optional_texts(row, "attribute_prompts")),
        _optional_texts(row, "generation_prompts"),
        str(row.fields.get("case_id", "")),
        rewrite.row("target_new").optional_text("id") or "",
    )


def _easyedit(row: Row) -> EditCase:
    subject, true = row.text("subject"), " " + row.text("ground_truth").strip()
    return EditCase(
        fact_from_prompt(row, "prompt", subject, true),
        " " + row.text("target_new").strip(),
        (),
        (Statement(row.text("locality_prompt"), " " + row.text("locality_ground_truth").strip()),),
        generation=(row.text("rephrase_prompt"),),
        case_id=str(row.fields.get("case_id", "")),
    )


def _optional_texts(row: Row, name: str) -> tuple[str, ...]:
    return row.texts(name) if name in row else ()
