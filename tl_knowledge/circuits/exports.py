"""A circuit as networkx, GraphML and JSON have graphs, and as TransformerLens' own tools have nodes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import networkx as nx

from tl_knowledge.circuits.edges import Edge
from tl_knowledge.errors import ComponentError
from tl_knowledge.results.plain_text import printable, strict_json
from tl_knowledge.runs.nodes import Node

__all__ = ["as_graph", "as_graphml", "as_json", "as_transformer_lens_nodes", "node_id"]


def node_id(node: Node) -> str:
    """A name that no other node of a circuit has.

    Example:
        >>> node_id(Node("head", 3, 5, (2,))), node_id(Node("mlp_out", 0, 2))
        ('head.3.2@5', 'mlp_out.0@2')
    """
    units = ".".join(map(str, ("", *node.units)))
    return f"{node.component}.{node.layer}{units}@{node.pos}"


def as_graph(nodes: Sequence[Node], edges: Iterable[Edge], labels: Sequence[str], effects: Mapping[Node, float], about: Mapping[str, Any]) -> Any:
    """A ``networkx.DiGraph``: names, tokens and effects at the nodes, weights at the edges; plain values only, so that GraphML holds it."""
    graph = nx.DiGraph(**about)
    for node in nodes:
        units = " ".join(map(str, node.units))
        place = {"component": node.component, "layer": node.layer, "pos": node.pos, "units": units, "token": labels[node.pos]}
        graph.add_node(node_id(node), name=node.name, **place, **({"effect": effects[node]} if node in effects else {}))
    for edge in edges:
        graph.add_edge(node_id(edge.source), node_id(edge.target), weight=edge.weight, need=edge.need)
    return graph


def as_json(graph: Any) -> str:
    """The graph in networkx' node-link form, which d3 and others read too; what is no finite number is ``null``."""
    return strict_json(nx.node_link_data(graph, edges="links"))


def as_graphml(graph: Any) -> str:
    """The graph as GraphML: characters that XML forbids are shown by signs, and values that are no finite number are left out."""
    held = nx.DiGraph(**_held(graph.graph))
    held.add_nodes_from((node, _held(about)) for node, about in graph.nodes(data=True))
    held.add_edges_from((source, target, _held(about)) for source, target, about in graph.edges(data=True))
    return "\n".join(nx.generate_graphml(held, named_key_ids=True))


def _held(about: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes as GraphML holds them."""
    finite = {name: value for name, value in about.items() if not isinstance(value, float) or math.isfinite(value)}
    return {name: printable(value) if isinstance(value, str) else value for name, value in finite.items()}


def as_transformer_lens_nodes(nodes: Iterable[Node], n_heads: int) -> list[Any]:
    """Nodes of ``transformer_lens.tools.analysis.attribution_patching``; an attention output becomes all of its heads, neurons their MLP.

    Raises:
        ComponentError: states, which that graph does not have.
    """
    from transformer_lens.tools.analysis.attribution_patching import Node as TransformerLensNode

    keys: list[Any] = []
    for node in nodes:
        if node.component == "resid_post":
            raise ComponentError(
                "TransformerLens' nodes are embeddings, heads and MLPs, not states; build the circuit from traces of modules or heads."
            )
        if node.component == "embed":
            keys.append(TransformerLensNode("embed", node.pos))
        elif node.component in ("attn_out", "head"):
            heads = node.units or range(n_heads)
            keys += [TransformerLensNode("attn_head_out", node.pos, layer=node.layer, head=head) for head in heads]
        elif node.component in ("mlp_out", "neuron"):
            keys.append(TransformerLensNode("mlp_out", node.pos, layer=node.layer))
    return list(dict.fromkeys(keys))
