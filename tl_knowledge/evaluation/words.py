"""How a text is split into words, and the entropy of its n-grams."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, TypeAlias

import numpy as np

from tl_knowledge.errors import InputError, check_choice

__all__ = ["GenerationVariant", "check_splitting", "ngram_entropy", "split_words"]

GenerationVariant: TypeAlias = Literal["ours", "meng2022_code"]
"""``"ours"``: lower-cased words and single marks. ``"meng2022_code"``: nltk's ``word_tokenize`` (English Punkt sentences, then Penn Treebank
words), as written."""

WEIGHTS = ((2, 2 / 3), (3, 4 / 3))
NEEDED = ("nltk", "punkt")


def check_splitting(variant: GenerationVariant) -> None:
    """Refuse a variant whose libraries are not there, before anything is computed.

    Raises:
        InputError: an unknown variant, or no nltk.
    """
    check_choice("variant", variant, GenerationVariant)
    missing = [name for name in NEEDED if find_spec(name) is None] if variant == "meng2022_code" else []
    if missing:
        raise InputError(f"variant='meng2022_code' splits words with nltk, and there is no {missing[0]}; pip install 'tl-knowledge[nltk]'.")


def split_words(text: str, variant: GenerationVariant = "ours") -> list[str]:
    """A text's words and marks.

    Example:
        >>> split_words("Don't stop. It's 3.5%!")
        ['don', "'", 't', 'stop', '.', 'it', "'", 's', '3', '.', '5', '%', '!']
    """
    check_splitting(variant)
    if variant == "ours":
        return re.findall(r"\w+|[^\w\s]", text.lower())
    sentences, words = _nltk_tokenizers()
    return [word for sentence in sentences.tokenize(text) for word in words.tokenize(sentence)]


@cache
def _nltk_tokenizers() -> tuple[Any, Any]:
    """What nltk's ``word_tokenize`` uses; its English Punkt model comes from a package instead of nltk's download."""
    splitting, model = import_module("nltk.tokenize.punkt"), import_module("punkt").load_model("english")
    parameters = splitting.PunktParameters()
    parameters.abbrev_types, parameters.collocations = set(model.abbrev_types), set(model.collocations)
    parameters.sent_starters = set(model.sent_starters)
    parameters.ortho_context.update(model.ortho_context)
    return splitting.PunktSentenceTokenizer(parameters), import_module("nltk.tokenize.destructive").NLTKWordTokenizer()


def ngram_entropy(text: str, variant: GenerationVariant = "ours") -> float:
    """Weighted mean of the entropies of a text's bigrams and trigrams, in bits.

    Example:
        >>> round(ngram_entropy("a b a b a b a b"), 3), round(ngram_entropy("one two three four five six"), 3)
        (0.995, 2.107)
    """
    words = split_words(text, variant)
    total = 0.0
    for n, weight in WEIGHTS:
        counts = np.array(list(Counter(zip(*(words[k:] for k in range(n)), strict=False)).values()), dtype=float)
        shares = counts / counts.sum() if len(counts) else np.ones(1)
        total += weight * float(-(shares * np.log2(shares)).sum()) / len(WEIGHTS)
    return total
