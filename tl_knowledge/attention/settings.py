"""How heads were analysed, as values: equal where analyses are comparable, and stored with them."""

from __future__ import annotations

from dataclasses import dataclass

from tl_knowledge.runs.corruption import Noise, PromptSwap

__all__ = ["AttentionSettings"]


@dataclass(frozen=True)
class AttentionSettings:
    """Everything that decides an analysis' numbers but the model and the prompt.

    Attributes:
        noise: how the subject and the relation were corrupted, its scale a number and its seed set.
        samples: noise draws.
        seed: of the noise.
        answer: the token that was scored.
    """

    noise: Noise | PromptSwap
    samples: int
    seed: int
    answer: tuple[int, ...]
