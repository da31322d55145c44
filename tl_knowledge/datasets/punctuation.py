"""Sentences by the mark that ends them (Wen and Bai, section 5.5: 200 sentences for each of five marks)."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tl_knowledge.datasets.corpora import load_corpus
from tl_knowledge.datasets.records import Source
from tl_knowledge.door import public
from tl_knowledge.errors import DataError, InputError

__all__ = ["MARKS", "load_punctuation"]

MARKS = (".", ",", "!", "?", ";")
"""The marks of Wen and Bai, table 2."""

SENTENCES_A_MARK = 200


@public
def load_punctuation(source: Source | None = None, *, marks: str | Sequence[str] = MARKS, limit: int = SENTENCES_A_MARK) -> list[str]:
    """The first sentences that end in each of some marks, for `punctuation_groups`: mark by mark, each in the order of the source.

    Wen and Bai's program takes the lines of a punctuation corpus (English-OPUS) as they stand; any text with a sentence or clause a line will do.

    Args:
        source: a text file, gzipped or not, in which every line counts as a sentence; the sentences of the bundled corpus when ``None``.
        marks: which, one character each.
        limit: how many sentences of a mark, fewer where there are not so many.

    Raises:
        DataError: a file that cannot be read, or a mark that no sentence ends in. (In the bundled corpus none ends in "," or ";".)
        InputError: no mark, a mark of several characters, or a limit below 1.

    Example:
        >>> [sentence[-1] for sentence in load_punctuation(marks=".?", limit=2)]
        ['.', '.', '?', '?']
    """
    wanted = list(dict.fromkeys(marks))
    if not wanted or any(len(mark) != 1 for mark in wanted) or limit < 1:
        raise InputError(f"marks={marks!r}, limit={limit} ask for no sentence; pass marks of one character each, and a limit of at least 1.")
    found: dict[str, list[str]] = {mark: [] for mark in wanted}
    for line in _sentences() if source is None else _lines(source):
        sentence = line.strip()
        if len(sentence) > 1 and len(some := found.get(sentence[-1], [sentence] * limit)) < limit:
            some.append(sentence)
    missing = [mark for mark in wanted if not found[mark]]
    if missing:
        where = "the bundled corpus" if source is None else repr(str(source))
        there = "".join(mark for mark in wanted if found[mark])
        remedy = f"pass marks={there!r}, or another source" if there else "pass a text with a sentence a line"
        raise DataError(f"{where} has no sentence that ends in {' '.join(missing)}; {remedy}.")
    return [sentence for mark in wanted for sentence in found[mark]]


def _sentences() -> Iterator[str]:
    """The bundled corpus' paragraphs, cut after full stops, exclamation and question marks."""
    return (sentence for paragraph in load_corpus() for sentence in re.split(r"(?<=[.!?])\s+", paragraph))


def _lines(source: Source) -> Iterable[str]:
    path = Path(source)
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return data.decode("utf-8").splitlines()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {str(source)!r} as text: {error}; pass a UTF-8 text file with a sentence a line.") from error
