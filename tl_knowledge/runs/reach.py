"""Where interventions can differ from the runs that they start from: only there modules have to be run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool

from tl_knowledge.runs.nodes import Node, NodeKind

__all__ = ["Needed", "RunPlaces", "needed_places"]

Places = Bool[torch.Tensor, "run pos"]
KINDS: tuple[NodeKind, ...] = ("embed", "head", "attn_out", "neuron", "mlp_out", "resid_post")


@dataclass(frozen=True)
class RunPlaces:
    """What one run does where.

    Attributes:
        writes, reads: its nodes.
        differing: those that get other values than in the run that it starts from, and those that are held there and free here.
    """

    writes: Iterable[Node]
    reads: Iterable[Node]
    differing: Iterable[Node]


@dataclass(frozen=True)
class Needed:
    """Where one block has to be run, ``[run pos]``.

    Attributes:
        entering: where queries, keys and values can be others, and are read.
        attended, transformed: where what attention, and the MLP, writes can be another, and is not overwritten unseen.
    """

    entering: Places
    attended: Places
    transformed: Places


def needed_places(runs: Sequence[RunPlaces], n_layers: int, length: int, answer: int) -> Iterator[Needed]:
    """For each block, where it has to be run for each of some runs.

    A change goes on in its own position, and by attention to all later ones. It ends where a module's output (or a state) is held at the value
    that it has in the run that is started from; what is overwritten and not read is computed nowhere. In the last block only the answer's
    positions, and what is read, count. For a run that holds position 3's attention (``=``), from position 2 of 5 on (``#``: run)::

        entering     . . # . .      a change at position 2
        attended     . . # = #
        transformed  . . # . #

    Args:
        answer: the first position that predicts a token of the answer.
    """
    tables = [_table([getattr(run, what) for run in runs], n_layers, length) for what in ("writes", "differing", "reads")]
    tail = torch.arange(length) >= answer
    changed = tables[1]["embed", -1]
    for layer in range(n_layers):
        written, differs, read = ({kind: table[kind, layer] for kind in KINDS} for table in tables)
        seen = torch.stack([read[kind] for kind in KINDS]).any(0)
        unseen = written["resid_post"] & ~seen
        wanted = (tail | seen if layer == n_layers - 1 else torch.ones_like(seen)) & ~unseen
        reached = (changed.cumsum(1) > 0) | differs["head"]
        attended = wanted & (((reached | differs["attn_out"]) & ~written["attn_out"]) | read["attn_out"])
        entering = changed & _any_from(attended | read["head"])
        middle = changed | (reached & ~written["attn_out"]) | differs["attn_out"]
        moved = middle | differs["neuron"]
        transformed = wanted & (((moved | differs["mlp_out"]) & ~written["mlp_out"]) | read["mlp_out"] | read["neuron"])
        yield Needed(entering, attended, transformed)
        after = middle | (moved & ~written["mlp_out"]) | differs["mlp_out"]
        changed = (after & ~written["resid_post"]) | differs["resid_post"]


def _any_from(places: Places) -> Places:
    """Whether there is any at a position or after it."""
    return places.flip(1).cumsum(1).flip(1) > 0


def _table(of_runs: Sequence[Iterable[Node]], n_layers: int, length: int) -> Mapping[tuple[str, int], Places]:
    """Some nodes of every run, by kind and layer."""
    table = torch.zeros(len(KINDS), n_layers + 1, len(of_runs), length, dtype=torch.bool)
    where = [(KINDS.index(node.component), node.layer + 1, run, node.pos) for run, nodes in enumerate(of_runs) for node in nodes]
    if where:
        table[tuple(torch.tensor(where).T)] = True
    return {(kind, layer - 1): table[i, layer] for i, kind in enumerate(KINDS) for layer in range(n_layers + 1)}
