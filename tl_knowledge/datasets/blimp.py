"""BLiMP (Warstadt et al. 2020): minimal pairs of English grammar, 67 paradigms of 1,000 pairs."""

from __future__ import annotations

from itertools import islice

from tl_knowledge.datasets.rows import Row, Source, read_rows
from tl_knowledge.facts import MinimalPair

__all__ = ["BLIMP_HUB", "load_blimp"]

BLIMP_HUB = "nyu-mll/blimp"


def load_blimp(paradigm: str | None = None, source: Source = BLIMP_HUB, *, limit: int | None = None) -> list[MinimalPair]:
    """Minimal pairs of one paradigm.

    Args:
        paradigm: BLiMP's ``UID``, for example ``"determiner_noun_agreement_1"``; pairs of other paradigms in the source are left out. May
            be ``None`` for a file, to take all of it.
        source: the paradigm's ``.jsonl`` file, or a hub data set with one subset a paradigm.
        limit: how many to take, from the first.

    Raises:
        DataError: the source cannot be read, or a record is malformed (file, line, field).
    """
    pairs = (_pair(row) for row in read_rows(source, subset=paradigm))
    return list(islice((pair for pair in pairs if paradigm in (None, pair.paradigm)), limit))


def _pair(row: Row) -> MinimalPair:
    prefix, good, bad = (row.optional_text(f"one_prefix_{name}") or "" for name in ("prefix", "word_good", "word_bad"))
    term = row.optional_text("linguistics_term") or ""
    return MinimalPair(row.text("sentence_good"), row.text("sentence_bad"), row.text("UID"), term, prefix, good, bad)
