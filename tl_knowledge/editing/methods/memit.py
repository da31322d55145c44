"""MEMIT: many facts at once, spread over several layers (Meng et al. 2023, algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from typing_extensions import override

from tl_knowledge.door import public
from tl_knowledge.editing.edit import Edit
from tl_knowledge.editing.low_rank import LowRank
from tl_knowledge.editing.method import EditMethod
from tl_knowledge.editing.optimise.fact_rows import EditedToken
from tl_knowledge.editing.optimise.linear_system import solved
from tl_knowledge.editing.optimise.objective import Objective
from tl_knowledge.editing.optimise.spread import Keys, Placement, spread_over_layers
from tl_knowledge.editing.optimise.values import ValueSettings
from tl_knowledge.errors import InputError, check_choice
from tl_knowledge.models.bundled import BUNDLED
from tl_knowledge.models.checks import check_layers
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.runs.key_moments import KeyMoments, needed_moments

__all__ = ["MEMIT", "MEMITVariant"]

MEMITVariant: TypeAlias = Literal["ours", "wei2024"]
"""Meng et al.'s program with every fact by itself, or Wei et al.'s from the relation's side, where the old object's prompt should say "None", too."""


@public
@dataclass(frozen=True)
class MEMIT(EditMethod):
    """Settings of MEMIT: ``dW^T = R K^T (moment_weight C + K K^T)^-1`` in every layer.

    With the published settings of `for_model` the edits are those of Meng et al.'s program (FactLM's weights are on the scale of its keys).

    Attributes:
        layers: the edited layers, ascending; what the facts should be is optimised at the output of the last.
        variant: ``"wei2024"`` for facts of the relation's side (`RelationFact`).
        moment_weight: lambda, how much the keys of other text weigh against the facts' (15,000 for GPT-J, 20,000 for GPT-2 XL).
        at: which token's key is edited.
        contexts: how many generated contexts of how many tokens.
        objective: to write the target (default), to erase it, or to force it under noise.
        value: of the values' optimisation.
        seed: of the contexts.

    Raises:
        InputError: an unknown variant.
    """

    needs_moments: ClassVar[bool] = True
    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "gpt2-xl": {"layers": (13, 14, 15, 16, 17), "moment_weight": 20_000.0, "value": ValueSettings(steps=20, clamp=0.75)},
        "gpt-j-6b": {"layers": (3, 4, 5, 6, 7, 8), "moment_weight": 15_000.0, "value": ValueSettings(steps=25, clamp=0.75)},
    } | {name: {"layers": (2, 3), "moment_weight": 30.0} for name in BUNDLED}

    layers: tuple[int, ...]
    variant: MEMITVariant = "ours"
    moment_weight: float = 15_000.0
    at: EditedToken = "subject"
    contexts: tuple[tuple[int, int], ...] = ((10, 5),)
    objective: Objective = field(default_factory=Objective)
    value: ValueSettings = field(default_factory=lambda: ValueSettings(steps=25, clamp=0.75))
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("variant", self.variant, MEMITVariant)

    @classmethod
    @override
    def small(cls) -> MEMIT:
        return replace(super().small(), moment_weight=2.0)

    @override
    def plan(self, model: HookedModel, facts: Sequence[Fact], moments: KeyMoments | None) -> Edit:
        """One edit of all facts.

        Raises:
            InputError: no moments, a weight that is not positive, layers that do not ascend, or facts that do not fit the variant.
            ComponentError: no such layer.
            NumericalError: moments or keys that make the update singular, or a neuron that fires for a fact and for no token of the moments.
        """
        check_layers(model, self.layers)
        moments = needed_moments(moments, type(self).__name__)
        if self.moment_weight <= 0:
            raise InputError(f"moment_weight={self.moment_weight} keeps nothing of other text; pass a positive number, such as 15000.")

        def solve(layer: int, keys: Keys, change: torch.Tensor) -> LowRank:
            kept = self.moment_weight * moments.of_layer(layer).to(keys)
            fires = moments.firing(layer, keys).to(keys.device)
            return LowRank(solved(kept + keys.T @ keys, keys.T, f"the keys and moments of layer {layer}", among=fires), change)

        removed, placement = self.variant == "wei2024", self.placement(model)
        return spread_over_layers(model, facts, self, solve, with_removed=removed, placement=placement, tokens=moments.tokens)

    def placement(self, model: HookedModel) -> Placement | None:
        """Where the values are optimised, and how they are shared out among the layers; ``None``: at the block's output, in even parts."""
        return None
