"""How a relation's map was estimated, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["BETAS", "EXAMPLES", "PUBLISHED", "RANKS", "RelationMapSettings"]

EXAMPLES = 8
"""From how many facts Hernandez et al. (2024, section 4) estimate a map."""

BETAS = tuple(0.25 * step for step in range(1, 33))
"""What a map's strength is chosen from where none is given."""

RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""What the rank of a map's inverse is chosen from where none is given."""


@dataclass(frozen=True)
class RelationMapSettings:
    """Everything that decides a map's numbers but the model and the facts.

    Attributes:
        layer: the block whose output at the subject's last token is mapped.
        beta: what the mapped state is multiplied by before the bias is added.
        rank: how many of the map's directions are inverted in an edit.
        separator: between the statements of a prompt.
    """

    layer: int
    beta: float
    rank: int
    separator: str = ".\n"


PUBLISHED: Mapping[str, RelationMapSettings] = {"gpt-j-6b": RelationMapSettings(layer=5, beta=2.5, rank=100, separator="\n")}
"""The demonstration of Hernandez et al.'s program, by model; other models, and other relations than its own, are swept on the facts given."""
