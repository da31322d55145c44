"""A fact set's circuit as plotly figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from tl_knowledge.circuits.figures import KINDS, LOOKS, place_of
from tl_knowledge.circuits.sets.findings import FactSetFindings
from tl_knowledge.circuits.sets.settings import RoleNode
from tl_knowledge.circuits.settings import Rank
from tl_knowledge.drawing import GraphPoint, Line, LinePanel, colour_of, graph, label_text, line_panels
from tl_knowledge.results.statistics import interval_text
from tl_knowledge.runs.nodes import Node
from tl_knowledge.runs.roles import ROLES, roles_of_side
from tl_knowledge.wording import counted

__all__ = ["comparison_figure", "nodes_figure", "shares_figure"]

SHARE_NAMES = {"faithfulness": "kept alone (faithfulness)", "completeness": "lost without it (completeness)", "restored": "restored together"}
RANK_WORDS: dict[Rank, str] = {"need": "what is lost without it", "effect": "what it restores alone", "either": "the larger of need and effect"}
MOSTLY = 0.5  # of a role's tokens that must be a circuit's sites for the role to be drawn as its


def nodes_figure(circuit: FactSetFindings) -> go.Figure:
    """Roles by layers, each node as large as its score."""
    table, roles = circuit.to_dataframe(), list(roles_of_side(circuit.settings.corrupt))
    largest = float(table["score"].max())
    points = [_point(row, roles, circuit.n_layers, row["score"] / largest, KINDS[row["component"]], _hover(row)) for row in table.to_dict("records")]
    title = f"What carries {counted(len(circuit.facts), 'fact')}: {counted(len(circuit.nodes), 'node')}"
    subtitle = f"{circuit.headline().partition('; ')[2]}; size: {RANK_WORDS[circuit.settings.rank]}"
    return _grid(points, roles, circuit.n_layers, title, subtitle, dict(LOOKS))


def shares_figure(circuit: FactSetFindings) -> go.Figure:
    """Shares of the total effect by number of nodes, with intervals over facts and the smallest fact."""
    table = circuit.summary()
    counts = [int(count) for count in table["nodes"]]
    lines: list[Line] = []
    for style, (name, words) in enumerate(SHARE_NAMES.items()):
        mean, low, high = ([float(value) for value in table[f"{name}{end}"]] for end in ("", "_low", "_high"))
        lines.append(Line(words, counts, mean, low, high, style))
    smallest = [float(value) for value in table["faithfulness_smallest"]]
    lines.append(Line("faithfulness, smallest fact", counts, smallest, smallest, smallest, len(lines)))
    settings = circuit.settings
    return line_panels(
        [LinePanel("", lines)],
        title=f"How many nodes carry {counted(len(circuit.facts), 'fact')}",
        subtitle=(
            f"{settings.corrupt} corrupted; mean and 95% interval over facts; {counted(settings.samples, 'sample')} each; {circuit.provenance.model}"
        ),
        x_axis=f"nodes, in order of {'need or effect' if settings.rank == 'either' else settings.rank}",
        y_axis=f"share of the total effect{settings.metric.remark}",
        percent=True,
    )


def comparison_figure(table: pd.DataFrame, names: tuple[str, str], n_layers: int, headline: str) -> go.Figure:
    """Roles by layers, coloured by the circuits that have most of the role's tokens there, as large as the larger need."""
    inside = [table[f"in {name}"] >= MOSTLY for name in names]
    drawn = table.assign(first=inside[0], second=inside[1], size=table[list(names)].abs().max(axis=1)).query("first or second")
    roles = [role for role in ROLES if role in set(drawn["role"])]
    looks: dict[str, tuple[str, str]] = {}
    points: list[GraphPoint] = []
    for row in drawn.to_dict("records"):
        where = "both" if row["first"] and row["second"] else names[0 if row["first"] else 1]
        colour = colour_of(where, 0 if row["first"] else 1)
        kind = f"{KINDS[row['component']]}: {where}"
        looks[kind] = (LOOKS[KINDS[row["component"]]][0], colour)
        needs = "<br>".join(f"need, {label_text(name)}: {row[name]:+.1%} of the total effect" for name in names)
        hover = f"{_title(row)}<br>{needs}<br>difference {row['difference']:+.1%}{interval_text(row['low'], row['high'], '.1%')}"
        points.append(_point(row, roles, n_layers, row["size"] / (float(drawn["size"].max()) or 1.0), kind, hover))
    return _grid(points, roles, n_layers, f"{names[0].capitalize()} against {names[1]}", headline.partition(": ")[2], dict(sorted(looks.items())))


def _point(row: dict[Any, Any], roles: Sequence[str], n_layers: int, size: float, kind: str, hover: str) -> GraphPoint:
    x, y = place_of(Node(row["component"], int(row["layer"]), roles.index(row["role"])), n_layers)
    return GraphPoint(x, y, kind, min(1.0, max(0.0, float(size))), hover)


def _grid(
    points: Sequence[GraphPoint], roles: Sequence[str], n_layers: int, title: str, subtitle: str, looks: dict[str, tuple[str, str]]
) -> go.Figure:
    columns = [(float(layer), str(layer)) for layer in range(n_layers)]
    figure = graph(points, [], looks=looks, rows=roles, columns=columns, title=title, subtitle=subtitle)
    return figure.update_yaxes(title_text="token's role")


def _title(row: dict[Any, Any]) -> str:
    return f"<b>{label_text(RoleNode(row['component'], int(row['layer']), row['role']).name)}</b>"


def _hover(row: dict[Any, Any]) -> str:
    lines = [_title(row), f"node {row['node']}, in {counted(row['facts'], 'fact')}"]
    for name, words in (("need", "lost without it"), ("effect", "restored alone")):
        if row[name] == row[name]:  # not measured with rank='need'
            lines.append(f"{words}: {row[name]:+.1%}{interval_text(row[f'{name}_low'], row[f'{name}_high'], '.1%')} of the total effect")
    return "<br>".join(lines)
