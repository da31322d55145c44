"""What is done to every chunk of a fact set's circuit, in this process or on a Ray actor: first the needs, then what the nodes explain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from tl_knowledge.circuits.sets.measure import Places, contrast_of, measure_fact, share_rows
from tl_knowledge.circuits.sets.parts import Chunk, NeedPart, SharePart
from tl_knowledge.circuits.sets.settings import FactSetSettings, RoleNode
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.runs.questions import ask_facts

__all__ = ["NeedJob", "ShareJob"]


@dataclass(frozen=True)
class NeedJob:
    """Needs and effects of a chunk's facts.

    Attributes:
        settings: of the run.
        weights: fingerprint of the model's.
        memory_budget: bytes that the runs' activations may take.
        accepts: as `PartJob`.
    """

    settings: FactSetSettings
    weights: str
    memory_budget: float
    accepts: Mapping[str, bool] = field(default_factory=dict[str, bool])

    def on(self, model: HookedModel) -> Callable[[Chunk], NeedPart]:
        """What measures a chunk."""
        return lambda chunk: self._part(model, chunk)

    def _part(self, model: HookedModel, chunk: Chunk) -> NeedPart:
        questions, skipped = ask_facts(model, chunk, multi_token=False, known_only=self.settings.known_only, against=self.settings.metric.against)
        rows: list[dict[str, Any]] = []
        for question in questions:
            measured = measure_fact(model, question, self.settings, self.memory_budget)
            if isinstance(measured, str):
                skipped[question.index] = measured
            else:
                rows.append(measured)
        return NeedPart(pd.DataFrame(rows), skipped, self.settings, self.weights)


@dataclass(frozen=True)
class ShareJob:
    """What the circuit's nodes explain of a chunk's facts that could be measured.

    Attributes:
        settings, weights, memory_budget, accepts: as `NeedJob`.
        nodes: the circuit's.
        steps: numbers of nodes.
        places: of every fact, by its index.
    """

    settings: FactSetSettings
    weights: str
    memory_budget: float
    nodes: tuple[RoleNode, ...]
    steps: Sequence[int]
    places: Mapping[int, Places]
    accepts: Mapping[str, bool] = field(default_factory=dict[str, bool])

    def on(self, model: HookedModel) -> Callable[[Chunk], SharePart]:
        """What measures a chunk."""
        return lambda chunk: self._part(model, chunk)

    def _part(self, model: HookedModel, chunk: Chunk) -> SharePart:
        rows: list[dict[str, Any]] = []
        for question in ask_facts(model, chunk, multi_token=False, known_only=False)[0]:
            contrast = contrast_of(model, question, self.settings)
            rows += share_rows(contrast, question.index, self.nodes, self.steps, self.places[question.index], self.memory_budget)
        return SharePart(pd.DataFrame(rows), self.nodes, self.settings, self.weights)
