"""How states were decoded, as values."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["IDENTITY_PROMPT", "DecodingSettings", "short"]

IDENTITY_PROMPT = "cat -> cat; 1135 -> 1135; hello -> hello; ?"
"""The target prompt of Ghandeharioun et al. (2024), section 4.1: it has the model say again what stands at its last token."""


@dataclass(frozen=True)
class DecodingSettings:
    """Everything that decides what states are decoded to, but the model and the prompt they are from.

    Attributes:
        into: the prompt in which they are decoded, as text; its tokens where it has none.
        tokens: its tokens.
        at: where in it they are written.
        into_layer: after which layer; ``None`` is each state's own.
        through: what they pass through first; nothing where it is empty.
        length: how many tokens were written after it; ``None`` is none.
    """

    into: str
    tokens: tuple[int, ...]
    at: int
    into_layer: int | None
    through: str
    length: int | None


def short(text: str) -> str:
    """A prompt for a figure's subtitle.

    Example:
        >>> short("The capital of x is")
        'The capital of x is'
    """
    return text if len(text) <= 48 else f"{text[:46]} …"
