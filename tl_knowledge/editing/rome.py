"""ROME: one fact as a rank-one change of one layer's ``W_out`` (Meng et al. 2022, section 3.1; R-ROME: Gupta et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal, TypeAlias, get_args

import torch

from tl_knowledge.editing.contexts import context_templates
from tl_knowledge.editing.edit import Edit, LowRank
from tl_knowledge.editing.keys import keys_and_outputs
from tl_knowledge.editing.method import edit_provenance
from tl_knowledge.editing.moments import KeyMoments, needed_moments
from tl_knowledge.editing.requests import EditedToken, Rows, rows_of
from tl_knowledge.editing.values import Optimised, ValueSettings, optimise_values
from tl_knowledge.errors import InputError
from tl_knowledge.facts import Fact
from tl_knowledge.model import HookedModel, check_layers
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

LAYERS = {"gpt2": 5, "gpt2-medium": 8, "gpt2-large": 12, "gpt2-xl": 17, "gpt-j-6b": 5, "EleutherAI/gpt-j-6B": 5, "factlm": 0}
CLAMPS = {"gpt2-medium": 3.0}


@dataclass(frozen=True)
class ROME:
    """Settings of ROME.

    Attributes:
        layer: which block's ``W_out`` to edit; `for_model` knows the published choices.
        preset: which key stands where.
        token: which token's key is edited.
        contexts: how many generated contexts of how many tokens: ``((tokens, count), ...)``.
        value: of the value's optimisation.
        seed: of the contexts.
    """

    layer: int
    preset: ROMEPreset = "r_rome"
    token: EditedToken = "subject_last"
    contexts: tuple[tuple[int, int], ...] = ((5, 10), (10, 10))
    value: ValueSettings = field(default_factory=ValueSettings)
    seed: int = 0

    @classmethod
    def for_model(cls, model: HookedModel) -> ROME:
        """The published layer and clamp of a model.

        Raises:
            InputError: none is published.
        """
        name = str(getattr(model.cfg, "model_name", ""))
        if name not in LAYERS:
            raise InputError(f"no layer is published for {name!r}; pass ROME(layer=...), found for example by trace(). Known: {', '.join(LAYERS)}.")
        return cls(LAYERS[name], value=ValueSettings(clamp=CLAMPS.get(name, 4.0)))

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
        second.of_layer(self.layer)
        site = output_hook(model, self.layer)
        rows = rows_of(model, facts[0], context_templates(model, self.contexts, seed=self.seed), self.token)
        (optimised,) = optimise_values(model, [rows], self.layer, site, self.value)
        factors = self._rank_one(model, rows, site, optimised, second)
        notes = optimised.notes(facts[0]) | {"norm": float(factors.dense.norm())}
        settings = asdict(self) | {"tokens": second.tokens}
        return Edit({self.layer: factors}, {self.layer: site}, (notes,), edit_provenance(model, self, settings, self.seed))

    def _rank_one(self, model: HookedModel, rows: Rows, site: str, optimised: Optimised, moments: KeyMoments) -> LowRank:
        keys, outputs = keys_and_outputs(model, rows, self.layer, site)
        mean_key, mean_output = keys.mean(0), outputs.mean(0)
        direction_key = keys[0] if self.preset == "p_rome" else mean_key
        key, output = (mean_key, mean_output) if self.preset == "r_rome" else (keys[0], outputs[0])
        direction = moments.solve(self.layer, direction_key[None].cpu())[0].to(key)
        scale = float(key @ direction)
        if not torch.isfinite(direction).all():
            raise InputError(f"the key has length {scale} under the inverse moments; collect moments of more tokens.")
        return LowRank((direction / scale)[:, None], (optimised.wanted - output)[None])
