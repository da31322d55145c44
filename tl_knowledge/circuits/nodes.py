"""A circuit's parts: what a node is, and which nodes can act on which."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from tl_knowledge.errors import ComponentError
from tl_knowledge.model import Component, block_input, component_hook

__all__ = ["Edge", "Node", "NodeKind", "hook_of", "refuse_overlaps", "stage"]

NodeKind: TypeAlias = Literal["embed", "resid_post", "mlp_out", "attn_out", "head", "neuron", "answer"]
"""A `Component`, a token's embedding, or the answer's probability."""

_ORDER: tuple[NodeKind, ...] = ("embed", "head", "attn_out", "neuron", "mlp_out", "resid_post", "answer")
_NAMES: dict[NodeKind, str] = {
    "embed": "embedding",
    "resid_post": "state {layer}",
    "mlp_out": "MLP {layer}",
    "attn_out": "attention {layer}",
    "head": "head {layer}.{units}",
    "neuron": "{count} neurons of MLP {layer}",
    "answer": "answer",
}
_PARTS: dict[NodeKind, NodeKind] = {"head": "attn_out", "neuron": "mlp_out"}


@dataclass(frozen=True)
class Node:
    """A component at one token: a module's output, a head, a group of neurons, a state, an embedding, or the answer.

    Attributes:
        component: what.
        layer: the block; ``-1`` for embeddings, the number of blocks for the answer.
        pos: the token's position.
        units: which head, or which neurons; empty for everything else.

    Example:
        >>> Node("head", 3, 5, (2,)).name
        'head 3.2'
    """

    component: NodeKind
    layer: int
    pos: int
    units: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.component not in _ORDER:
            raise ComponentError(f"component {self.component!r} is unknown; pass one of {', '.join(map(repr, get_args(NodeKind)))}.")
        if bool(self.units) != (self.component in _PARTS):
            raise ComponentError(f"a node of {self.component!r} with units={self.units} does not exist; heads and neurons have units, others none.")

    @property
    def name(self) -> str:
        """The component in words, without its token."""
        numbers = "+".join(map(str, self.units))
        return _NAMES[self.component].format(layer=self.layer, units=numbers, count=len(self.units))


@dataclass(frozen=True)
class Edge:
    """What one node passes on to another.

    Attributes:
        weight: in the circuit's metric: with ``source`` restored and every other node of the circuit held at its corrupted value, ``target``
            takes some value; this is what that value, written into the corrupted run, gives back of the answer.
        need: in the circuit's metric: what the circuit, kept alone, loses when only this edge is cut.
        standard_error: of the weight's mean over noise samples; NaN for one sample.
    """

    source: Node
    target: Node
    weight: float
    need: float = 0.0
    standard_error: float = field(default=float("nan"), compare=False)

    @property
    def strength(self) -> float:
        """Weight or need, whichever is larger."""
        return max(self.weight, self.need, key=abs)


def stage(node: Node) -> tuple[int, int]:
    """Where in the forward a node is computed; nodes act on later stages only."""
    return node.layer, _ORDER.index(node.component)


def hook_of(node: Node) -> str:
    """The hook whose activation holds the node."""
    if node.component == "embed":
        return block_input(0)
    component: Component = node.component  # pyright: ignore[reportAssignmentType]  # the answer has no hook, and is never asked for one
    return component_hook(component, node.layer)


def refuse_overlaps(nodes: Iterable[Node]) -> None:
    """Refuse nodes that hold each other: a head beside its whole attention, states beside the modules they add up.

    Raises:
        ComponentError: two such nodes.
    """
    chosen = list(nodes)
    kinds = {node.component for node in chosen if node.component not in ("embed", "answer")}
    if "resid_post" in kinds and len(kinds) > 1:
        raise ComponentError(
            f"states hold what {', '.join(sorted(kinds - {'resid_post'}))} write; build one circuit of states, or one of the others."
        )
    whole = {(node.component, node.layer, node.pos) for node in chosen}
    for node in chosen:
        if (_PARTS.get(node.component), node.layer, node.pos) in whole:
            raise ComponentError(f"{node.name} at position {node.pos} is part of another node there; pass traces of heads or of attn_out, not both.")
