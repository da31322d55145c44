"""How a value is optimised, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float

from tl_knowledge.door import public
from tl_knowledge.prompts.facts import Fact

__all__ = ["Losses", "Optimised", "ValueSettings"]


@public
@dataclass(frozen=True)
class ValueSettings:
    """How a value is optimised; the defaults are ROME's.

    Attributes:
        steps: evaluations of the loss, at most.
        learning_rate: of Adam.
        kl_factor: weight of the drift of "{subject} is a".
        weight_decay: of the change's length over the squared length of the value it starts from (sic).
        clamp: the change is kept within this many lengths of that value.
        stop_below: the loss at which to stop; an objective of ``"hase2023"`` never does.
        likeliest_factor: weight of the target's loss at the step after one at which all its tokens were the likeliest in every context (PMET).
        stop_drift: at such a step, stop where ``kl_factor`` times the drift is at most this; ``None``: go on.
    """

    steps: int = 20
    learning_rate: float = 0.5
    kl_factor: float = 0.0625
    weight_decay: float = 0.5
    clamp: float = 4.0
    stop_below: float = 0.05
    likeliest_factor: float = 1.0
    stop_drift: float | None = None

    @property
    def asks_for_likeliest(self) -> bool:
        """Whether it matters that the target's tokens are the likeliest."""
        return self.likeliest_factor != 1 or self.stop_drift is not None


@dataclass(frozen=True, eq=False)
class Losses:
    """By fact, what one evaluation gives.

    Attributes:
        total: what is minimised.
        probability: of the target, mean over the contexts.
        drift: weighted by ``kl_factor``.
        likeliest: whether each of the target's tokens is the likeliest in every context; where nobody asks, no.
        essence: the essence row's log-probabilities.
    """

    total: Float[torch.Tensor, " fact"]
    probability: Float[torch.Tensor, " fact"]
    drift: Float[torch.Tensor, " fact"]
    likeliest: Bool[torch.Tensor, " fact"]
    essence: Float[torch.Tensor, "fact d_vocab"]


@dataclass(frozen=True, eq=False)
class Optimised:
    """A fact's value after the optimisation; where several sites were changed together, theirs one after the other.

    Attributes:
        start: the value before, on the bare prompt.
        delta: the change.
        losses: at every step.
        reason: why it stopped: ``"loss"``, ``"drift"`` or ``"steps"``.
        clamped: whether the change was ever cut to the clamp.
        probability: mean probability of the target over the contexts at the last step.
    """

    start: Float[torch.Tensor, " d"]
    delta: Float[torch.Tensor, " d"]
    losses: tuple[float, ...]
    reason: str
    clamped: bool
    probability: float

    @property
    def wanted(self) -> Float[torch.Tensor, " d"]:
        """The value to write, in float64."""
        return self.start.double() + self.delta.double()

    def on(self, device: torch.device) -> Optimised:
        """The same on a device."""
        return replace(self, start=self.start.to(device), delta=self.delta.to(device))

    def notes(self, fact: Fact) -> dict[str, Any]:
        """As plain data, with the fact it is for."""
        return {
            "losses": list(self.losses),
            "stopped": self.reason,
            "clamped": self.clamped,
            "target_probability": self.probability,
            "start_norm": float(self.start.norm()),
            "delta_norm": float(self.delta.norm()),
            "subject": fact.subject,
            "target": fact.target,
        }
