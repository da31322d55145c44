"""One fact of a set: needs and effects of all its sites, and what role nodes explain of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tl_knowledge.arrays import FloatArray
from tl_knowledge.circuits.assemble import SMALLEST_TOTAL, nothing_in
from tl_knowledge.circuits.paths import measure_needs, measure_shares
from tl_knowledge.circuits.sets.settings import FactSetSettings, RoleNode
from tl_knowledge.models.protocol import HookedModel, layer_count
from tl_knowledge.runs.contrast import Contrast, node_hooks, noise_contrast
from tl_knowledge.runs.interventions import measure_nodes
from tl_knowledge.runs.metric import PROBABILITY
from tl_knowledge.runs.nodes import Node
from tl_knowledge.runs.questions import Question
from tl_knowledge.runs.roles import ROLES, role_positions
from tl_knowledge.tracing import fact_seed

__all__ = ["Places", "contrast_of", "measure_fact", "role_values", "share_rows", "sites_of"]


@dataclass(frozen=True)
class Places:
    """Where a fact's subject and relation are.

    Attributes:
        subject, relation: their positions, ascending.
        length: of the prompt, in tokens.
    """

    subject: tuple[int, ...]
    relation: tuple[int, ...]
    length: int

    def of(self, role: str) -> tuple[int, ...]:
        """A role's positions."""
        return _roles(self)[role]


def sites_of(nodes: Iterable[RoleNode], places: Places) -> list[Node]:
    """The sites that some role nodes are in a fact, each once, in their order."""
    roles = _roles(places)
    return list(dict.fromkeys(Node(node.component, node.layer, pos) for node in nodes for pos in roles[node.role]))


def contrast_of(model: HookedModel, question: Question, settings: FactSetSettings) -> Contrast:
    """The fact's clean and corrupted runs; its noise comes from the set's seed and its text, as in `trace_facts`."""
    noise = settings.noise.with_seed(fact_seed(question.fact, seed=settings.seed))
    span = question.prompt.span(settings.corrupt).positions
    hooks = node_hooks(model, settings.components)
    return noise_contrast(model, question.prompt, question.answer, span, noise, settings.samples, hooks, settings.metric)


def measure_fact(model: HookedModel, question: Question, settings: FactSetSettings, memory_budget: float) -> dict[str, Any] | str:
    """A fact as one row: its places and probabilities, and needs and effects at every site; or why nothing is there to measure.

    Needs and effects are shares of the fact's total effect, ``[component layer pos]`` in one list, 0 before the corrupted tokens; effects are
    measured for the ranks that use them only.
    """
    contrast, fact = contrast_of(model, question, settings), question.fact
    total, corrupted = float(contrast.total_effect.mean()), float(contrast.corrupted_probability.mean())
    if abs(total) < SMALLEST_TOTAL:
        return f"{nothing_in(contrast, fact.target)}, so there is nothing to explain"
    if total < 0 and settings.metric != PROBABILITY:
        lowered = f"the corruption does not lower {settings.metric.of_answer(fact.target)} (it rises by {settings.metric.number(-total)})"
        return f"{lowered}, so there is no effect to take shares of"
    first = min(node.pos for node in contrast.sources)
    shape = (len(settings.components), layer_count(model), len(question.prompt))
    last = shape[1] - 1  # of whose sites the answer hears those only that stand where it is predicted
    heard = [(layer, pos) for layer in range(shape[1]) for pos in range(first, shape[2]) if layer < last or pos in contrast.answer_positions]
    places = [(c, layer, pos) for c in range(shape[0]) for layer, pos in heard]
    nodes = [Node(settings.components[c], layer, pos) for c, layer, pos in places]

    def spread(values: Any) -> list[float]:
        full = np.zeros(shape)
        full[tuple(np.array(places).T)] = values.mean(1).double().cpu().numpy() / total
        return full.ravel().tolist()

    return {
        "index": question.index,
        "subject": fact.subject,
        "template": fact.template,
        "target": fact.target,
        "relation": fact.relation,
        "subject_positions": list(question.prompt.subject.positions),
        "relation_positions": list(question.prompt.relation.positions),
        "length": len(question.prompt),
        "clean_probability": contrast.clean_probability,
        "corrupted_probability": corrupted,
        "total_effect": total,
        "need": spread(measure_needs(contrast, nodes, memory_budget)),
        "effect": [] if settings.rank == "need" else spread(measure_nodes(contrast, nodes, memory_budget)),
    }


def role_values(values: Sequence[float], places: Places, components: int) -> FloatArray:
    """What `measure_fact` gives at positions, summed over the tokens of every role: ``[component layer role]``, roles in the order of `ROLES`."""
    per_position = np.array(values, dtype=np.float64).reshape(components, -1, places.length)
    roles = _roles(places)
    return np.stack([per_position[:, :, list(roles[role])].sum(-1) for role in ROLES], axis=-1)


def share_rows(
    contrast: Contrast, index: int, nodes: Sequence[RoleNode], steps: Sequence[int], places: Places, memory_budget: float
) -> list[dict[str, Any]]:
    """What the first nodes explain of one fact, one row for each number of nodes."""
    sets = [sites_of(nodes[:count], places) for count in steps]
    shares = measure_shares(contrast, sets, memory_budget, states=nodes[0].component == "resid_post")
    names = ("restored", "faithfulness", "completeness")
    return [
        {"index": index, "nodes": count, "sites": len(sites)} | {name: float(getattr(share, name).double().mean()) for name in names}
        for count, sites, share in zip(steps, sets, shares, strict=True)
    ]


def _roles(places: Places) -> Mapping[Any, tuple[int, ...]]:
    return role_positions(places.subject, places.relation, places.length)
