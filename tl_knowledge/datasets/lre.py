"""The relations of LRE (Hernandez et al. 2024, linear relational embeddings): factual, commonsense, linguistic and bias."""

from __future__ import annotations

from pathlib import Path

from tl_knowledge.datasets.records import Row, Source, files_in, read_rows
from tl_knowledge.door import public
from tl_knowledge.errors import InputError
from tl_knowledge.prompts.facts import Fact

__all__ = ["load_lre"]


@public
def load_lre(source: Source, *, limit: int | None = None) -> list[Fact]:
    """Facts of LRE relations; the relation's first template states the fact, the others are its paraphrases.

    Args:
        source: one relation's JSON file, or a folder of them, such as ``data/factual`` in a clone of ``evandez/relations``.
        limit: how many samples of each relation to take, from the first.

    Raises:
        DataError: the source cannot be read, or a record is malformed (file, field).
    """
    files = sorted(files_in(source, "**/*.json")) if Path(source).is_dir() else [source]
    return [fact for file in files for row in read_rows(file) for fact in _facts(row, limit)]


def _facts(row: Row, limit: int | None) -> list[Fact]:
    name, templates = row.text("name"), row.texts("prompt_templates")
    if not templates:
        raise row.refuse(InputError("field 'prompt_templates' is empty; a relation needs at least one."))
    facts: list[Fact] = []
    for sample in row.rows("samples")[:limit]:
        try:
            facts.append(Fact(sample.text("subject"), templates[0], " " + sample.text("object").strip(), name, templates[1:]))
        except InputError as error:
            raise sample.refuse(error) from error
    return facts
