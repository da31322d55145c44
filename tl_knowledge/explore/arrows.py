"""One site's part in a circuit: what it hears, and what it passes on."""

from __future__ import annotations

from dataclasses import dataclass

from tl_knowledge.circuits import Circuit, Node
from tl_knowledge.explore.state import Cell

__all__ = ["SiteArrow", "arrows_at"]


@dataclass(frozen=True)
class SiteArrow:
    """An arrow of a circuit, seen from one of its ends.

    Attributes:
        into: whether it leads into the site; else out of it.
        other: the other end: component, layer and token, in words.
        weight: what it brings back of the answer, in the circuit's metric.
        need: what the circuit, kept alone, loses when it is cut.
    """

    into: bool
    other: str
    weight: float
    need: float


def arrows_at(circuit: Circuit, cell: Cell) -> tuple[SiteArrow, ...]:
    """The arrows of a circuit that begin or end at a cell, the strongest first; none where the cell is no site of it.

    The residual state of a cell is no site of a circuit of modules: it is what all of them have written.
    """
    found = [SiteArrow(True, _said(circuit, edge.source), edge.weight, edge.need) for edge in circuit.edges if _is_at(edge.target, cell)]
    found += [SiteArrow(False, _said(circuit, edge.target), edge.weight, edge.need) for edge in circuit.edges if _is_at(edge.source, cell)]
    return tuple(sorted(found, key=lambda arrow: -max(abs(arrow.weight), abs(arrow.need))))


def _is_at(node: Node, cell: Cell) -> bool:
    return (node.component, node.layer, node.pos) == cell


def _said(circuit: Circuit, node: Node) -> str:
    return node.name if node.component == "answer" else f"{node.name} at {circuit.labels[node.pos].strip()!r}"
