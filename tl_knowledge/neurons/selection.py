"""From scores to neurons: a coarse set for each prompt, and what the prompts of one fact share (Dai et al. 2022, section 3.3).

The programs refine in different ways, and a `variant` that names one does as it does:

================== ==================== ============================== ======= =====================================
variant            coarse: score        refined: in how many prompts   tries   share
================== ==================== ============================== ======= =====================================
``ours``           ``>= threshold``     ``> share n``, or all          20      exact decimals, kept in (0, 1]
``dai2022``        ``>= threshold``     ``>= max(share n, 3)``         6       floating point, not kept in any range
``eleutherai2022`` ``> threshold``      ``> share n``                  20      floating point, not kept in any range
``wen_bai``        ``> threshold``      ``> share n``                  20      as above
``niu2024``        ``> threshold``      ``> share n``                  20      as above, and reported after its last move
================== ==================== ============================== ======= =====================================

(EleutherAI's program and Wen and Bai's do not move the share; where they are asked to, it is moved as Niu et al.'s.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import torch

from tl_knowledge.door import public
from tl_knowledge.errors import InputError, check_choice, check_given
from tl_knowledge.neurons.neuron_set import Neuron, NeuronSet
from tl_knowledge.neurons.result import NeuronAttribution
from tl_knowledge.neurons.settings import BEFORE_NONLINEARITY, AttributionVariant, ThresholdKind, check_selection

__all__ = [
    "CoarseCounts",
    "adapt_sharing",
    "adapted_sharing",
    "coarse_neurons",
    "neurons_of_relation",
    "select_neurons",
    "shared_neurons",
]

SHARING_STEP = 0.05


@dataclass(frozen=True)
class _Rule:
    """How a program refines; see the table above."""

    strict: bool = True
    fewest: int = 0
    tries: int = 20
    exact: bool = False
    moved_last: bool = False

    def keeps(self, count: int, total: int, share: float) -> bool:
        """Whether a neuron in ``count`` of ``total`` sets is kept."""
        if self.exact:  # 0.29 of 100 sets are 29, which floating point makes 28.999999999999996
            return count > Fraction(str(float(share))) * total or count == total
        least = max(total * share, self.fewest)
        return count > least if self.strict else count >= least

    def moved(self, share: float, step: float) -> float | None:
        """The next share, ``None`` where there is none."""
        if not self.exact:
            return share + step
        moved = round(share + step, 10)
        return moved if 0 < moved <= 1 else None


_RULES: dict[str, _Rule] = {
    "ours": _Rule(exact=True),
    "dai2022": _Rule(strict=False, fewest=3, tries=6),
    "eleutherai2022": _Rule(),
    "niu2024": _Rule(moved_last=True),
    "wen_bai": _Rule(),
}


@public
def select_neurons(scores: NeuronAttribution, *, threshold: float = 0.2, kind: ThresholdKind = "max", shared_by: float = 0.5) -> NeuronSet:
    """The neurons that more than a share of a fact's prompts have in common, by the rule of the scores' variant.

    Args:
        scores: attributions of the paraphrases of one fact.
        threshold: of the coarse sets; 0.2 of the maximum (Dai et al. 2022), 0.3 (Wen and Bai).
        kind: what the threshold is a part of.
        shared_by: neurons in *more* than this share of the coarse sets are kept; 1 keeps those in all of them. Dai et al. (2022) start at 0.7;
            their program, and so ``"dai2022"``, keeps neurons in *at least* this share, and in three sets or more. One prompt has nothing to
            share with: its coarse set is taken.

    Raises:
        InputError: a threshold or share outside (0, 1] (an absolute threshold may be any positive number).

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> scores = tlk.attribute_neurons(model, tlk.paraphrases(model, tlk.load_facts("factlm")[0]), steps=5)
        >>> neurons = tlk.select_neurons(scores, threshold=0.2, shared_by=0.7)
        >>> 0 < len(neurons) < 100
        True
    """
    check_selection(threshold, kind, shared_by)
    sets = coarse_neurons(scores, threshold=threshold, kind=kind)
    return sets[0] if len(sets) == 1 else shared_neurons(sets, shared_by=shared_by, variant=scores.settings.variant)


@public
def coarse_neurons(scores: NeuronAttribution, *, threshold: float = 0.2, kind: ThresholdKind = "max") -> list[NeuronSet]:
    """For each prompt the neurons whose score reaches the threshold; under the variants of EleutherAI's program, those above it.

    Raises:
        InputError: as `select_neurons`.
    """
    check_selection(threshold, kind)
    above = scores.settings.variant in BEFORE_NONLINEARITY
    return [_reaching(scores, prompt, threshold, kind, above=above) for prompt in scores.scores]


def _reaching(scores: NeuronAttribution, prompt: torch.Tensor, threshold: float, kind: ThresholdKind, *, above: bool) -> NeuronSet:
    """One prompt's neurons, from its scores ``[layer d_mlp]``."""
    if kind == "quantile":
        least = float(torch.quantile(prompt.double().flatten(), threshold))
    else:
        least = threshold * (float(prompt.max()) if kind == "max" else 1.0)
    # Where no score is positive no neuron raises the answer's probability, and a share of the largest would select them all.
    reached = prompt > least if above else prompt >= least
    if kind == "max" and least <= 0:
        reached = torch.zeros_like(reached)
    pairs = frozenset((scores.layers[i], neuron) for i, neuron in reached.nonzero().tolist())
    return NeuronSet(pairs, scores.n_layers, prompt.shape[1])


