"""What sites do, each measured once: in one circuit, and where it is asked for in all circuits of one corrupted run."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float

from tl_knowledge.circuits.paths import measure_needs
from tl_knowledge.circuits.settings import CircuitSettings
from tl_knowledge.models.description import weight_fingerprint
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.models.routed import is_bare
from tl_knowledge.runs.contrast import Contrast
from tl_knowledge.runs.interventions import measure_nodes
from tl_knowledge.runs.nodes import Node

__all__ = ["Measured", "measured_once", "measured_sites"]

Known = dict[Node, torch.Tensor]
Measure = Callable[[Contrast, Sequence[Node], float], torch.Tensor]


class Measured:
    """What nodes do, each measured once.

    Args:
        known: of nodes that are measured already; what is measured here is added.
    """

    def __init__(self, contrast: Contrast, measure: Measure, memory_budget: float, known: Known) -> None:
        self.contrast, self.measure, self.memory_budget, self.known = contrast, measure, memory_budget, known

    def of(self, nodes: Sequence[Node]) -> Float[torch.Tensor, "node sample"]:
        """Of some nodes, at least one."""
        missing = [node for node in dict.fromkeys(nodes) if node not in self.known]
        if missing:
            self.known |= zip(missing, self.measure(self.contrast, missing, self.memory_budget), strict=True)
        return torch.stack([self.known[node] for node in nodes])


@dataclass(frozen=True, eq=False)
class _Shared:
    """What has been measured in one corrupted run of one prompt, on a model with its weights."""

    model: HookedModel
    weights: str
    device: torch.device
    tokens: tuple[int, ...]
    settings: CircuitSettings
    effects: Known = field(default_factory=dict)
    needs: Known = field(default_factory=dict)

    def is_run_of(self, other: _Shared) -> bool:
        """Whether both measure the same run; other than by its weights, a model is known by being the same object."""
        same = (self.weights, self.device, self.tokens, self.settings) == (other.weights, other.device, other.tokens, other.settings)
        return same and self.model is other.model


_shared: ContextVar[list[_Shared] | None] = ContextVar("what circuits have measured", default=None)


@contextmanager
def measured_once() -> Generator[None]:
    """For the length of a ``with``, measure what a site does once for all circuits of one corrupted run.

    Most of a circuit's work is the effect and the need of every candidate, and these are the same in `from_trace` and `from_neurons`, and whatever
    limit, rank or threshold is asked for. They are taken from an earlier circuit where weights, prompt, corruption, samples, answer and metric are
    its own, on the same model. Of edits, in a metric of your own, and on a model with somebody's hooks, everything is measured anew. What is changed
    about a model besides its weights, hooks and edits (its configuration, an activation function) is not seen: leave the ``with`` first.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> prompt = tlk.Prompt.from_fact(model, tlk.load_facts("factlm")[0])
        >>> traced = tlk.trace(model, prompt, component="mlp_out", samples=2, progress=False)
        >>> with tlk.circuits.measured_once():
        ...     circuits = [tlk.circuits.from_trace(model, prompt, traced, limit=limit, progress=False) for limit in (5, 10)]
        >>> circuits[0].nodes[0] in circuits[1].nodes
        True
    """
    outer = _shared.get()
    token = _shared.set([] if outer is None else outer)
    try:
        yield
    finally:
        _shared.reset(token)


def measured_sites(contrast: Contrast, settings: CircuitSettings, memory_budget: float) -> tuple[Measured, Measured]:
    """Effects and needs of a circuit's nodes, with those that `measured_once` has kept."""
    shared = _kept(contrast, settings)
    return Measured(contrast, measure_nodes, memory_budget, shared.effects), Measured(contrast, measure_needs, memory_budget, shared.needs)


def _kept(contrast: Contrast, settings: CircuitSettings) -> _Shared:
    """What there is for this run already, or a new place for it."""
    model, kept = contrast.model, _shared.get()
    of_run = replace(settings, components=(), limit=0, rank="need", threshold=0.0)
    wanted = _Shared(model, "", contrast.tokens.device, tuple(contrast.tokens[0].tolist()), of_run)
    if kept is None or settings.noise is None or settings.metric.kind == "function" or not is_bare(model):
        return wanted
    wanted = replace(wanted, weights=weight_fingerprint(model))
    there = next((run for run in kept if run.is_run_of(wanted)), None)
    if there is None:
        kept.append(wanted)
    return there or wanted
