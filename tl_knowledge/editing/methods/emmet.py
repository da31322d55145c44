"""EMMET: ROME's equality constraints for many facts at once (Gupta et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from typing_extensions import override

from tl_knowledge.door import public
from tl_knowledge.editing.edit import Edit
from tl_knowledge.editing.low_rank import LowRank
from tl_knowledge.editing.method import EditMethod
from tl_knowledge.editing.optimise.contexts import context_templates
from tl_knowledge.editing.optimise.fact_rows import EditedToken, rows_of
from tl_knowledge.editing.optimise.keys import check_bare_weight, context_weights, keys_and_outputs
from tl_knowledge.editing.optimise.linear_system import solved
from tl_knowledge.editing.optimise.objective import Objective
from tl_knowledge.editing.optimise.spread import BARE_WEIGHT
from tl_knowledge.editing.optimise.values import ValueSettings, optimise_values
from tl_knowledge.errors import InputError, check_choice
from tl_knowledge.models.bundled import BUNDLED
from tl_knowledge.models.checks import check_layers
from tl_knowledge.models.hook_names import block_output
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.models.published_settings import TRACED_LAYERS
from tl_knowledge.models.weights import output_hook
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.runs.key_moments import KeyMoments, needed_moments

__all__ = ["EMMET", "EMMETVariant"]

EMMETVariant: TypeAlias = Literal["ours", "gupta2024"]
"""Where the values are, and what stands in ``dW = C^-1 K (K^T C^-1 K + damping I)^-1 R``:

========= ================= ============================= ============================= ==========================
variant   values are at     ``K``                         ``R`` is what is missing of   one fact alone is
========= ================= ============================= ============================= ==========================
ours      ``W_out``'s output mean (``bare_weight``)        the mean over the contexts    damped like several
gupta2024 the block's output mean, the bare prompt a half the bare prompt               not damped
========= ================= ============================= ============================= ==========================
"""

_MEMITS = ((10, 5),)


@public
@dataclass(frozen=True)
class EMMET(EditMethod):
    """Settings of EMMET: ``dW = C^-1 K (K^T C^-1 K + damping I)^-1 R``.

    ``variant="gupta2024"`` is Gupta et al.'s program; `for_model` has its settings for GPT-2 XL and GPT-J. The program weighs the moments (by
    1,000 and 10,000), which makes its damping of 0.1 one of 100 and 1,000 here. By default values are optimised at ``W_out``'s output as in ROME,
    and keys and outputs are means over the same contexts: without damping, one fact's edit is R-ROME's.

    Attributes:
        layer: which block's ``W_out`` to edit.
        variant: where the values are, and what is subtracted from them.
        damping: how far the constraints may give way; 0 holds them exactly.
        at: which token's key is edited.
        contexts: how many generated contexts of how many tokens.
        bare_weight: how much the bare prompt weighs in the means of ``"ours"``; ``None`` weighs it like any other.
        objective: to write the target (default), to erase it, or to force it under noise.
        value: of the values' optimisation.
        seed: of the contexts.

    Raises:
        InputError: an unknown variant, a negative damping, or a bare_weight that is no weight.
    """

    needs_moments: ClassVar[bool] = True
    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: {
            "layer": TRACED_LAYERS[name],
            "damping": 100.0,
            "value": ValueSettings(clamp=1.5, stop_below=0.5),  # optimised further, 200 facts at once lose neighbours
        }
        for name in BUNDLED
    }
    published_variants: ClassVar[Mapping[str, Mapping[str, Mapping[str, Any]]]] = {
        "gupta2024": {
            "gpt2-xl": {"layer": 17, "damping": 100.0, "contexts": _MEMITS, "value": ValueSettings(steps=20, clamp=0.75)},
            "gpt-j-6b": {"layer": 5, "damping": 1000.0, "contexts": _MEMITS, "value": ValueSettings(steps=25, clamp=0.75)},
            "factlm": {"layer": TRACED_LAYERS["factlm"], "damping": 30.0, "contexts": _MEMITS, "value": ValueSettings(steps=25, clamp=0.75)},
        }
    }

    layer: int
    variant: EMMETVariant = "ours"
    damping: float = 0.1
    at: EditedToken = "subject"
    contexts: tuple[tuple[int, int], ...] = ((5, 10), (10, 10))
    bare_weight: float | None = None
    objective: Objective = field(default_factory=Objective)
    value: ValueSettings = field(default_factory=ValueSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("variant", self.variant, EMMETVariant)
        if self.damping < 0:
            raise InputError(f"damping={self.damping} is negative; pass 0 to hold every constraint exactly, or a little more (0.1 is usual).")
        check_bare_weight(self.bare_weight)

    @override
    def plan(self, model: HookedModel, facts: Sequence[Fact], moments: KeyMoments | None) -> Edit:
        """One edit of all facts.

        Raises:
            InputError: no moments.
            ComponentError: no such layer.
            NumericalError: moments or keys that make the update singular.
        """
        check_layers(model, [self.layer])
        moments = needed_moments(moments, "EMMET")
        moments.of_layer(self.layer)
        as_program = self.variant == "gupta2024"
        site = block_output(self.layer) if as_program else output_hook(model, self.layer)
        templates = context_templates(model, self.contexts, seed=self.seed)
        batch = [rows_of(model, fact, templates, self.at, self.objective, essence_alike=as_program) for fact in facts]
        values = optimise_values(model, batch, self.layer, site, self.value)
        known = [keys_and_outputs(model, rows, self.layer, site) for rows in batch]
        of_keys, of_outputs = (BARE_WEIGHT, 1.0) if as_program else (self.bare_weight, self.bare_weight)
        keys = torch.stack([context_weights(own, of_keys) @ own for own, _ in known])
        outputs = torch.stack([context_weights(own, of_outputs) @ own for _, own in known])
        wanted = torch.stack([value.wanted for value in values])
        directions = moments.solve(self.layer, keys.cpu()).to(keys)
        damping = 0.0 if as_program and len(facts) == 1 else self.damping
        overlap = keys @ directions.T + damping * torch.eye(len(keys), dtype=keys.dtype, device=keys.device)
        factors = LowRank(solved(overlap, directions, f"the facts' keys in layer {self.layer}").T, wanted - outputs)
        notes = [value.notes(fact) for value, fact in zip(values, facts, strict=True)]
        return Edit.planned(model, self, {self.layer: factors}, notes=notes, keys={self.layer: keys}, tokens=moments.tokens)
