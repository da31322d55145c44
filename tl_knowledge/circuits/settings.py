"""How a circuit was built, as values: equal where circuits are comparable, and stored with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from tl_knowledge.errors import ComponentError, check_choice
from tl_knowledge.prompts.spans import Span
from tl_knowledge.runs.corruption import Noise, PromptSwap
from tl_knowledge.runs.metric import Metric
from tl_knowledge.runs.nodes import NodeKind

__all__ = ["CircuitSettings", "Rank", "check_words"]

Rank: TypeAlias = Literal["either", "effect", "need"]
"""Nodes rank by what they restore alone (``"effect"``), by what is lost without them (``"need"``), or by the larger of the two."""


@dataclass(frozen=True)
class CircuitSettings:
    """Everything that decides a circuit's numbers but the model, the prompt and the sites that were its candidates.

    Attributes:
        components: what could be a node.
        limit: how many candidates were looked at, at most.
        rank: what they were ranked by.
        threshold: share of the total effect below which an edge was pruned.
        metric: what effects, needs and weights are measured in.
        corrupted: the span whose embeddings were corrupted; for an edit, where it writes.
        noise: how they were corrupted, its scale a number and its seed set; ``None`` for an edit, whose other run is the unedited model's.
        samples: noise draws.
        seed: of the noise.
        answer: the tokens that were scored.
    """

    components: tuple[NodeKind, ...]
    limit: int
    rank: Rank
    threshold: float
    metric: Metric
    corrupted: Span
    noise: Noise | PromptSwap | None
    samples: int
    seed: int
    answer: tuple[int, ...]


def check_words(limit: int, rank: str, threshold: float, *, fewest: int = 1) -> None:
    """Refuse settings out of range.

    Args:
        fewest: the smallest ``limit`` that will do.

    Raises:
        ComponentError: one of them.
    """
    if limit < fewest:
        raise ComponentError(f"limit={limit} is too small; pass at least {fewest} (20 is usual).")
    check_choice("rank", rank, Rank, ComponentError)
    if not 0 <= threshold < 1:
        raise ComponentError(f"threshold {threshold} is no share of the total effect; pass a number from 0 to below 1, for example 0.02.")
