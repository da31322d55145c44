"""ParaRel (Elazar et al. 2021): facts in many templates.

A template is usable when its object stands at the end, because an autoregressive model predicts the next token. The form with other facts before
each prompt is `tl_knowledge.datasets.context_pararel`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from tl_knowledge.datasets.records import Row, Source, files_in, read_rows
from tl_knowledge.door import public
from tl_knowledge.errors import DataError
from tl_knowledge.prompts.facts import Fact

__all__ = ["load_pararel", "relation_rows", "split_pattern"]

SUBJECT, OBJECT = "[X]", "[Y]"


@public
def load_pararel(source: Source, *, relations: Iterable[str] | None = None, limit: int | None = None) -> list[Fact]:
    """Facts of ParaRel; the first usable template states the fact, the others are its paraphrases.

    Relations without a usable template are left out.

    Args:
        source: a folder with ``graphs_json/P*.jsonl`` (or ``pattern_data/graphs_json``) and ``trex_lms_vocab/P*.jsonl``: ``data`` in a
            clone of ``yanaiela/pararel``.
        relations: which, by Wikidata's id; all when ``None``.
        limit: how many facts of each relation to take, from the first.

    Raises:
        DataError: no such files, no such relation, or a malformed record (file, line, field).
    """
    facts: list[Fact] = []
    for relation, patterns, pairs in relation_rows(source, relations):
        ends = (split_pattern(row) for row in patterns)
        templates = list(dict.fromkeys(template for template, end in ends if template and not end.strip(".")))
        if templates:
            facts += [
                Fact(subject, templates[0], " " + target, relation, tuple(templates[1:])) for subject, target in list(dict.fromkeys(pairs))[:limit]
            ]
    return facts


def relation_rows(source: Source, relations: Iterable[str] | None) -> Iterator[tuple[str, list[Row], list[tuple[str, str]]]]:
    """Each relation's patterns, and its pairs of subject and object, as they stand in the files.

    Raises:
        DataError: as `load_pararel`.
    """
    folder = Path(source)
    patterns = {path.stem: path for path in files_in(folder, "**/graphs_json/P*.jsonl")}
    tuples = {path.stem: path for path in files_in(folder, "**/trex_lms_vocab/P*.jsonl")}
    both = sorted(patterns.keys() & tuples.keys(), key=lambda name: int(name[1:]))
    wanted = both if relations is None else list(relations)
    missing = [name for name in wanted if name not in both]
    if missing:
        raise DataError(
            f"{str(source)!r} has no relation {missing[0]!r} with patterns and tuples; it has {', '.join(both)}; pass relations= of these."
        )
    for name in wanted:
        yield name, list(read_rows(patterns[name])), [(row.text("sub_label"), row.text("obj_label")) for row in read_rows(tuples[name])]


def split_pattern(row: Row) -> tuple[str, str]:
    """A pattern as our template, and what follows its object without spaces; no template where the subject follows the object.

    Raises:
        DataError: a pattern without a subject or an object.
    """
    pattern = row.text("pattern")
    if SUBJECT not in pattern or OBJECT not in pattern:
        raise DataError(f"{row.where}: field 'pattern' is {pattern!r}; it must hold {SUBJECT} and {OBJECT}.")
    head, _, tail = pattern.rpartition(OBJECT)
    template = head.rstrip().replace(SUBJECT, "{}")
    return template if SUBJECT in head and OBJECT not in head else "", tail.replace(" ", "")
