"""EMMET: ROME's equality constraints for many facts at once (Gupta et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from typing_extensions import override

from tl_knowledge.door import public
from tl_knowledge.editing.edit import Edit, LowRank
from tl_knowledge.editing.method import EditMethod
from tl_knowledge.editing.optimise.contexts import context_templates
from tl_knowledge.editing.optimise.fact_rows import EditedToken, rows_of
from tl_knowledge.editing.optimise.keys import check_bare_weight, context_weights, keys_and_outputs
from tl_knowledge.editing.optimise.objective import Objective
from tl_knowledge.editing.optimise.values import ValueSettings, optimise_values
from tl_knowledge.errors import InputError
from tl_knowledge.models.checks import check_layers
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.models.weights import output_hook
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.runs.key_moments import KeyMoments, needed_moments

__all__ = ["EMMET"]


@public
@dataclass(frozen=True)
class EMMET(EditMethod):
    """Settings of EMMET: ``dW = C^-1 K (K^T C^-1 K + damping I)^-1 R``.

    The closed form is Gupta et al.'s; the rest is our choice, so no ``variant`` carries their name and `for_model` gives no more than ROME's layer.
    In their program values are optimised at the block's output as in MEMIT, ``R`` is what the bare prompt lacks of them, the moments are weighed
    (by 1,000 for GPT-2 XL, which makes their damping of 0.1 one of 100 here), and a single edit is not damped. Here values are optimised at
    ``W_out``'s output as in ROME, and keys and outputs are means over the same contexts: without damping, one fact's edit is R-ROME's.

    Attributes:
        layer: which block's ``W_out`` to edit.
        damping: how far the constraints may give way; 0 holds them exactly.
        at: which token's key is edited.
        contexts: how many generated contexts of how many tokens.
        bare_weight: how much the bare prompt weighs in the means over contexts; ``None`` weighs it like any other.
        objective: to write the target (default), to erase it, or to force it under noise.
        value: of the values' optimisation.
        seed: of the contexts.
    """

    needs_moments: ClassVar[bool] = True

    layer: int
    damping: float = 0.1
    at: EditedToken = "subject"
    contexts: tuple[tuple[int, int], ...] = ((5, 10), (10, 10))
    bare_weight: float | None = None
    objective: Objective = field(default_factory=Objective)
    value: ValueSettings = field(default_factory=ValueSettings)
    seed: int = 0

    @override
    def plan(self, model: HookedModel, facts: Sequence[Fact], moments: KeyMoments | None) -> Edit:
        """One edit of all facts.

        Raises:
            InputError: no moments, a negative damping, or a bare_weight that is no weight.
            ComponentError: no such layer.
        """
        check_layers(model, [self.layer])
        moments = needed_moments(moments, "EMMET")
        if self.damping < 0:
            raise InputError(f"damping={self.damping} is negative; pass 0 to hold every constraint exactly, or a little more (0.1 is usual).")
        check_bare_weight(self.bare_weight)
        moments.of_layer(self.layer)
        site = output_hook(model, self.layer)
        templates = context_templates(model, self.contexts, seed=self.seed)
        batch = [rows_of(model, fact, templates, self.at, self.objective) for fact in facts]
        values = optimise_values(model, batch, self.layer, site, self.value)
        known = [keys_and_outputs(model, rows, self.layer, site) for rows in batch]
        keys, outputs = (torch.stack([context_weights(pair[k], self.bare_weight) @ pair[k] for pair in known]) for k in (0, 1))
        wanted = torch.stack([value.wanted for value in values])
        directions = moments.solve(self.layer, keys.cpu()).to(keys)
        overlap = keys @ directions.T + self.damping * torch.eye(len(keys), dtype=keys.dtype, device=keys.device)
        factors = LowRank(torch.linalg.solve(overlap, directions).T, wanted - outputs)
        notes = [value.notes(fact) for value, fact in zip(values, facts, strict=True)]
        return Edit.planned(model, self, {self.layer: factors}, notes=notes, keys={self.layer: keys}, tokens=moments.tokens)
