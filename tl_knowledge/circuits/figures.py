"""Circuits as plotly figures."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from tl_knowledge.circuits.edges import Edge
from tl_knowledge.circuits.findings import CircuitFindings
from tl_knowledge.drawing import ROLE_COLOURS, Arrow, GraphPoint, Line, LinePanel, graph, label_text, line_panels
from tl_knowledge.results.plain_text import token_text
from tl_knowledge.runs.metric import PROBABILITY
from tl_knowledge.runs.nodes import Node
from tl_knowledge.wording import counted

__all__ = ["KINDS", "LOOKS", "circuit_figure", "edge_hover", "growth_figure", "on_tokens", "place_of", "points_of", "shares_text"]

LOOKS: dict[str, tuple[str, str]] = {
    "source": ("triangle-right", "#667085"),
    "attention": ("circle", ROLE_COLOURS["attention"]),
    "MLP": ("square", ROLE_COLOURS["MLP"]),
    "head": ("circle", ROLE_COLOURS["attention"]),
    "neurons": ("diamond", ROLE_COLOURS["MLP"]),
    "state": ("hexagon", ROLE_COLOURS["residual"]),
    "answer": ("star", ROLE_COLOURS["answer"]),
}
KINDS = {
    "attn_out": "attention",
    "mlp_out": "MLP",
    "head": "head",
    "neuron": "neurons",
    "resid_post": "state",
    "answer": "answer",
    "embed": "source",
}
_OFFSETS = {"embed": 0.0, "head": -0.2, "attn_out": -0.2, "neuron": 0.2, "mlp_out": 0.2, "resid_post": 0.3, "answer": 0.0}


def place_of(node: Node, n_layers: int, rank: int = 0, together: int = 1) -> tuple[float, float]:
    """Where a node is drawn; nodes of one place (heads of a layer) are spread a little."""
    spread = (rank - (together - 1) / 2) * min(0.28, 0.7 / max(together, 1))
    return min(node.layer, n_layers) + _OFFSETS[node.component], node.pos + spread


def circuit_figure(circuit: CircuitFindings) -> go.Figure:
    """The graph of one circuit."""
    points, number = points_of([circuit])
    arrows = [Arrow(number[e.source], number[e.target], e.strength, edge_hover(circuit, e), name=_sign(circuit, e)) for e in circuit.edges]
    title = (
        f"What carries {circuit.settings.metric.of_answer(circuit.target)}: {counted(len(circuit.nodes), 'node')}, "
        f"{counted(len(circuit.edges), 'edge')}"
    )
    return on_tokens([circuit], points, arrows, title, f"{circuit.contrast}; {shares_text(circuit)}")


def _sign(circuit: CircuitFindings, edge: Edge) -> str | None:
    """What an arrow does where it is not the answer that it raises or lowers."""
    if circuit.settings.metric.kind not in ("kl", "function"):
        return None
    return "raises the metric" if edge.strength >= 0 else "lowers the metric"


def points_of(circuits: Sequence[CircuitFindings]) -> tuple[list[GraphPoint], dict[Node, int]]:
    """Every node of some circuits of one prompt as a point, as large as in the circuit where it matters most; and each node's number."""
    ends = dict.fromkeys(node for circuit in circuits for edge in circuit.edges for node in (edge.source, edge.target))
    nodes = [*dict.fromkeys([*(node for circuit in circuits for node in circuit.nodes), *ends])]
    points: list[GraphPoint] = []
    for node in nodes:
        same = [other for other in nodes if (other.component, other.layer, other.pos) == (node.component, node.layer, node.pos)]
        x, y = place_of(node, circuits[0].n_layers, same.index(node), len(same))
        kind = "source" if any(node in circuit.sources for circuit in circuits) else KINDS[node.component]
        size = max(_size(circuit, node) for circuit in circuits)
        points.append(GraphPoint(x, y, kind, size, "<br><br>".join(dict.fromkeys(_hover(circuit, node) for circuit in circuits))))
    return points, {node: i for i, node in enumerate(nodes)}


