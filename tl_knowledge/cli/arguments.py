"""Arguments that several commands read in the same way."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import tl_knowledge as tlk
from tl_knowledge.errors import ComponentError, CorruptionError, DataError, InputError
from tl_knowledge.prompts.spans import template_of

__all__ = [
    "corpus_argument",
    "facts_argument",
    "model_argument",
    "noise_argument",
    "quiet_libraries",
    "template_argument",
    "window_argument",
    "words_argument",
]


def quiet_libraries() -> None:
    """Keep transformers from announcing what it loads; importing it sets its own level, so this comes just before a model is loaded."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)


def model_argument(name: str) -> tlk.HookedModel:
    """The model by name or directory, loaded."""
    quiet_libraries()
    return tlk.load_model(name)


def template_argument(prompt: str, subject: str) -> str:
    """A fact's template from its prompt and subject.

    Raises:
        InputError: the subject does not stand in the prompt exactly once.
    """
    template = template_of(prompt, subject) if subject and subject in prompt else ""
    if template.count("{}") != 1:
        raise InputError(f"subject {subject!r} stands {template.count('{}')} times in {prompt!r}; pass a prompt that names it once.")
    return template


def facts_argument(dataset: str, source: str | None, relations: list[str] | None) -> list[tlk.Fact]:
    """The facts of a data set, or of some of its relations.

    Raises:
        DataError: a data set that cannot be read, or a relation that no fact has.
    """
    facts = tlk.load_facts(dataset, source)
    return tlk.datasets.of_relation(facts, *relations) if relations else facts


def noise_argument(text: str) -> float | str:
    """A standard deviation: a number, or a rule such as ``3sd``.

    Raises:
        CorruptionError: neither.
    """
    try:
        return float(text)
    except ValueError:
        if not re.fullmatch(r"\d+(\.\d+)?\s*sd", text):
            raise CorruptionError(f"noise {text!r} is not understood; pass a number, or '3sd' for 3 sd of the embeddings.") from None
        return text


def window_argument(text: str) -> Any:
    """A number of layers, or ``auto``.

    Raises:
        ComponentError: neither.
    """
    if text == "auto":
        return text
    if not text.isdigit() or int(text) < 1:
        raise ComponentError(f"window {text!r} is no number of layers; pass a number, or 'auto'.")
    return int(text)


def words_argument(words: list[str] | None, default: tuple[str, ...]) -> Any:
    """A repeatable option's words, or the default."""
    return tuple(words) if words else default


def corpus_argument(path: Path | None) -> list[str]:
    """A text file's lines, or the bundled corpus.

    Raises:
        DataError: the file cannot be read.
    """
    if path is None:
        return tlk.load_corpus()
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {str(path)!r} as text: {error}; pass a UTF-8 file with one text a line.") from error
