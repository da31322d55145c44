"""What a sweep of layers is asked: its words, and its settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from tl_knowledge.localised.problems import EditingProblem
from tl_knowledge.runs.corruption import Noise
from tl_knowledge.runs.metric import PROBABILITY, Metric

__all__ = ["OUTCOMES", "Outcome", "SweepSettings", "SweepVariant", "in_words"]

SweepVariant: TypeAlias = Literal["ours", "hase2023"]
"""How a sweep is made, and how it is summed up:

========== =========================== ======================================= ===================================================
variant    tracing effect              scores                                  regression on layer and tracing together
========== =========================== ======================================= ===================================================
ours       between 0 and 1             over all prompts of a kind, not clipped one slope on the tracing effect
hase2023   at least 0, without a cap   the first prompt's, at least 2e-8       a slope on the tracing effect in each layer
========== =========================== ======================================= ===================================================

The cap at 1 is ours: where the corruption hardly lowers the answer's probability, one restored layer can give it back many times over, and a few such
facts decide a fit. A slope in each layer asks whether tracing tells anything in any layer; one slope, whether it tells the same in all. A sweep of
``"hase2023"`` also optimises as the program does (`tl_knowledge.editing.ObjectiveVariant`), draws its stream of noise, and normalises by the size of
the corruption's effect, whichever way it went.
"""

Outcome: TypeAlias = Literal["rewrite", "paraphrase", "neighbourhood", "overall"]
"""Which score of an edit: on the fact's own prompt, on its paraphrases, on its neighbours, or the mean of the three."""

OUTCOMES: dict[Outcome, str] = {"rewrite": "score", "paraphrase": "paraphrase", "neighbourhood": "neighbourhood", "overall": "overall"}
"""A sweep's columns by outcome."""


@dataclass(frozen=True)
class SweepSettings:
    """What a sweep did in every layer.

    Attributes:
        method: the editing method's name, with the number of its layers where they are several.
        problem: which of the five.
        layers: the layers that were edited and traced.
        noise: of the corruption; a rule, a standard deviation, or settings.
        samples: noise draws.
        window: layers restored together.
        seed: of noise that has no seed of its own.
        variant: whose objectives, tracing effects and scores.
        metric: what tracing effects are measured in.
    """

    method: str
    problem: EditingProblem
    layers: tuple[int, ...]
    noise: Noise | float | str | None = None
    samples: int = 10
    window: int = 5
    seed: int = 0
    variant: SweepVariant = "ours"
    metric: Metric = PROBABILITY


def in_words(name: str) -> str:
    """A problem's name as text.

    Example:
        >>> in_words("fact_erasure")
        'fact erasure'
    """
    return name.replace("_", " ")
