"""Path interventions: what a set of nodes does, and what each passes on to each other (Wang et al. 2022; Goldowsky-Dill et al. 2023).

- A node's *effect* is its indirect effect: what comes back of the answer's probability (or of its logarithm, the contrast's metric) when the
  node alone is restored in the corrupted run.
- Its *need* is what is lost when it alone is held at its corrupted value in the clean run.
- An *edge* from A to B: restore A, hold every other node of the circuit at its corrupted value, and read what B becomes; write only that
  value into the corrupted run. The path from A to B meets no other node; from B on, everything follows freely.
- An edge's *need*: the circuit is kept alone (everything outside it held at its corrupted value), and B alone hears A as it is in the corrupted
  run; this is what the answer loses. Restoring one path shows little where several must come together; cutting one shows it.
- *Restored together*, *faithfulness* and *completeness* are shares of the total effect, see `Shares`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float

from tl_knowledge.circuits.edges import Edge
from tl_knowledge.models.protocol import layer_count
from tl_knowledge.runs.contrast import Contrast
from tl_knowledge.runs.interventions import Intervention, Value, intervene, known_run
from tl_knowledge.runs.nodes import Node, NodeKind, hook_of, stage

__all__ = ["Shares", "answer_node", "find_edges", "find_needs", "measure_needs", "measure_shares", "measure_wired"]

UNMOVED = 1e-5  # of the node's whole change: below this a reading is rounding


@dataclass(frozen=True, eq=False)
class Shares:
    """What a set of nodes explains, as shares of the total effect, ``[sample]``.

    Attributes:
        restored: all nodes restored in the corrupted run, everything else free.
        faithfulness: the clean run with everything *outside* the set held at its corrupted value: what the circuit does alone.
        completeness: what the clean run loses when the set is held at its corrupted values: 1 when nothing else can do its work.
        wired: faithfulness when, besides, every node hears only those nodes that an edge of the circuit leads from.
    """

    restored: Float[torch.Tensor, " sample"]
    faithfulness: Float[torch.Tensor, " sample"]
    completeness: Float[torch.Tensor, " sample"]
    wired: Float[torch.Tensor, " sample"] | None = None


def answer_node(contrast: Contrast) -> Node:
    """Where every circuit ends."""
    return Node("answer", layer_count(contrast.model), contrast.answer_positions[0])


def measure_needs(contrast: Contrast, nodes: Sequence[Node], memory_budget: float) -> Float[torch.Tensor, "node sample"]:
    """Each node's need, in the contrast's metric."""
    runs = [Intervention({**dict.fromkeys(contrast.sources, "clean"), node: "corrupted"}) for node in nodes]
    return contrast.clean_score - intervene(contrast, runs, memory_budget).score


def find_edges(contrast: Contrast, nodes: Sequence[Node], memory_budget: float) -> tuple[list[Edge], str]:
    """Every edge from a source or node to a node or the answer, and the engine that measured them.

    One run for each sender A says what all others receive from it; one run for each receiver B whose value moved says what that is worth. Both
    are the corrupted run but for what is written (C stands for all other nodes)::

        run A:    A := clean      C := corrupted      B is read (b), then := corrupted    answer: weight of A -> answer
        run A B:  A, C follow freely                  B := b                              answer: weight of A -> B

    In the first run every way from A to B but the direct one is shut, because each node on it is held at its corrupted value.
    """
    senders = [*contrast.sources, *nodes]
    runs: list[Intervention] = []
    for sender in senders:
        receivers = tuple(node for node in nodes if _can_reach(sender, node))
        held: dict[Node, Value] = dict.fromkeys(receivers, "corrupted")
        runs.append(Intervention({**held, sender: "clean"}, receivers))
    sent = intervene(contrast, runs, memory_budget)
    answer, base = answer_node(contrast), contrast.corrupted_score
    edges = [_edge(sender, answer, sent.score[i] - base) for i, sender in enumerate(senders)]
    moved = [(i, node) for (i, node), value in sent.readings.items() if _has_moved(contrast, node, value)]
    received = intervene(contrast, [Intervention({node: sent.readings[i, node]}) for i, node in moved], memory_budget)
    edges += [_edge(senders[i], node, received.score[j] - base) for j, (i, node) in enumerate(moved)]
    return [edge for edge in edges if edge.weight != 0.0], sent.engine


def find_needs(contrast: Contrast, nodes: Sequence[Node], memory_budget: float) -> dict[tuple[Node, Node], float]:
    """What the circuit, kept alone, loses when one edge is cut: from every source or node to every node and to the answer.

    In all runs the sources are clean and everything outside the circuit is corrupted. Then (C stands for all other nodes)::

        run 0:    A, B, C follow freely and are read (a, b, c)                            answer: s, the circuit alone
        run A:    A := corrupted  C := c              B is read (b', B without A), := b   answer: s - need of A -> answer
        run A B:  A, C follow freely                  B := b'                             answer: s - need of A -> B

    Again the second kind shuts every way from A to B but the direct one: each node on it is held at the value that it has in run 0.
    """
    sources: dict[Node, Value] = dict.fromkeys(contrast.sources, "clean")
    outside: dict[Node, Value] = dict.fromkeys(_outside(contrast, nodes), "corrupted")
    alone = sources | outside
    kept, known = known_run(contrast, Intervention(alone, tuple(nodes)), memory_budget)
    values: dict[Node, Value] = {node: kept.readings[0, node] for node in nodes}
    senders = [*contrast.sources, *nodes]
    runs = [Intervention(_with(alone | values, sender, "corrupted"), tuple(n for n in nodes if _can_reach(sender, n))) for sender in senders]
    without = intervene(contrast, runs, memory_budget, known)
    needs = {(sender, answer_node(contrast)): float((kept.score[0] - without.score[i]).mean()) for i, sender in enumerate(senders)}
    changed = [(i, node) for (i, node), value in without.readings.items() if _differ(value, kept.readings[0, node], _span(contrast, node))]
    cut = intervene(contrast, [Intervention(_with(alone, node, without.readings[i, node])) for i, node in changed], memory_budget, known)
    return needs | {(senders[i], node): float((kept.score[0] - cut.score[j]).mean()) for j, (i, node) in enumerate(changed)}


def measure_shares(contrast: Contrast, sets: Sequence[Sequence[Node]], memory_budget: float, *, states: bool = False) -> list[Shares]:
    """What several sets of nodes explain.

    States are kept among states, everything else among modules, heads and neurons.

    Args:
        states: whether an empty set is one of states.
    """
    sources: dict[Node, Value] = dict.fromkeys(contrast.sources, "clean")
    runs: list[Intervention] = []
    for nodes in sets:
        runs.append(Intervention(dict.fromkeys(nodes, "clean") or dict.fromkeys(contrast.sources, "corrupted")))
        outside: dict[Node, Value] = dict.fromkeys(_outside(contrast, nodes, states=states), "corrupted")
        inside: dict[Node, Value] = dict.fromkeys(nodes, "corrupted")
        runs += [Intervention(outside | sources), Intervention(sources | inside)]
    score = intervene(contrast, runs, memory_budget).score
    shares = (score - contrast.corrupted_score) / contrast.total_effect.mean()
    return [Shares(*row) for row in zip(shares[0::3], shares[1::3], 1 - shares[2::3], strict=True)]


_MODULES: tuple[tuple[NodeKind, NodeKind], ...] = (("attn_out", "head"), ("mlp_out", "neuron"))


def _outside(contrast: Contrast, nodes: Sequence[Node], *, states: bool = False) -> list[Node]:
    """Everything from the first source on that is in no node: whole modules, other heads and neurons of a module, other states."""
    taken: dict[tuple[NodeKind, int, int], set[int]] = {}
    for node in nodes:
        taken.setdefault((node.component, node.layer, node.pos), set()).update(node.units)
    states = any(component == "resid_post" for component, _, _ in taken) if nodes else states
    first = min(node.pos for node in contrast.sources)
    others: list[Node] = []
    for layer in range(layer_count(contrast.model)):
        for pos in range(first, contrast.tokens.shape[1]):
            if states:
                others += [] if ("resid_post", layer, pos) in taken else [Node("resid_post", layer, pos)]
            else:
                others += [node for whole, part in _MODULES for node in _rest(contrast, taken, whole, part, layer, pos)]
    return [node for node in others if node not in contrast.sources]


def _rest(
    contrast: Contrast, taken: Mapping[tuple[NodeKind, int, int], set[int]], whole: NodeKind, part: NodeKind, layer: int, pos: int
) -> list[Node]:
    """What of a module at one place is in no node."""
    if (whole, layer, pos) in taken:
        return []
    kept = taken.get((part, layer, pos))
    if kept is None:
        return [Node(whole, layer, pos)]
    count = contrast.clean[hook_of(Node(part, layer, pos, (0,)))].shape[2]
    others = tuple(unit for unit in range(count) if unit not in kept)
    return [Node(part, layer, pos, others)] if others else []


def _can_reach(sender: Node, receiver: Node) -> bool:
    return stage(sender) < stage(receiver) and sender.pos <= receiver.pos


def _has_moved(contrast: Contrast, node: Node, value: torch.Tensor) -> bool:
    """Whether a reading differs from the corrupted run by more than rounding."""
    corrupted = contrast.corrupted[hook_of(node)][:, node.pos]
    return _differ(value, corrupted[:, list(node.units)] if node.units else corrupted, _span(contrast, node))


def _differ(first: torch.Tensor, second: torch.Tensor, whole: float) -> bool:
    return float((first - second).norm()) > UNMOVED * whole


def _span(contrast: Contrast, node: Node) -> float:
    """How far the node's clean values are from its corrupted ones."""
    moved = contrast.clean[hook_of(node)][:, node.pos] - contrast.corrupted[hook_of(node)][:, node.pos]
    return float((moved[:, list(node.units)] if node.units else moved).norm())


def _edge(source: Node, target: Node, change: torch.Tensor) -> Edge:
    error = float(change.std() / len(change) ** 0.5) if len(change) > 1 else float("nan")
    return Edge(source, target, float(change.mean()), standard_error=error)


def measure_wired(contrast: Contrast, nodes: Sequence[Node], edges: Sequence[Edge], memory_budget: float) -> Float[torch.Tensor, " sample"]:
    """Faithfulness when every node hears only the nodes that have an edge to it, as a share of the total effect, ``[sample]``.

    Nodes are computed one stage after the other: a node's parents have the values that this circuit gave them, all else is corrupted. (That a
    node itself is held does not matter: it is read before it is written.)
    """
    outside: dict[Node, Value] = dict.fromkeys([*_outside(contrast, nodes), *nodes], "corrupted")
    answer = answer_node(contrast)
    heard: dict[Node, list[Node]] = {node: [edge.source for edge in edges if edge.target == node] for node in (*nodes, answer)}
    values: dict[Node, Value] = dict.fromkeys(contrast.sources, "clean")
    for place in sorted({stage(node) for node in nodes}):
        group = [node for node in nodes if stage(node) == place]
        runs = [Intervention(outside | _heard(heard[node], values), (node,), scored=False) for node in group]
        readings = intervene(contrast, runs, memory_budget).readings
        values.update({node: readings[i, node] for i, node in enumerate(group)})
    final = intervene(contrast, [Intervention(outside | _heard(heard[answer], values))], memory_budget).score[0]
    return (final - contrast.corrupted_score) / contrast.total_effect.mean()


def _heard(parents: Sequence[Node], values: Mapping[Node, Value]) -> dict[Node, Value]:
    return {parent: values[parent] for parent in parents}


def _with(writes: Mapping[Node, Value], node: Node, value: Value) -> dict[Node, Value]:
    changed = dict(writes)
    changed[node] = value
    return changed