def on_tokens(circuits: Sequence[CircuitFindings], points: Sequence[GraphPoint], arrows: Sequence[Arrow], title: str, subtitle: str) -> go.Figure:
    """Draw points and arrows over the tokens and layers of circuits of one prompt."""
    first = circuits[0]
    rows = [token_text(label) for label in first.labels]
    columns = [(-1.0, "tokens"), *((float(layer), str(layer)) for layer in range(first.n_layers)), (float(first.n_layers), "answer")]
    marked = frozenset(pos for circuit in circuits for pos in circuit.corrupted.positions) if len(circuits) == 1 else frozenset[int]()
    return graph(points, arrows, looks=LOOKS, rows=rows, columns=columns, title=title, subtitle=subtitle, marked=marked)


def shares_text(circuit: CircuitFindings) -> str:
    """What the circuit explains, in words."""
    metric, low = circuit.settings.metric, float(circuit.corrupted_probability.mean())
    moved = f"P {low:.1%} to {circuit.clean_probability:.1%}" if metric == PROBABILITY else f"total effect {metric.number(circuit.total_effect)}"
    kept = f"kept alone it keeps {circuit.faithfulness:.0%} of that ({circuit.wired:.0%} by these arrows)"
    alone = f"{kept}, held out it takes {circuit.completeness:.0%}"
    samples = len(circuit.corrupted_probability)
    drawn = f"; {counted(samples, 'noise sample')}" if samples > 1 else ""
    return f"{moved}: {alone}{drawn}; {circuit.provenance.model}"


def growth_figure(circuit: CircuitFindings) -> go.Figure:
    """Shares of the total effect by number of nodes."""
    names = {"faithfulness": "kept alone (faithfulness)", "completeness": "lost without it (completeness)", "restored": "restored together"}
    counts = [int(count) for count in circuit.growth["nodes"]]
    lines = [
        Line(words, counts, values := [float(v) for v in circuit.growth[column]], values, values, style)
        for style, (column, words) in enumerate(names.items())
    ]
    return line_panels(
        [LinePanel("", lines)],
        title=f"How many nodes carry {circuit.settings.metric.of_answer(circuit.target)}",
        subtitle=f"{circuit.contrast}; before pruning; {counted(len(circuit.corrupted_probability), 'sample')}; {circuit.provenance.model}",
        x_axis="nodes, in order of effect or need",
        y_axis="share of the total effect",
        percent=True,
    )


def edge_hover(circuit: CircuitFindings, edge: Edge) -> str:
    """What an arrow says."""
    start, end = (f"{label_text(node.name)} at {label_text(repr(circuit.labels[node.pos]))}" for node in (edge.source, edge.target))
    carried, needed = (f"{value:+.3f}{circuit.settings.metric.unit} ({value / circuit.total_effect:.0%})" for value in (edge.weight, edge.need))
    return f"{start}<br>to {end}<br>{label_text(circuit.contrast)}:<br>carries {carried}<br>lost when cut {needed}"


def _measured(circuit: CircuitFindings, node: Node) -> tuple[float, float] | None:
    """A node's mean effect and need, where it is one of the circuit's."""
    if node not in circuit.nodes:
        return None
    row = circuit.nodes.index(node)
    return float(circuit.effect[row].mean()), float(circuit.need[row].mean())


def _size(circuit: CircuitFindings, node: Node) -> float:
    effects = _measured(circuit, node)
    if effects is None:
        return 1.0 if node.component == "answer" else 0.25 if node in circuit.sources else 0.0
    return min(1.0, max(map(abs, effects)) / (abs(circuit.total_effect) or 1.0))


def _hover(circuit: CircuitFindings, node: Node) -> str:
    token = label_text(repr(circuit.labels[node.pos]))
    if node.component == "answer":
        return f"<b>answer</b> {label_text(repr(circuit.target))}<br>P {circuit.clean_probability:.1%}"
    effects, unit = _measured(circuit, node), circuit.settings.metric.unit
    name = f"<b>{label_text(node.name)}</b> at {token}"
    if effects is None:
        return name
    alone, without = effects
    return f"{name}<br>{label_text(circuit.contrast)}:<br>restored alone: {alone:+.3f}{unit}<br>lost without it: {without:+.3f}{unit}"
