"""The objective of an optimising method: that the model says the target, or no longer says it; on the plain prompt, or on a corrupted one."""

from __future__ import annotations

from dataclasses import dataclass

from tl_knowledge.door import public
from tl_knowledge.hooks import Corruption

__all__ = ["Objective"]


@public
@dataclass(frozen=True)
class Objective:
    """What is optimised; the default writes the target (Hase et al. 2023, section 5, vary both).

    Attributes:
        erase: make the target *un*likely: the loss is ``-log(1 - p(target))`` instead of ``-log p(target)``.
        noise: corrupt the subject's embeddings while keys and values are read and optimised (fact forcing).
    """

    erase: bool = False
    noise: Corruption | None = None
