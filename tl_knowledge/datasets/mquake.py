"""MQuAKE (Zhong et al. 2023): edits of facts on a chain, and questions whose answer lies at its end."""

from __future__ import annotations

from itertools import islice

from tl_knowledge.datasets.known import fact_from_prompt
from tl_knowledge.datasets.records import Row, Source, read_rows
from tl_knowledge.door import public
from tl_knowledge.errors import InputError, PromptError
from tl_knowledge.prompts.edit_tests import EditTest, Query
from tl_knowledge.prompts.facts import EditCase, Fact

__all__ = ["HOP_AXES", "MQUAKE_QUESTION", "load_mquake"]

HOP_AXES = ("single_hop", "multi_hop", "multi_hop_old")
"""All facts of the new chain; the answer at its end, by any of the questions; the answer that the old chain had."""

MQUAKE_QUESTION = "Q: {} A:"


@public
def load_mquake(source: Source, *, template: str = MQUAKE_QUESTION, limit: int | None = None, split: str = "train") -> list[EditCase]:
    """Edit cases of MQuAKE with their tests, read from the data set's own files (``MQuAKE-CF-3k.json``, ``MQuAKE-CF.json``, ``MQuAKE-T.json``).

    A case may write several facts: the first is ``fact``, the others are in ``also``, and a method plans them together. `HOP_AXES` are its tests:
    each fact of the new chain as a cloze, and the multi-hop questions (three wordings, of which one has to be answered). The first edit's question is
    a paraphrase where it names the subject.

    Args:
        source: a file of the data set, or a hub data set of the same fields.
        template: how a question becomes a prompt, with ``{}`` in its place; put the few-shot examples of the publication before it.
        limit: how many to take, from the first.
        split: of a hub data set.

    Raises:
        DataError: the source cannot be read, or a record is malformed (file, line, field).
        PromptError: a template without ``{}``.
    """
    if "{}" not in template:
        raise PromptError(f"template {template!r} has no {{}}; mark the question's place, as in {MQUAKE_QUESTION!r}.")
    return [_case(row, number, template) for number, row in islice(enumerate(read_rows(source, split=split)), limit)]


def _case(row: Row, number: int, template: str) -> EditCase:
    rewrites = row.rows("requested_rewrite")
    if not rewrites:
        raise row.refuse(InputError("field 'requested_rewrite' is empty; a case edits at least one fact."))
    (fact, new, paraphrases), *others = map(_rewrite, rewrites)
    also = tuple(other.retarget(target) for other, target, _ in others)
    questions = [template.replace("{}", question.strip()) for question in row.texts("questions")]
    hops = tuple(Query(hop.text("cloze").rstrip(), (_forms(hop, "answer"),)) for hop in row.rows("new_single_hops"))
    after, before = (tuple(Query(question, (_forms(row, name),)) for question in questions) for name in ("new_answer", "answer"))
    try:
        tests = (EditTest("single_hop", hops, every=True), EditTest("multi_hop", after), EditTest("multi_hop_old", before))
    except InputError as error:
        raise row.refuse(error) from error
    return EditCase(fact, new, paraphrases, (), case_id=str(row.fields.get("case_id", number)), also=also, tests=tests)


def _rewrite(rewrite: Row) -> tuple[Fact, str, tuple[Fact, ...]]:
    """A fact with its old object, its new object, and its question as a paraphrase."""
    subject, relation = rewrite.text("subject"), rewrite.optional_text("relation_id")
    old, new = (" " + rewrite.row(name).text("str").strip() for name in ("target_true", "target_new"))
    try:
        fact = Fact(subject, rewrite.text("prompt"), old, relation)
    except InputError as error:
        raise rewrite.refuse(error) from error
    named = subject in (rewrite.optional_text("question") or "")
    return fact, new, (fact_from_prompt(rewrite, "question", subject, old, relation),) if named else ()


def _forms(row: Row, name: str) -> tuple[str, ...]:
    """An answer and its aliases."""
    aliases = row.texts(f"{name}_alias") if f"{name}_alias" in row else ()
    return tuple(dict.fromkeys(f" {form.strip()}" for form in (row.text(name), *aliases) if form.strip()))
