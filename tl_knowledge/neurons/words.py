"""Settings in words, for titles and headlines."""

from __future__ import annotations

__all__ = ["factor_words", "place_words"]


def place_words(at: str) -> str:
    """Where neurons are.

    Example:
        >>> place_words("subject")
        "the subject's last token"
    """
    return "the last position" if at == "last" else f"the {at}'s last token"


def factor_words(factor: float) -> str:
    """What was done to neurons.

    Example:
        >>> factor_words(0.0), factor_words(2.0)
        ('suppressed', 'times 2')
    """
    return "suppressed" if factor == 0 else f"times {factor:g}"
