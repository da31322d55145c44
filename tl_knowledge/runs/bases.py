"""Known runs that interventions start from: a run is a copy of one of them up to where it first differs, and is computed from there on only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch

from tl_knowledge.models.hook_names import block_input, block_output
from tl_knowledge.models.protocol import HookedModel, layer_count
from tl_knowledge.runs.contrast import Contrast
from tl_knowledge.runs.nodes import Node

__all__ = ["Base", "Value", "bases_of", "birth", "joined", "recorded_from"]

Value: TypeAlias = Literal["clean", "corrupted"] | torch.Tensor
"""What is written at a node: its value in the clean or corrupted run, or ``[sample ...]``."""


@dataclass(frozen=True, eq=False)
class Base:
    """A run that is known.

    Attributes:
        recorded: its residual stream, and what `tl_knowledge.engine.narrowing` takes from it, by hook name: ``[row pos ...]``, one row for all
            samples or one for each.
        writes: what makes the corrupted run this one.
        everywhere: that every node has the value of the clean, or of the corrupted, run.
        values: what its nodes that were read have in it.
    """

    recorded: Mapping[str, torch.Tensor]
    writes: Mapping[Node, Value]
    everywhere: Literal["clean", "corrupted"] | None = None
    values: Mapping[Node, Value] = field(default_factory=dict)

    def has(self, node: Node, value: Value) -> bool:
        """Whether a value is what the node has in this run; other than by name, or as the same tensor, that is not found out."""
        if self.everywhere is not None:
            return isinstance(value, str) and value == self.everywhere
        own = self.writes.get(node, self.values.get(node))
        return own is value or (isinstance(own, str) and isinstance(value, str) and own == value)

    def differing(self, writes: Mapping[Node, Value]) -> list[Node]:
        """The nodes that some writes give other values than this run's, or set free."""
        return [node for node, value in writes.items() if not self.has(node, value)] + [node for node in self.writes if node not in writes]

    def born_at(self, writes: Mapping[Node, Value], reads: Iterable[Node], n_layers: int) -> int:
        """The last layer at whose output a run with these writes still is this one, and nothing was to be read; ``-1``: the input of block 0."""
        return min(map(birth, (*self.differing(writes), *reads)), default=n_layers - 1)

    def carries(self, writes: Mapping[Node, Value], reads: Iterable[Node]) -> bool:
        """Whether what is recorded is enough for a run with these writes: of another run than the clean and the corrupted one, only what it
        computed for its own sake. So what is held in it has to be held, and nothing read but what was read in it, and free.
        """
        return self.everywhere is not None or (self.writes.keys() <= writes.keys() and {*reads} <= self.values.keys() - self.writes.keys())

    @property
    def recorded_rows(self) -> int:
        """One for all samples, or one for each."""
        return len(next(iter(self.recorded.values())))

    def rows(self, samples: int) -> list[int]:
        """The row that each sample continues."""
        return list(range(samples)) if self.recorded_rows == samples else [0] * samples


def birth(node: Node) -> int:
    """The last layer whose output comes before a node's value; a state's own, as a copy of it is changed there."""
    return max(-1, node.layer if node.component == "resid_post" else node.layer - 1)


def bases_of(contrast: Contrast) -> tuple[Base, Base]:
    """The corrupted run, and the clean one: the corrupted run with its sources clean."""
    return Base(contrast.corrupted, {}, "corrupted"), Base(contrast.clean, dict.fromkeys(contrast.sources, "clean"), "clean")


def joined(bases: Sequence[Base], name: str) -> torch.Tensor:
    """What some runs hold at a hook, one after the other; a view where there is one of them."""
    held = [base.recorded[name] for base in bases]
    return held[0] if len(held) == 1 else torch.cat(held)


def recorded_from(model: HookedModel, born_at: int, names: Iterable[str]) -> list[str]:
    """Those hooks that see a run that is born at a layer's output."""
    stream = {block_input(0): -1} | {block_output(layer): layer for layer in range(layer_count(model))}
    return [name for name in names if (stream[name] >= born_at if name in stream else int(name.split(".")[1]) > born_at)]
