"""Types and values for people."""

from __future__ import annotations

import reprlib
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from tl_knowledge.door.types import members

__all__ = ["in_words", "kind_of", "shown"]


def in_words(hint: Any) -> str:
    """A type for people.

    Example:
        >>> in_words(int | tuple[str, ...] | None)
        'an int, a tuple of str, or None'
    """
    words = list(dict.fromkeys(_one_in_words(member) for member in members(hint)))
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])}{',' * (len(words) > 2)} or {words[-1]}"


def _one_in_words(hint: Any) -> str:
    if hint is NoneType:
        return "None"
    origin, parts = get_origin(hint), [part for part in get_args(hint) if part is not Ellipsis]
    if origin is Literal:
        return "one of " + ", ".join(map(repr, parts))
    if origin is not None and parts:
        name = str(getattr(origin, "__name__", origin)).lower()
        inner = ", ".join(str(getattr(part, "__name__", part)) for part in parts)
        return f"{_article(name)} of {inner}"
    return _article(str(getattr(hint, "__name__", hint)))


def _article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def kind_of(value: Any) -> str:
    """A value's class for people.

    Example:
        >>> kind_of(3)
        'an int'
    """
    return _article(type(value).__name__)


def shown(value: Any) -> str:
    """A value in short; some cannot show themselves."""
    try:
        return reprlib.repr(value)
    except Exception:  # whatever an object's own repr raises
        return object.__repr__(value)
