"""How an editor is trained."""

from __future__ import annotations

from dataclasses import dataclass

from tl_knowledge.door import public
from tl_knowledge.errors import InputError, check_trains

__all__ = ["TrainingSettings"]


@public
@dataclass(frozen=True)
class TrainingSettings:
    """Settings of the outer training; the defaults are those of Mitchell et al. (2022), with EasyEdit's number of steps.

    A step is ``batch_size`` times one edit and one unrelated text, and the mean of::

        loss = edit_weight * NLL(target | the edited prompt or a paraphrase) + kl_factor * mean over the text's tokens of KL(before || after)

    `SERAC` has another second term: the KL of what is in an edit's scope to what it takes for it.

    Attributes:
        steps: at most.
        learning_rate: of Adam.
        batch_size: how many edits a step.
        accumulate: how many steps' gradients are added up for one update.
        clip: the largest norm of such a sum.
        edit_weight, kl_factor: of the loss.
        validate_every: how many steps from one validation to the next; there the state is stored, too.
        validation_samples: edits of a validation, at most.
        patience: how many steps without a better validation loss end the training.
        texts: how many texts of the corpus are used, from the first.
        text_tokens: how many tokens of a text, from the first.
        seed: of the networks' first weights and of every draw.

    Raises:
        InputError: a number that is not positive.
    """

    steps: int = 100_000
    learning_rate: float = 1e-6
    batch_size: int = 1
    accumulate: int = 10
    clip: float = 100.0
    edit_weight: float = 0.1
    kl_factor: float = 1.0
    validate_every: int = 5_000
    validation_samples: int = 500
    patience: int = 20_000
    texts: int = 10_000
    text_tokens: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        check_trains(self, "batch_size", "accumulate", "validate_every", "validation_samples", "patience", "texts", "clip", "edit_weight")
        if self.text_tokens < 2:
            raise InputError(f"text_tokens={self.text_tokens} is no text; pass at least 2.")

    def check_whole_updates(self) -> None:
        """Refuse steps that leave an update half-way; not before a training, so that one may set them one after the other.

        Raises:
            InputError: ``steps`` or ``validate_every`` is no multiple of ``accumulate``.
        """
        for name in ("steps", "validate_every"):
            if getattr(self, name) % self.accumulate:
                raise InputError(
                    f"{name}={getattr(self, name)} leaves an update of accumulate={self.accumulate} steps half-way; pass a multiple of it."
                )
