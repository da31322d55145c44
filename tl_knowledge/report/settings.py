"""What a report was made with, as values: equal where reports are comparable."""

from __future__ import annotations

from dataclasses import dataclass

from tl_knowledge.door import public

__all__ = ["ReportSettings"]


@public
@dataclass(frozen=True)
class ReportSettings:
    """What decides a report's numbers but the model, the fact and the edit.

    Attributes:
        limit: sites of a circuit, at most.
        samples: noise draws.
        seed: of the noise.
        threshold: what share of the largest score a neuron must reach.
        shared_by: in more than what share of the wordings.
    """

    limit: int
    samples: int
    seed: int
    threshold: float = 0.2
    shared_by: float = 0.5
