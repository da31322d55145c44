"""Arguments that several commands parse in the same way."""

from __future__ import annotations

from typing import Any

from tl_knowledge.errors import ComponentError, InputError

__all__ = ["noise_argument", "template_argument", "window_argument", "words_argument"]


def template_argument(prompt: str, subject: str) -> str:
    """A fact's template from its prompt and subject.

    Raises:
        InputError: the subject does not stand in the prompt exactly once.
    """
    if not subject or prompt.count(subject) != 1:
        raise InputError(f"subject {subject!r} stands {prompt.count(subject)} times in {prompt!r}; pass a prompt that names it once.")
    return prompt.replace(subject, "{}")


def noise_argument(text: str) -> float | str:
    """A standard deviation: a number, or a rule such as ``3sd``."""
    try:
        return float(text)
    except ValueError:
        return text


def window_argument(text: str) -> Any:
    """A number of layers, or ``auto``."""
    if text == "auto":
        return text
    if not text.isdigit():
        raise ComponentError(f"window {text!r} is no number of layers; pass a number, or 'auto'.")
    return int(text)


def words_argument(words: list[str] | None, default: tuple[str, ...]) -> Any:
    """A repeatable option's words, or the default; the library refuses unknown words with a list of the known."""
    return tuple(words) if words else default
