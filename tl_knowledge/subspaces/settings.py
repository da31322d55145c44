"""How a subspace is trained."""

from __future__ import annotations

from dataclasses import dataclass

from tl_knowledge.door import public
from tl_knowledge.errors import check_trains

__all__ = ["SubspaceSettings"]


@public
@dataclass(frozen=True)
class SubspaceSettings:
    """Settings of a subspace's training.

    Attributes:
        steps: how many updates, at most.
        learning_rate: about how far a direction turns in a step, in radians: Adam's is this over the square root of the state's size. It falls
            to 0 along half a cosine.
        batch_size: how many pairs a step reads, at most: all of one shape, since nothing is padded.
        validate_every: how many steps from one validation to the next.
        patience: validations without a better one that end the training.
        seed: of the first basis and of the batches.

    Raises:
        InputError: a number that is not positive.
    """

    steps: int = 200
    learning_rate: float = 0.5
    batch_size: int = 32
    validate_every: int = 10
    patience: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        check_trains(self, "batch_size", "validate_every", "patience")
