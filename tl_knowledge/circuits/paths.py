"""Path interventions: what a set of nodes does, and what each passes on to each other (Wang et al. 2022; Goldowsky-Dill et al. 2023).

- A node's *effect* is its indirect effect: what comes back of the answer's probability (or of its logarithm, the contrast's metric) when the
  node alone is restored in the corrupted run.
- Its *need* is what is lost when it alone is held at its corrupted value in the clean run.
- An *edge* from A to B: restore A, hold every other node of the circuit at its corrupted value, and read what B becomes; write only that
  value into the corrupted run. The path from A to B meets no other node; from B on, everything follows freely.
- *Restored together*, *faithfulness* and *completeness* are shares of the total effect, see `Shares`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float

from tl_knowledge.circuits.contrast import Contrast
from tl_knowledge.circuits.interventions import Intervention, Value, intervene
from tl_knowledge.circuits.nodes import Edge, Node, NodeKind, hook_of, stage
from tl_knowledge.model import layer_count

__all__ = ["Shares", "answer_node", "find_edges", "measure_needs", "measure_nodes", "measure_shares"]

UNMOVED = 1e-5  # of the node's whole change: below this a reading is rounding


@dataclass(frozen=True, eq=False)
class Shares:
    """What a set of nodes explains, as shares of the total effect, ``[sample]``.

    Attributes:
        restored: all nodes restored in the corrupted run, everything else free.
        faithfulness: the clean run with everything *outside* the set held at its corrupted value: what the circuit does alone.
        completeness: what the clean run loses when the set is held at its corrupted values: 1 when nothing else can do its work.
    """

    restored: Float[torch.Tensor, " sample"]
    faithfulness: Float[torch.Tensor, " sample"]
    completeness: Float[torch.Tensor, " sample"]


def answer_node(contrast: Contrast) -> Node:
    """Where every circuit ends."""
    return Node("answer", layer_count(contrast.model), contrast.answer_positions[0])


def measure_nodes(contrast: Contrast, nodes: Sequence[Node], memory_budget: float) -> Float[torch.Tensor, "node sample"]:
    """Each node's effect, in the contrast's metric."""
    runs = [Intervention({node: "clean"}) for node in nodes]
    return intervene(contrast, runs, memory_budget).score - contrast.corrupted_score


def measure_needs(contrast: Contrast, nodes: Sequence[Node], memory_budget: float) -> Float[torch.Tensor, "node sample"]:
    """Each node's need, in the contrast's metric."""
    runs = [Intervention({**dict.fromkeys(contrast.sources, "clean"), node: "corrupted"}) for node in nodes]
    return contrast.clean_score - intervene(contrast, runs, memory_budget).score


def find_edges(contrast: Contrast, nodes: Sequence[Node], memory_budget: float) -> tuple[list[Edge], str]:
    """Every edge from a source or node to a node or the answer, and the engine that found them.

    One run for each sender says what all others receive; one run for each receiver whose value moved says what that is worth.
    """
    senders = [*contrast.sources, *nodes]
    runs: list[Intervention] = []
    for sender in senders:
        reached = tuple(node for node in nodes if _can_reach(sender, node))
        held: dict[Node, Value] = dict.fromkeys(reached, "corrupted")
        runs.append(Intervention({**held, sender: "clean"}, reached))
    sent = intervene(contrast, runs, memory_budget)
    answer, base = answer_node(contrast), contrast.corrupted_score
    edges = [_edge(sender, answer, sent.score[i] - base) for i, sender in enumerate(senders)]
    moved = [(i, node) for (i, node), value in sent.readings.items() if _has_moved(contrast, node, value)]
    received = intervene(contrast, [Intervention({node: sent.readings[i, node]}) for i, node in moved], memory_budget)
    edges += [_edge(senders[i], node, received.score[j] - base) for j, (i, node) in enumerate(moved)]
    return [edge for edge in edges if edge.weight != 0.0], sent.engine


def measure_shares(contrast: Contrast, sets: Sequence[Sequence[Node]], memory_budget: float) -> list[Shares]:
    """What several sets of nodes explain.

    Sets must not be empty; states are kept among states, everything else among modules, heads and neurons.
    """
    sources: dict[Node, Value] = dict.fromkeys(contrast.sources, "clean")
    runs: list[Intervention] = []
    for nodes in sets:
        runs.append(Intervention(dict.fromkeys(nodes, "clean")))
        outside: dict[Node, Value] = dict.fromkeys(_outside(contrast, nodes), "corrupted")
        inside: dict[Node, Value] = dict.fromkeys(nodes, "corrupted")
        runs += [Intervention(outside | sources), Intervention(sources | inside)]
    score = intervene(contrast, runs, memory_budget).score
    shares = (score - contrast.corrupted_score) / contrast.total_effect.mean()
    return [Shares(*row) for row in zip(shares[0::3], shares[1::3], 1 - shares[2::3], strict=True)]


_MODULES: tuple[tuple[NodeKind, NodeKind], ...] = (("attn_out", "head"), ("mlp_out", "neuron"))


def _outside(contrast: Contrast, nodes: Iterable[Node]) -> list[Node]:
    """Everything behind the first source that is in no node: whole modules, other heads and neurons of a module, other states."""
    chosen: dict[tuple[NodeKind, int, int], set[int]] = {}
    for node in nodes:
        chosen.setdefault((node.component, node.layer, node.pos), set()).update(node.units)
    states = any(component == "resid_post" for component, _, _ in chosen)
    first = min(node.pos for node in contrast.sources)
    found: list[Node] = []
    for layer in range(layer_count(contrast.model)):
        for pos in range(first, contrast.tokens.shape[1]):
            if states:
                found += [] if ("resid_post", layer, pos) in chosen else [Node("resid_post", layer, pos)]
            else:
                found += [node for whole, part in _MODULES for node in _rest(contrast, chosen, whole, part, layer, pos)]
    return [node for node in found if node not in contrast.sources]


def _rest(
    contrast: Contrast, chosen: Mapping[tuple[NodeKind, int, int], set[int]], whole: NodeKind, part: NodeKind, layer: int, pos: int
) -> list[Node]:
    """What of a module at one place is in no node."""
    if (whole, layer, pos) in chosen:
        return []
    kept = chosen.get((part, layer, pos))
    if kept is None:
        return [Node(whole, layer, pos)]
    count = contrast.clean[hook_of(Node(part, layer, pos, (0,)))].shape[2]
    others = tuple(unit for unit in range(count) if unit not in kept)
    return [Node(part, layer, pos, others)] if others else []


def _can_reach(sender: Node, receiver: Node) -> bool:
    return stage(sender) < stage(receiver) and sender.pos <= receiver.pos


def _has_moved(contrast: Contrast, node: Node, value: torch.Tensor) -> bool:
    """Whether a reading differs from the corrupted run by more than rounding."""
    name, units = hook_of(node), list(node.units)
    clean, corrupted = (run[name][:, node.pos] for run in (contrast.clean, contrast.corrupted))
    clean, corrupted = (clean[:, units], corrupted[:, units]) if units else (clean, corrupted)
    return bool((value - corrupted).norm() > UNMOVED * (clean - corrupted).norm())


def _edge(source: Node, target: Node, change: torch.Tensor) -> Edge:
    error = float(change.std() / len(change) ** 0.5) if len(change) > 1 else float("nan")
    return Edge(source, target, float(change.mean()), error)
