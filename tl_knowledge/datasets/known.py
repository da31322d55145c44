"""known_1000: the facts of the causal traces in ROME (Meng et al. 2022)."""

from __future__ import annotations

from itertools import islice

from tl_knowledge.datasets.records import Row, Source, read_rows
from tl_knowledge.door import public
from tl_knowledge.errors import InputError
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.spans import template_of

__all__ = ["KNOWN_1000_URL", "fact_from_prompt", "load_known"]

KNOWN_1000_URL = "https://rome.baulab.info/data/dsets/known_1000.json"


@public
def load_known(source: Source = KNOWN_1000_URL, *, limit: int | None = None, split: str = "train") -> list[Fact]:
    """Facts of known_1000; the template is the *prompt* with the subject taken out.

    The file's own ``template`` is not used: in a third of the records the prompt goes on for a word or two beyond it, so that the
    attribute comes next.

    Args:
        source: the JSON file, or a hub data set of the same fields (``subject``, ``attribute``, ``prompt``, ``relation_id``).
        limit: how many to take, from the first.
        split: of a hub data set.

    Raises:
        DataError: the source cannot be read, or a record is malformed (file, line, field).
    """
    return [_fact(row) for row in islice(read_rows(source, split=split), limit)]


def _fact(row: Row) -> Fact:
    return fact_from_prompt(row, "prompt", row.text("subject"), " " + row.text("attribute").strip(), row.optional_text("relation_id"))


def fact_from_prompt(row: Row, field: str, subject: str, target: str, relation: str | None = None) -> Fact:
    """A fact whose prompt is given filled in: the subject's words, wherever they stand, become the template's place.

    Raises:
        DataError: the subject is not in the prompt.
    """
    prompt = row.text(field)
    if subject not in prompt:
        raise row.refuse(InputError(f"field {field!r} is {prompt!r}, in which subject {subject!r} does not occur."))
    try:
        return Fact(subject, template_of(prompt, subject), target, relation)
    except InputError as error:
        raise row.refuse(error) from error
