"""Attributes of elements whose names have a dash in them."""

from __future__ import annotations

from typing import Any

__all__ = ["attributes"]


def attributes(**values: str) -> dict[str, Any]:
    """``data-`` and ``aria-`` attributes of an element, dashes written as underscores.

    Example:
        >>> attributes(aria_label="tokens of the prompt")
        {'aria-label': 'tokens of the prompt'}
    """
    return {name.replace("_", "-"): value for name, value in values.items()}
