"""Which states a cell of a trace restores, and the table of all cells; what every tracing loop here shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from side_by_side.work import Work

MLP_WINDOW = 10
Score = Callable[[Sequence[int], int], Tensor]
"""The answer's mean probability over the noised rows, with some layers restored at a position."""


def states_of(work: Work) -> Callable[[int], range]:
    """One layer alone."""
    return lambda layer: range(layer, layer + 1)


def mlps_of(work: Work) -> Callable[[int], range]:
    """Ten layers around one, cut off at the model's ends, as in Meng et al.'s program."""
    last = work.network.config.n_layer
    return lambda layer: range(max(0, layer - MLP_WINDOW // 2), min(last, layer + MLP_WINDOW // 2))


def effects(work: Work, restored: Callable[[int], range], score: Score) -> Tensor:
    """What each restoration brings back of the answer's probability, ``[layer pos]``: a forward for every cell."""
    positions = range(work.tokens.shape[1])
    table = torch.stack([torch.stack([score(restored(layer), position) for position in positions]) for layer in work.layers])
    return table - score((), 0)
