"""A circuit's parts: what a node is, and which nodes can act on which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from tl_knowledge.door import public
from tl_knowledge.errors import ComponentError, check_choice
from tl_knowledge.models.hook_names import Component, block_input, component_hook

__all__ = ["Node", "NodeKind", "hook_of", "stage"]

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
PARTS: dict[NodeKind, NodeKind] = {"head": "attn_out", "neuron": "mlp_out"}


@public
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
        check_choice("component", self.component, NodeKind, ComponentError)
        if bool(self.units) != (self.component in PARTS):
            raise ComponentError(f"a node of {self.component!r} with units={self.units} does not exist; heads and neurons have units, others none.")

    @property
    def name(self) -> str:
        """The component in words, without its token."""
        numbers = "+".join(map(str, self.units))
        return _NAMES[self.component].format(layer=self.layer, units=numbers, count=len(self.units))


def stage(node: Node) -> tuple[int, int]:
    """Where in the forward a node is computed; nodes act on later stages only."""
    return node.layer, _ORDER.index(node.component)


def hook_of(node: Node) -> str:
    """The hook whose activation holds the node."""
    if node.component == "embed":
        return block_input(0)
    component: Component = node.component  # pyright: ignore[reportAssignmentType]  # the answer has no hook, and nobody looks for one
    return component_hook(component, node.layer)
