"""BLiMP (Warstadt et al. 2020): minimal pairs of English grammar, 67 paradigms of 1,000 pairs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

from tl_knowledge.datasets.records import Row, Source, files_in, read_rows
from tl_knowledge.door import public
from tl_knowledge.prompts.facts import MinimalPair

__all__ = ["BLIMP_HUB", "BLIMP_SAMPLE", "load_blimp"]

BLIMP_HUB = "nyu-mll/blimp"

BLIMP_SAMPLE = Path(__file__).parent / "blimp_sample"
"""The first 100 pairs of five determiner-noun paradigms, which come with the package."""


@public
def load_blimp(source: Source = BLIMP_HUB, *, paradigm: str | None = None, limit: int | None = None, split: str = "train") -> list[MinimalPair]:
    """Minimal pairs of one paradigm.

    Args:
        source: the paradigm's ``.jsonl`` file, a folder of such files (`BLIMP_SAMPLE`), or a hub data set with one subset a paradigm.
        paradigm: BLiMP's ``UID``, for example ``"determiner_noun_agreement_1"``; pairs of other paradigms in the source are left out. May
            be ``None`` for a file or folder, to take all of it.
        limit: how many to take, from the first.
        split: of a hub data set.

    Example:
        >>> pair = load_blimp(BLIMP_SAMPLE, paradigm="determiner_noun_agreement_1")[0]
        >>> pair.prefix, pair.word_good, pair.word_bad
        ('Raymond is selling this', 'sketch', 'sketches')

    Raises:
        DataError: the source cannot be read, or a record is malformed (file, line, field).
    """
    pairs = (_pair(row) for row in _rows(source, paradigm, split))
    return list(islice((pair for pair in pairs if paradigm in (None, pair.paradigm)), limit))


def _rows(source: Source, paradigm: str | None, split: str) -> Iterator[Row]:
    if Path(source).is_dir() and any(Path(source).glob("*.jsonl*")):
        return chain.from_iterable(map(read_rows, files_in(source, f"{paradigm or '*'}.jsonl*")))
    return read_rows(source, subset=paradigm, split=split)


def _pair(row: Row) -> MinimalPair:
    prefix, good, bad = (row.optional_text(f"one_prefix_{name}") or "" for name in ("prefix", "word_good", "word_bad"))
    first, second, word = (row.optional_text(f"two_prefix_{name}") or "" for name in ("prefix_good", "prefix_bad", "word"))
    if not prefix and first and second and word:
        prefix, good, bad = first, word, word
    else:
        second = ""
    term = row.optional_text("linguistics_term") or ""
    return MinimalPair(row.text("sentence_good"), row.text("sentence_bad"), row.text("UID"), term, prefix, good, bad, second)
