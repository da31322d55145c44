"""ROME: one fact as a rank-one change of one layer's ``W_out`` (Meng et al. 2022, section 3.1; R-ROME: Gupta et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal, TypeAlias, get_args

import torch

from tl_knowledge.editing.contexts import context_templates
from tl_knowledge.editing.edit import Edit, LowRank
from tl_knowledge.editing.keys import check_bare_weight, context_weights, keys_and_outputs
from tl_knowledge.editing.method import edit_provenance
from tl_knowledge.editing.moments import KeyMoments, needed_moments
from tl_knowledge.editing.objective import Objective
from tl_knowledge.editing.requests import EditedToken, Rows, rows_of
from tl_knowledge.editing.values import Optimised, ValueSettings, optimise_values
from tl_knowledge.errors import InputError
from tl_knowledge.facts import Fact
from tl_knowledge.model import HookedModel, check_layers
from tl_knowledge.published import published
from tl_knowledge.weights import output_hook

__all__ = ["ROME", "ROMEPreset"]

ROMEPreset: TypeAlias = Literal["r_rome", "p_rome", "rome_code"]
"""Which prompt's key stands where in ``dW = u (v* - W k)^T / (k . u)``, ``u = C^-1 k*``:

========== ======================= =====================
preset     ``k*`` of ``u``         ``k`` and ``W k``
========== ======================= =====================
r_rome     mean over the contexts  mean over the contexts
rome_code  mean over the contexts  the bare prompt
p_rome     the bare prompt         the bare prompt
========== ======================= =====================

The mismatch in the original program is what makes sequential edits collapse.
"""

LAYERS = {
    "gpt2": (5, 4.0),
    "gpt2-medium": (8, 3.0),
    "gpt2-large": (12, 4.0),
    "gpt2-xl": (17, 4.0),
    "gpt-j-6b": (5, 4.0),
    "gpt-neox-20b": (15, 4.0),
    "factlm": (0, 4.0),
}


@dataclass(frozen=True)
class ROME:
    """Settings of ROME.

    Attributes:
        layer: which block's ``W_out`` to edit; `for_model` knows the published choices.
        preset: which key stands where.
        token: which token's key is edited.
        contexts: how many generated contexts of how many tokens: ``((tokens, count), ...)``.
        bare_weight: how much the bare prompt weighs in r_rome's means: a half, as in MEMIT, so that the prompt that is asked is surely edited;
            ``None``: no more than any other context (R-ROME's own).
        objective: to write the target (default), to erase it, or to force it under noise.
        value: of the value's optimisation.
        seed: of the contexts.
    """

    layer: int
    preset: ROMEPreset = "r_rome"
    token: EditedToken = "subject_last"
    contexts: tuple[tuple[int, int], ...] = ((5, 10), (10, 10))
    bare_weight: float | None = 0.5
    objective: Objective = field(default_factory=Objective)
    value: ValueSettings = field(default_factory=ValueSettings)
    seed: int = 0

    @classmethod
    def for_model(cls, model: HookedModel) -> ROME:
        """The published layer and clamp of a model.

        Raises:
            InputError: none is published.
        """
        layer, clamp = published(model, LAYERS, "ROME(layer=...)")
        return cls(layer, value=ValueSettings(clamp=clamp))

    def plan(self, model: HookedModel, facts: Sequence[Fact], moments: KeyMoments | None) -> Edit:
        """The edit of one fact.

        Raises:
            InputError: several facts, or no moments.
            ComponentError: no such layer.
        """
        check_layers(model, [self.layer])
        if len(facts) != 1:
            raise InputError(f"ROME edits one fact at a time, not {len(facts)}; plan them one by one, or use MEMIT.")
        second = needed_moments(moments, "ROME")
        if self.preset not in get_args(ROMEPreset):
            raise InputError(f"preset {self.preset!r} is unknown; pass 'r_rome', 'p_rome' or 'rome_code'.")
        check_bare_weight(self.bare_weight)
        second.of_layer(self.layer)
        site = output_hook(model, self.layer)
        rows = rows_of(model, facts[0], context_templates(model, self.contexts, seed=self.seed), self.token, self.objective)
        (optimised,) = optimise_values(model, [rows], self.layer, site, self.value)
        factors, key = self._rank_one(model, rows, site, optimised, second)
        notes = optimised.notes(facts[0]) | {"norm": float(factors.dense.norm())}
        settings = asdict(self) | {"tokens": second.tokens}
        return Edit({self.layer: factors}, {self.layer: site}, (notes,), edit_provenance(model, self, settings, self.seed), {self.layer: key})

    def _rank_one(self, model: HookedModel, rows: Rows, site: str, optimised: Optimised, moments: KeyMoments) -> tuple[LowRank, torch.Tensor]:
        keys, outputs = keys_and_outputs(model, rows, self.layer, site)
        bare = context_weights(keys, 1.0)
        weights = {"p_rome": bare, "rome_code": context_weights(keys, None), "r_rome": context_weights(keys, self.bare_weight)}[self.preset]
        direction_key, asked = weights @ keys, weights if self.preset == "r_rome" else bare
        key, output = asked @ keys, asked @ outputs
        direction = moments.solve(self.layer, direction_key[None].cpu())[0].to(key)
        scale = float(key @ direction)
        if not torch.isfinite(direction).all():
            raise InputError(f"the key has length {scale} under the inverse moments; collect moments of more tokens.")
        return LowRank((direction / scale)[:, None], (optimised.wanted - output)[None]), key[None]
