"""A circuit's edges, and which nodes may not stand beside each other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tl_knowledge.errors import ComponentError
from tl_knowledge.runs.nodes import PARTS, Node

__all__ = ["Edge", "refuse_overlaps"]


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


def refuse_overlaps(nodes: Iterable[Node]) -> None:
    """Refuse nodes that hold each other: a head beside its whole attention, states beside the modules they add up.

    Raises:
        ComponentError: two such nodes.
    """
    beside = list(nodes)
    kinds = {node.component for node in beside if node.component not in ("embed", "answer")}
    if "resid_post" in kinds and len(kinds) > 1:
        raise ComponentError(
            f"states hold what {', '.join(sorted(kinds - {'resid_post'}))} write; build one circuit of states, or one of the others."
        )
    whole = {(node.component, node.layer, node.pos) for node in beside}
    for node in beside:
        if (PARTS.get(node.component), node.layer, node.pos) in whole:
            raise ComponentError(f"{node.name} at position {node.pos} is part of another node there; pass traces of heads or of attn_out, not both.")
