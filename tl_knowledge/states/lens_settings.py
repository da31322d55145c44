"""How a tuned lens is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from tl_knowledge.door import public
from tl_knowledge.errors import check_choice, check_trains

__all__ = ["LensOptimiser", "LensSettings", "learning_rate"]

LensOptimiser: TypeAlias = Literal["sgd", "adam"]

MOMENTUM = 0.9
MOST_WARM_UP = 1000


@public
@dataclass(frozen=True)
class LensSettings:
    """Settings of a tuned lens' training; the defaults are those of Belrose et al. (2023) and their program, but for the size of a step.

    Attributes:
        steps: how many updates.
        optimiser: ``"sgd"`` with Nesterov's momentum 0.9, or ``"adam"`` (AMSGrad), warmed up for a fifth of the steps, 1,000 at most.
        learning_rate: of ``"sgd"`` in units of 0.1 (which momentum makes 1), of ``"adam"`` in units of 0.001, as in their program; it falls
            linearly to 0.
        weight_decay: of the translators' distance from the identity.
        clip: the largest norm of a step's gradient.
        batch_size: how many texts a step reads. (Theirs are 2**18 tokens.)
        text_tokens: how many tokens of a text, from the first.
        validate_every: how many steps from one validation to the next; there the state is stored, too.
        seed: of the texts that are drawn.

    Raises:
        InputError: a number that is not positive, or an unknown optimiser.
    """

    steps: int = 250
    optimiser: LensOptimiser = "sgd"
    learning_rate: float = 1.0
    weight_decay: float = 1e-3
    clip: float = 1.0
    batch_size: int = 64
    text_tokens: int = 2048
    validate_every: int = 25
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("optimiser", self.optimiser, LensOptimiser)
        check_trains(self, "batch_size", "text_tokens", "validate_every", "clip")

    @property
    def base_rate(self) -> float:
        """The learning rate that the optimiser begins with."""
        return self.learning_rate * (1 - MOMENTUM) if self.optimiser == "sgd" else self.learning_rate * 1e-3


def learning_rate(settings: LensSettings, step: int) -> float:
    """The learning rate of a step, counted from 1.

    Example:
        >>> settings = LensSettings(steps=4)
        >>> [round(learning_rate(settings, step), 3) for step in (1, 2, 3, 4)]
        [0.1, 0.075, 0.05, 0.025]
    """
    warm_up = min(MOST_WARM_UP, settings.steps // 5) if settings.optimiser == "adam" else 0
    share = step / warm_up if step <= warm_up else (settings.steps - step + 1) / (settings.steps - warm_up)
    return settings.base_rate * share
