"""The objective of an optimising method: that the model says the target, or no longer says it; on the plain prompt, or on a corrupted one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from tl_knowledge.door import public
from tl_knowledge.errors import InputError, check_choice
from tl_knowledge.hooks import Corruption
from tl_knowledge.runs.corruption import Noise

__all__ = ["Objective", "ObjectiveVariant"]

ObjectiveVariant: TypeAlias = Literal["ours", "hase2023"]
"""How a value is optimised:

========== ============================ ==================================== ==========================================================
variant    stops                        the loss of an erasure               noise
========== ============================ ==================================== ==========================================================
ours       where the loss is low enough ``-log(1 - p)``, ``p`` of all tokens one draw, on the subject in every context
hase2023   never: all its steps run     ``p``, the geometric mean of         a new draw at each forward, at the bare prompt's positions
                                        contexts and tokens                  in every row, that of "{subject} is a" too
========== ============================ ==================================== ==========================================================

The second line is what Hase et al.'s program does (``rome/compute_v.py``, ``memit/compute_z.py``): the counter that should stop it is set back at
every step, and an erasure by ROME moves once more after its last loss. In contexts its noise lies on other words than the subject. The draws are
one stream, in ROME first those of the keys.
"""


@public
@dataclass(frozen=True)
class Objective:
    """What is optimised; the default writes the target (Hase et al. 2023, section 5, vary it).

    Attributes:
        erase: make the target *un*likely: the loss is ``-log(1 - p(target))`` instead of ``-log p(target)``.
        noise: corrupt the subject's embeddings while keys and values are read and optimised (fact forcing).
        variant: ``"ours"``, or ``"hase2023"`` for values as Hase et al.'s program optimises them (ROME, MEMIT and their kin; fine-tuning
            knows only ``"ours"``).

    Raises:
        InputError: an unknown variant, or noise that is not drawn under ``"hase2023"``.
    """

    erase: bool = False
    noise: Corruption | None = None
    variant: ObjectiveVariant = "ours"

    def __post_init__(self) -> None:
        check_choice("variant", self.variant, ObjectiveVariant)
        if self.variant == "hase2023" and self.noise is not None and not isinstance(self.noise, Noise):
            raise InputError(f"variant='hase2023' draws new noise at each forward, but noise={self.noise!r} draws none; pass GaussianNoise(...).")

    @property
    def stops(self) -> bool:
        """Whether a low loss ends the optimisation."""
        return self.variant == "ours"

    @property
    def fresh_noise(self) -> Noise | None:
        """Noise that is drawn anew at each forward; ``None`` where there is none."""
        return self.noise if self.variant == "hase2023" and isinstance(self.noise, Noise) else None