@public
def adapt_sharing(
    attributions: Iterable[NeuronAttribution],
    *,
    threshold: float = 0.2,
    kind: ThresholdKind = "max",
    shared_by: float = 0.5,
    mean_count: tuple[float, float] = (2.0, 5.0),
) -> tuple[list[NeuronSet], float]:
    """Each fact's neurons, with the share moved by 0.05 until the facts' mean count lies in a range (Dai et al. 2022).

    Niu et al. (2024) call the mean count ``|KN|`` and the final share ``tau``.

    Args:
        attributions: one for each fact, over its paraphrases.
        shared_by: where the share starts.
        mean_count: the range; at most 20 shares are tried (6 by Dai et al.'s program), so the mean may stay outside.

    Returns:
        One set a fact, and the final share: the one that the sets were refined with (Niu et al.'s program moves it once more where the
        range was not met, and reports that).

    Raises:
        DataError: no attribution.
        InputError: an empty range, or as `select_neurons`.
    """
    check_selection(threshold, kind, shared_by, mean_count)
    given = check_given(attributions, "attribution", "pass one for each fact")
    coarse = [CoarseCounts.of(coarse_neurons(scores, threshold=threshold, kind=kind)) for scores in given]
    return adapted_sharing(coarse, shared_by, mean_count, given[0].settings.variant)


@dataclass(frozen=True)
class CoarseCounts:
    """In how many of a group's coarse sets every neuron is: all that refinement asks of them.

    Attributes:
        counts: layer, neuron, and number of sets, in order.
        total: how many sets there are.
        n_layers, d_mlp: the model's shape.
    """

    counts: tuple[tuple[int, int, int], ...]
    total: int
    n_layers: int
    d_mlp: int

    @classmethod
    def of(cls, sets: Sequence[NeuronSet]) -> CoarseCounts:
        """Count some sets, at least one."""
        counted: Counter[Neuron] = Counter(neuron for group in sets for neuron in group)
        return cls(tuple((*neuron, count) for neuron, count in sorted(counted.items())), len(sets), sets[0].n_layers, sets[0].d_mlp)

    def shared(self, share: float, rule: _Rule) -> NeuronSet:
        """The neurons that a program keeps."""
        kept = frozenset((layer, neuron) for layer, neuron, count in self.counts if rule.keeps(count, self.total, share))
        return NeuronSet(kept, self.n_layers, self.d_mlp)


def adapted_sharing(
    coarse: Sequence[CoarseCounts], shared_by: float, mean_count: tuple[float, float] | None, variant: AttributionVariant
) -> tuple[list[NeuronSet], float]:
    """Each group's shared neurons, and the share; it is not moved when no range is given."""
    rule, share = _RULES[variant], shared_by
    sets = [group.shared(share, rule) for group in coarse]
    for attempt in range(rule.tries if mean_count is not None else 0):
        assert mean_count is not None
        mean = sum(map(len, sets)) / len(sets)
        if mean_count[0] <= mean <= mean_count[1]:
            break
        moved = rule.moved(share, SHARING_STEP if mean > mean_count[1] else -SHARING_STEP)
        if moved is None:
            break
        if attempt == rule.tries - 1 and not rule.exact:
            return sets, moved if rule.moved_last else share
        share = moved
        sets = [group.shared(share, rule) for group in coarse]
    return sets, share


@public
def shared_neurons(sets: Iterable[NeuronSet], *, shared_by: float = 0.5, variant: AttributionVariant = "ours") -> NeuronSet:
    """Neurons in more than a share of some sets: of a fact's prompts, or of a relation's facts.

    Args:
        variant: whose rule; Dai et al.'s program takes at least the share, and at least three sets.

    Raises:
        DataError: no set.
        InputError: a share outside (0, 1]; 1 keeps those in all of them. An unknown variant.

    Example:
        >>> one, two = (NeuronSet(frozenset(pairs), 2, 8) for pairs in ({(0, 1), (1, 3)}, {(0, 1)}))
        >>> list(shared_neurons([one, two], shared_by=0.5))
        [(0, 1)]
        >>> list(shared_neurons([one, two] * 3, shared_by=0.5, variant="dai2022"))
        [(0, 1), (1, 3)]
    """
    given = check_given(sets, "neuron set")
    check_choice("variant", variant, AttributionVariant)
    if not 0 < shared_by <= 1:
        raise InputError(f"shared_by={shared_by} is no share of the sets; pass a number in (0, 1], usually 0.5.")
    return CoarseCounts.of(given).shared(shared_by, _RULES[variant])


def neurons_of_relation(sets: Sequence[NeuronSet], shared_by: float, variant: AttributionVariant) -> NeuronSet:
    """Neurons that a relation's facts share: by Dai et al.'s rule without its three, which are of a fact's prompts."""
    return CoarseCounts.of(sets).shared(shared_by, replace(_RULES[variant], fewest=0))
