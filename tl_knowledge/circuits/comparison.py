"""Two circuits of one prompt in one picture: relation against subject, before against after an edit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
from typing_extensions import override

from tl_knowledge.circuits.circuit import Circuit
from tl_knowledge.circuits.edges import Edge
from tl_knowledge.circuits.figures import edge_hover, on_tokens, points_of
from tl_knowledge.door import public
from tl_knowledge.drawing import ROLE_COLOURS, Arrow, colour_of
from tl_knowledge.errors import ComponentError
from tl_knowledge.results.result import Result
from tl_knowledge.runs.nodes import Node
from tl_knowledge.wording import counted

__all__ = ["CircuitComparison", "compare"]


@dataclass(frozen=True, eq=False)
class CircuitComparison(Result):
    """Two circuits over the same tokens.

    Attributes:
        names: what the two are called.
    """

    ranked_by: ClassVar[str] = "difference"
    either_sign: ClassVar[bool] = True
    first: Circuit
    second: Circuit
    names: tuple[str, str]

    @override
    def headline(self) -> str:
        """What is compared, and how much of it the two share."""
        one, other = (set(_shares(circuit)) for circuit in (self.first, self.second))
        both = f"{len(one & other)} of {counted(len(one | other), 'edge')} are in both"
        first, second = (f"{name} ({_carried(circuit)})" for name, circuit in zip(self.names, (self.first, self.second), strict=True))
        return f"{first} against {second}: {both}{_measured(self.first)}; {self.first.provenance.model}"

    @override
    def to_dataframe(self) -> pd.DataFrame:
        """One row an edge of either: its share of each circuit's total effect (0 where it is not in that circuit), and the difference."""
        first, second = (_shares(circuit) for circuit in (self.first, self.second))
        rows = [
            {"source": a.name, "source_token": self._token(a), "target": b.name, "target_token": self._token(b)}
            | dict(zip(self.names, (first.get((a, b), 0.0), second.get((a, b), 0.0)), strict=True))
            | {"difference": second.get((a, b), 0.0) - first.get((a, b), 0.0)}
            for a, b in dict.fromkeys([*first, *second])
        ]
        columns = ["source", "source_token", "target", "target_token", *self.names, "difference"]
        return pd.DataFrame(rows, columns=columns)  # pyright: ignore[reportArgumentType]

    def plot(self) -> go.Figure:
        """Both graphs over each other: arrows of the first circuit only, of the second only, and of both, as wide as their share."""
        circuits = [self.first, self.second]
        points, number = points_of(circuits)
        edges = [{(e.source, e.target): e for e in circuit.edges} for circuit in circuits]
        shares = [_shares(circuit) for circuit in circuits]
        arrows: list[Arrow] = []
        for pair in dict.fromkeys([*edges[0], *edges[1]]):
            own = [(circuit, of_pair[pair]) for circuit, of_pair in zip(circuits, edges, strict=True) if pair in of_pair]
            weight = max((share[pair] for share in shares if pair in share), key=abs)
            colour, name = self._look(pair in edges[0], pair in edges[1])
            arrows.append(Arrow(number[pair[0]], number[pair[1]], weight, _hover(own), colour, name))
        words = "; ".join(f"{name}: P({c.target.strip()!r}) {c.clean_probability:.1%}" for name, c in zip(self.names, circuits, strict=True))
        subtitle = (
            f"{words}{_measured(self.first)}; arrows as wide as their share of the total effect, dotted where they lower it; "
            f"{self.first.provenance.model}"
        )
        return on_tokens(circuits, points, arrows, f"{self.names[0].capitalize()} against {self.names[1]}", subtitle)

    def _look(self, in_first: bool, in_second: bool) -> tuple[str, str]:
        if in_first and in_second:
            return ROLE_COLOURS["both"], "both"
        name = self.names[0 if in_first else 1]
        return colour_of(name, 0 if in_first else 1), f"{name} only"

    def _token(self, node: Node) -> str:
        return self.first.labels[node.pos]


@public
def compare(first: Circuit, second: Circuit, *, names: tuple[str, str] | None = None) -> CircuitComparison:
    """Put two circuits of one prompt over each other.

    Args:
        names: what to call them; default what they contrast, for example ``"subject corrupted"``.

    Raises:
        ComponentError: circuits of different tokens, models or metrics, or equal names.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> prompt = tlk.Prompt.from_fact(model, tlk.load_facts("factlm")[0])
        >>> sides = [tlk.trace(model, prompt, corrupt=side, component="mlp_out", progress=False) for side in ("subject", "relation")]
        >>> both = tlk.circuits.compare(*[tlk.circuits.from_trace(model, prompt, side, limit=5) for side in sides])
        >>> both.names
        ('subject corrupted', 'relation corrupted')
    """
    if first.labels != second.labels or first.n_layers != second.n_layers:
        raise ComponentError(f"the circuits are of {''.join(first.labels)!r} and {''.join(second.labels)!r}; pass two of the same tokens and model.")
    if first.settings.metric != second.settings.metric:
        raise ComponentError(
            f"the circuits have other metric: {first.settings.metric} and {second.settings.metric}; compare two that were built with one metric=."
        )
    called = names or (first.contrast, second.contrast)
    if called[0] == called[1]:
        raise ComponentError(f"both circuits are called {called[0]!r}; pass names=, for example ('before', 'after').")
    return CircuitComparison(first, second, called)


def _shares(circuit: Circuit) -> dict[tuple[Node, Node], float]:
    return {(edge.source, edge.target): edge.strength / circuit.total_effect for edge in circuit.edges}


def _carried(circuit: Circuit) -> str:
    return f"P({circuit.target.strip()!r}) {circuit.clean_probability:.0%}"


def _measured(circuit: Circuit) -> str:
    """What both circuits' effects are counted in, where that is not the probability."""
    metric = circuit.settings.metric
    return f"; effects in {metric.measured_in}" if metric.remark else ""


def _hover(own: list[tuple[Circuit, Edge]]) -> str:
    return "<br><br>".join(edge_hover(circuit, edge) for circuit, edge in own)
