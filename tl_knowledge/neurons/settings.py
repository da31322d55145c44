"""Settings of attribution and location as values: every result carries its own, equal settings are equal, and a saved file has them in full."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from tl_knowledge.errors import InputError, check_choice
from tl_knowledge.neurons.words import place_words
from tl_knowledge.runs.metric import PROBABILITY, Metric
from tl_knowledge.wording import counted

__all__ = [
    "BEFORE_NONLINEARITY",
    "Adaptation",
    "AttributionMethod",
    "AttributionSettings",
    "AttributionVariant",
    "LocationSettings",
    "ThresholdKind",
    "check_selection",
]

AttributionMethod: TypeAlias = Literal["integrated_gradients", "gradient_x_activation", "activation"]

AttributionVariant: TypeAlias = Literal["ours", "dai2022", "eleutherai2022", "niu2024", "wen_bai"]
"""Where the path's points lie, and which activation is scaled:

================== ===================== ================================================== =====================================
variant            alpha                 activation                                         targets of several tokens
================== ===================== ================================================== =====================================
``ours``           ``k/m, k = 1 .. m``   after the non-linearity (``hook_post``)            the target's tokens appended, summed
``dai2022``        ``k/m, k = 0 .. m-1`` after                                              as ours (the program takes none)
``eleutherai2022`` ``linspace(0, 1, m)`` before it (``hook_pre``; the gate of gated MLPs),  the model's own tokens appended, mean
                                         in masked models after it
``niu2024``        as above              as above                                           as above
``wen_bai``        as above              as above                                           the target's tokens appended, mean
================== ===================== ================================================== =====================================
"""

BEFORE_NONLINEARITY: tuple[AttributionVariant, ...] = ("eleutherai2022", "niu2024", "wen_bai")
"""The variants of EleutherAI's program, which hooks the output of the MLP's first matrix."""

ThresholdKind: TypeAlias = Literal["max", "absolute", "quantile"]
"""A share of the prompt's largest score; a score; or the quantile of the prompt's scores that must be reached."""

Adaptation: TypeAlias = Literal["no", "group", "relation"]
"""Whether the share moves until the number of neurons fits: never, for each group by itself, or for a relation's mean (Dai et al. 2022)."""


@dataclass(frozen=True)
class AttributionSettings:
    """How neurons are scored.

    Attributes:
        method: integrated gradients, gradient times activation, or the activation alone.
        variant: where the path's points lie, and which activation is scaled.
        at: the span at whose last token the neurons are.
        steps: points of the path.
        multi_token: whether all of the target's tokens are scored.
        baseline: where the path starts: ``"zero"``, or ``"activations"`` with a fingerprint of them.
        metric: whose gradients are taken.

    Raises:
        InputError: an unknown method or variant, a path of no points, or a metric without gradients, or for activations.

    Example:
        >>> str(AttributionSettings(at="subject"))
        "integrated gradients at the subject's last token (ours, 20 steps)"
    """

    method: AttributionMethod = "integrated_gradients"
    variant: AttributionVariant = "ours"
    at: str = "last"
    steps: int = 20
    multi_token: bool = False
    baseline: str = "zero"
    metric: Metric = PROBABILITY

    def __post_init__(self) -> None:
        check_choice("method", self.method, AttributionMethod)
        check_choice("variant", self.variant, AttributionVariant)
        if self.steps < 1:
            raise InputError(f"steps={self.steps} makes no path; pass at least 1 (20 is usual).")
        self.metric.check_differentiable("attribution")
        if self.method == "activation" and self.metric != PROBABILITY:
            raise InputError(f"method='activation' takes no gradient, so that metric={self.metric} would change nothing; leave it out.")

    def __str__(self) -> str:
        path = f", {counted(self.steps, 'step')}" if self.method == "integrated_gradients" else ""
        return f"{self.method.replace('_', ' ')} at {place_words(self.at)} ({self.variant}{path}){self.metric.remark}"


@dataclass(frozen=True)
class LocationSettings:
    """How a group's neurons are selected from the scores of its prompts.

    Attributes:
        attribution: how they were scored.
        threshold: of each prompt's coarse set.
        kind: what the threshold is a share of.
        shared_by: in more than what share of the prompts a neuron must be.
        adapt: whether that share moves until the count fits ``mean_count``.
        mean_count: how many neurons should be left.

    Raises:
        InputError: settings that select nothing or everything.

    Example:
        >>> LocationSettings(threshold=0.3) == LocationSettings(threshold=0.3)
        True
    """

    attribution: AttributionSettings = field(default_factory=AttributionSettings)
    threshold: float = 0.2
    kind: ThresholdKind = "max"
    shared_by: float = 0.5
    adapt: Adaptation = "no"
    mean_count: tuple[float, float] = (2.0, 5.0)

    def __post_init__(self) -> None:
        check_choice("adapt", self.adapt, Adaptation)
        check_selection(self.threshold, self.kind, self.shared_by, self.mean_count)

    def __str__(self) -> str:
        return f"{self.attribution}; neurons above {self.threshold:g} ({self.kind}) in more than {self.shared_by:g} of a group's prompts"


def check_selection(threshold: float, kind: str, shared_by: float = 1.0, mean_count: tuple[float, float] = (0.0, 0.0)) -> None:
    """Refuse settings that select nothing or everything.

    Raises:
        InputError: a threshold or share outside (0, 1], an unknown kind, or an empty range.
    """
    check_choice("kind", kind, ThresholdKind)
    if threshold <= 0 or (threshold > 1 and kind != "absolute"):
        raise InputError(f"threshold={threshold} does not fit kind {kind!r}; pass a number in (0, 1], or a positive score with kind='absolute'.")
    if not 0 < shared_by <= 1:
        raise InputError(f"shared_by={shared_by} is no share of the prompts; pass a number in (0, 1], usually 0.5.")
    if not 0 <= mean_count[0] <= mean_count[1]:
        raise InputError(f"mean_count={mean_count} is no range of counts; pass an ascending pair, usually (2, 5).")
