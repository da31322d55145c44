"""ParaRel (Elazar et al. 2021): facts in many templates; and context-ParaRel, its form for autoregressive models (Wen and Bai).

A template is usable when its object stands at the end, because an autoregressive model predicts the next token.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from pathlib import Path

from tl_knowledge.datasets.context import CONTEXT_PAIRS, in_context
from tl_knowledge.datasets.records import Row, Source, files_in, read_rows
from tl_knowledge.door import public
from tl_knowledge.errors import DataError
from tl_knowledge.prompts.facts import Fact

__all__ = ["load_context_pararel", "load_pararel"]

SUBJECT, OBJECT = "[X]", "[Y]"
FEWEST_TEMPLATES, MOST_PAIRS = 4, 100

Pair = tuple[str, str]


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
    return [
        Fact(subject, templates[0], " " + target, relation, tuple(templates[1:]))
        for relation, templates, pairs in _relations(source, relations)
        if templates
        for subject, target in pairs[:limit]
    ]


@public
def load_context_pararel(
    source: Source, *, relations: Iterable[str] | None = None, limit: int = MOST_PAIRS, separator: str = ". ", seed: int = 0
) -> list[Fact]:
    """context-ParaRel (Wen and Bai, section 4.1): every prompt begins with four other facts of its relation, in the same template.

    Kept are relations with at least four usable templates, and at most ``limit`` pairs of each, drawn without replacement. The four
    context pairs are drawn for each fact and are the same in all its templates. Every draw depends on the seed, the relation and the
    subject only.

    Args:
        source, relations: as `load_pararel`.
        limit: how many pairs of a relation to keep.
        separator: between the context's statements.
        seed: of the draws.

    Raises:
        DataError: as `load_pararel`.
    """
    facts: list[Fact] = []
    for relation, templates, pairs in _relations(source, relations):
        if len(templates) < FEWEST_TEMPLATES or len(pairs) <= CONTEXT_PAIRS:
            continue
        kept = random.Random(f"{seed}/{relation}").sample(pairs, min(limit, len(pairs)))
        for subject, target in kept:
            others = [pair for pair in pairs if pair[0] != subject]
            context = random.Random(f"{seed}/{relation}/{subject}").sample(others, CONTEXT_PAIRS)
            fact = Fact(subject, templates[0], " " + target, relation, tuple(templates[1:]))
            facts.append(in_context(fact, [(s, " " + o) for s, o in context], separator=separator))
    return facts


def _relations(source: Source, relations: Iterable[str] | None) -> Iterator[tuple[str, list[str], list[Pair]]]:
    """Each relation's usable templates and distinct pairs."""
    folder = Path(source)
    patterns = {path.stem: path for path in files_in(folder, "**/graphs_json/P*.jsonl")}
    tuples = {path.stem: path for path in files_in(folder, "**/trex_lms_vocab/P*.jsonl")}
    both = sorted(patterns.keys() & tuples.keys(), key=lambda name: int(name[1:]))
    wanted = both if relations is None else list(relations)
    missing = [name for name in wanted if name not in both]
    if missing:
        raise DataError(f"{str(source)!r} has no relation {missing[0]!r} with patterns and tuples; it has {', '.join(both)}.")
    for name in wanted:
        templates = list(dict.fromkeys(t for row in read_rows(patterns[name]) if (t := _template(row)) is not None))
        pairs = list(dict.fromkeys((row.text("sub_label"), row.text("obj_label")) for row in read_rows(tuples[name])))
        yield name, templates, pairs


def _template(row: Row) -> str | None:
    """A pattern as our template, or ``None`` when its object does not stand at the end."""
    pattern = row.text("pattern")
    if SUBJECT not in pattern or OBJECT not in pattern:
        raise DataError(f"{row.where}: field 'pattern' is {pattern!r}; it must hold {SUBJECT} and {OBJECT}.")
    head = pattern.rstrip(" .")
    if not head.endswith(OBJECT) or head.count(OBJECT) > 1:
        return None
    return head.removesuffix(OBJECT).rstrip().replace(SUBJECT, "{}")
