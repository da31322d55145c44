"""From scores to neurons: a coarse set for each prompt, and what the prompts of one fact share (Dai et al. 2022, section 3.3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import torch

from tl_knowledge.errors import InputError
from tl_knowledge.neurons.neuron_set import Neuron, NeuronSet
from tl_knowledge.neurons.result import NeuronAttribution

__all__ = ["ThresholdKind", "adapt_sharing", "coarse_neurons", "select_neurons"]

ThresholdKind: TypeAlias = Literal["max", "absolute", "quantile"]
"""A share of the prompt's largest score; a score; or the quantile of the prompt's scores that must be reached."""

SHARING_STEP, MOST_TRIES = 0.05, 20


def select_neurons(scores: NeuronAttribution, *, threshold: float = 0.2, kind: ThresholdKind = "max", shared_by: float = 0.7) -> NeuronSet:
    """The neurons that more than a share of a fact's prompts have in common.

    Args:
        scores: attributions of the paraphrases of one fact.
        threshold: of the coarse sets; 0.2 of the maximum (Dai et al.), 0.3 (paper 000).
        kind: what the threshold is a part of.
        shared_by: neurons in *more* than this share of the coarse sets are kept; 1 keeps those in all of them.

    Raises:
        InputError: a threshold or share outside (0, 1] (an absolute threshold may be any positive number), or activation scores under
            ``"max"`` without a positive one.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> scores = tlk.attribute_neurons(model, tlk.paraphrases(model, tlk.load_facts("factlm")[0]), steps=5)
        >>> neurons = tlk.select_neurons(scores, threshold=0.2, shared_by=0.7)
        >>> 0 < len(neurons) < 100
        True
    """
    if not 0 < shared_by <= 1:
        raise InputError(f"shared_by={shared_by} is no share of the prompts; pass a number in (0, 1], usually 0.7.")
    coarse = coarse_neurons(scores, threshold=threshold, kind=kind)
    return _shared(coarse, shared_by)


def coarse_neurons(scores: NeuronAttribution, *, threshold: float = 0.2, kind: ThresholdKind = "max") -> list[NeuronSet]:
    """For each prompt the neurons whose score reaches the threshold.

    Raises:
        InputError: as `select_neurons`.
    """
    if kind not in get_args(ThresholdKind):
        raise InputError(f"kind {kind!r} is unknown; pass one of {', '.join(map(repr, get_args(ThresholdKind)))}.")
    if threshold <= 0 or (threshold > 1 and kind != "absolute"):
        raise InputError(f"threshold={threshold} does not fit kind {kind!r}; pass a number in (0, 1], or a positive score with kind='absolute'.")
    found: list[NeuronSet] = []
    for prompt in scores.scores:
        if kind == "quantile":
            least = float(torch.quantile(prompt.double().flatten(), threshold))
        else:
            least = threshold * (float(prompt.max()) if kind == "max" else 1.0)
        if kind == "max" and least <= 0:
            raise InputError("no score of a prompt is positive, so a share of its maximum selects everything; use kind='quantile'.")
        pairs = [(scores.layers[i], n) for i, n in (prompt >= least).nonzero().tolist()]
        found.append(NeuronSet(frozenset(pairs), scores.n_layers, prompt.shape[1]))
    return found


def adapt_sharing(
    attributions: Sequence[NeuronAttribution],
    *,
    threshold: float = 0.2,
    kind: ThresholdKind = "max",
    shared_by: float = 0.7,
    mean_count: tuple[float, float] = (2.0, 5.0),
) -> tuple[list[NeuronSet], float]:
    """Each fact's neurons, with the share moved by 0.05 until the facts' mean count lies in a range (Dai et al.; paper 002: ``|KN|``, ``tau``).

    Args:
        attributions: one for each fact, over its paraphrases.
        shared_by: where the share starts.
        mean_count: the range; at most 20 steps are made, so the mean may stay outside.

    Returns:
        One set a fact, and the final share.

    Raises:
        InputError: no attribution, an empty range, or as `select_neurons`.
    """
    low, high = mean_count
    if not attributions or not 0 <= low <= high:
        raise InputError(f"{len(attributions)} attributions and mean_count={mean_count} leave nothing to adapt; pass facts and an ascending range.")
    coarse = [coarse_neurons(scores, threshold=threshold, kind=kind) for scores in attributions]
    share = shared_by
    for _ in range(MOST_TRIES):
        sets = [_shared(group, share) for group in coarse]
        mean = sum(map(len, sets)) / len(sets)
        if low <= mean <= high:
            break
        moved = round(share + (SHARING_STEP if mean > high else -SHARING_STEP), 10)
        if not 0 < moved <= 1:
            break
        share = moved
    return [_shared(group, share) for group in coarse], share


def _shared(coarse: Sequence[NeuronSet], shared_by: float) -> NeuronSet:
    counts: Counter[Neuron] = Counter(neuron for group in coarse for neuron in group)
    kept = frozenset(neuron for neuron, count in counts.items() if count > shared_by * len(coarse) or count == len(coarse))
    return NeuronSet(kept, coarse[0].n_layers, coarse[0].d_mlp)
