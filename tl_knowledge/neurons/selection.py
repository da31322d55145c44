"""From scores to neurons: a coarse set for each prompt, and what the prompts of one fact share (Dai et al. 2022, section 3.3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch

from tl_knowledge.door import public
from tl_knowledge.errors import InputError, check_given
from tl_knowledge.neurons.neuron_set import Neuron, NeuronSet
from tl_knowledge.neurons.result import NeuronAttribution
from tl_knowledge.neurons.settings import ThresholdKind, check_selection

__all__ = ["adapt_sharing", "adapted_sharing", "coarse_neurons", "select_neurons", "shared_neurons"]

SHARING_STEP, MOST_TRIES = 0.05, 20


@public
def select_neurons(scores: NeuronAttribution, *, threshold: float = 0.2, kind: ThresholdKind = "max", shared_by: float = 0.5) -> NeuronSet:
    """The neurons that more than a share of a fact's prompts have in common.

    Args:
        scores: attributions of the paraphrases of one fact.
        threshold: of the coarse sets; 0.2 of the maximum (Dai et al. 2022), 0.3 (Wen and Bai).
        kind: what the threshold is a part of.
        shared_by: neurons in *more* than this share of the coarse sets are kept; 1 keeps those in all of them. Dai et al. (2022) start at 0.7.

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
    return shared_neurons(coarse_neurons(scores, threshold=threshold, kind=kind), shared_by=shared_by)


@public
def coarse_neurons(scores: NeuronAttribution, *, threshold: float = 0.2, kind: ThresholdKind = "max") -> list[NeuronSet]:
    """For each prompt the neurons whose score reaches the threshold.

    Raises:
        InputError: as `select_neurons`.
    """
    check_selection(threshold, kind)
    return [_reaching(scores, prompt, threshold, kind) for prompt in scores.scores]


def _reaching(scores: NeuronAttribution, prompt: torch.Tensor, threshold: float, kind: ThresholdKind) -> NeuronSet:
    """One prompt's neurons, from its scores ``[layer d_mlp]``."""
    if kind == "quantile":
        least = float(torch.quantile(prompt.double().flatten(), threshold))
    else:
        least = threshold * (float(prompt.max()) if kind == "max" else 1.0)
    # Where no score is positive no neuron raises the answer's probability, and a share of the largest would select them all.
    reached = prompt >= least if kind != "max" or least > 0 else torch.zeros_like(prompt, dtype=torch.bool)
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
        mean_count: the range; at most 20 steps are taken, so the mean may stay outside.

    Returns:
        One set a fact, and the final share.

    Raises:
        DataError: no attribution.
        InputError: an empty range, or as `select_neurons`.
    """
    check_selection(threshold, kind, shared_by, mean_count)
    given = check_given(attributions, "attribution", "pass one for each fact")
    return adapted_sharing([coarse_neurons(scores, threshold=threshold, kind=kind) for scores in given], shared_by, mean_count)


def adapted_sharing(coarse: Sequence[Sequence[NeuronSet]], shared_by: float, mean_count: tuple[float, float] | None) -> tuple[list[NeuronSet], float]:
    """Each group's shared neurons, and the share; it is not moved when no range is given."""
    share = shared_by
    for _ in range(0 if mean_count is None else MOST_TRIES):
        assert mean_count is not None
        mean = sum(len(shared_neurons(group, shared_by=share)) for group in coarse) / len(coarse)
        if mean_count[0] <= mean <= mean_count[1]:
            break
        moved = round(share + (SHARING_STEP if mean > mean_count[1] else -SHARING_STEP), 10)
        if not 0 < moved <= 1:
            break
        share = moved
    return [shared_neurons(group, shared_by=share) for group in coarse], share


@public
def shared_neurons(sets: Iterable[NeuronSet], *, shared_by: float = 0.5) -> NeuronSet:
    """Neurons in more than a share of some sets: of a fact's prompts, or of a relation's facts.

    Raises:
        DataError: no set.
        InputError: a share outside (0, 1]; 1 keeps those in all of them.

    Example:
        >>> one, two = (NeuronSet(frozenset(pairs), 2, 8) for pairs in ({(0, 1), (1, 3)}, {(0, 1)}))
        >>> list(shared_neurons([one, two], shared_by=0.5))
        [(0, 1)]
    """
    given = check_given(sets, "neuron set")
    if not 0 < shared_by <= 1:
        raise InputError(f"shared_by={shared_by} is no share of the sets; pass a number in (0, 1], usually 0.5.")
    counts: Counter[Neuron] = Counter(neuron for group in given for neuron in group)
    kept = frozenset(neuron for neuron, count in counts.items() if count > shared_by * len(given) or count == len(given))
    return NeuronSet(kept, given[0].n_layers, given[0].d_mlp)
