"""Ordinary text, for second moments and perplexity: bundled, a file, or streamed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tl_knowledge.datasets.bundled import bundled_corpus
from tl_knowledge.door import public
from tl_knowledge.errors import DataError, check_choice

__all__ = ["CORPORA", "corpus_texts", "load_corpus"]

CORPORA: dict[str, tuple[str, str] | None] = {
    "factlm": None,
    "wikipedia": ("wikimedia/wikipedia", "20231101.en"),
    "wikitext": ("Salesforce/wikitext", "wikitext-103-raw-v1"),
}
"""Corpora by name, with the data set of the Hugging Face hub and its subset."""
FEWEST_CHARACTERS = 200  # of a streamed text: headings and empty lines are no text


@public
def load_corpus(name: str = "factlm", *, limit: int | None = None) -> list[str]:
    """Paragraphs of ordinary text, for second moments and perplexity.

    Args:
        name: ``"factlm"`` (bundled: the kind of text that FactLM was trained on, and fit for no other model), or ``"wikipedia"`` or
            ``"wikitext"``, of which only what is taken is fetched.
        limit: how many to take, from the first; a streamed corpus needs it.

    Raises:
        DataError: another name, a stream without a limit, or one that cannot be fetched.

    Example:
        >>> len(load_corpus(limit=3))
        3
    """
    check_choice("corpus", name, CORPORA, DataError)
    if CORPORA[name] is not None and limit is None:
        raise DataError(f"corpus {name!r} has millions of texts; pass limit=, or stream it with corpus_texts({name!r}).")
    return list(islice(corpus_texts(name), limit))


@public
def corpus_texts(name: str) -> Iterator[str]:
    """The texts of a corpus one by one, fetched as they are read: a corpus by name, or the lines of a UTF-8 text file.

    Raises:
        DataError: neither, or what cannot be read.
    """
    if name == "factlm":
        yield from bundled_corpus()
    elif name in CORPORA:
        yield from _streamed(name)
    elif Path(name).is_file():
        yield from _lines(Path(name))
    else:
        raise DataError(f"corpus {name!r} is neither a file nor one of {', '.join(CORPORA)}; pass one of these.")


def _streamed(name: str) -> Iterator[str]:
    import datasets

    place = CORPORA[name]
    assert place is not None
    load: Any = datasets.load_dataset
    try:
        for row in load(*place, split="train", streaming=True):
            if len(row["text"]) >= FEWEST_CHARACTERS:
                yield row["text"]
    except Exception as error:  # of the hub, the network and the files, whatever is wrong with them
        raise DataError(f"corpus {name!r} cannot be fetched from {place[0]!r}: {error}; pass a text file of your own as the corpus.") from error


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for line in lines:
                if line.strip():
                    yield line.rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {str(path)!r} as text: {error}; pass a UTF-8 file with one text a line.") from error
