"""ROME: one fact as a rank-one change of one layer's ``W_out`` (Meng et al. 2022, section 3.1; R-ROME and p-ROME: Gupta et al. 2024)."""

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
from tl_knowledge.editing.optimise.fact_rows import EditedToken, FactRows, removed_rows, rows_beside, rows_of
from tl_knowledge.editing.optimise.keys import check_bare_weight, context_weights, keys_and_outputs
from tl_knowledge.editing.optimise.objective import Objective
from tl_knowledge.editing.optimise.values import Optimised, ValueSettings, optimise_values
from tl_knowledge.errors import InputError, check_choice
from tl_knowledge.models.bundled import BUNDLED
from tl_knowledge.models.checks import check_layers
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel, layer_count, model_name
from tl_knowledge.models.published_settings import TRACED_LAYERS
from tl_knowledge.models.weights import output_hook
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.runs.key_moments import KeyMoments, needed_moments

__all__ = ["ROME", "ROMEVariant"]

ROMEVariant: TypeAlias = Literal["ours", "gupta2024", "gupta2024_p", "meng2022_code", "wen_bai", "wei2024"]
"""Which prompt's key stands where in ``dW = u (v* - W k)^T / (k . u)``, ``u = C^-1 k*``:

============= ================================= =================================
variant       ``k*`` of ``u``                   ``k`` and ``W k``
============= ================================= =================================
ours          mean, the bare prompt a half      mean, the bare prompt a half
gupta2024     mean over the contexts            mean over the contexts
gupta2024_p   the bare prompt                   the bare prompt
meng2022_code mean over the contexts            the bare prompt
wen_bai       mean over the contexts            the bare prompt
wei2024       the same of the old object's      the bare prompt
============= ================================= =================================

The named variants also begin their contexts with the end-of-text token, as those programs do, and hold "{} is a" at the token that is edited.
``gupta2024`` is R-ROME and ``gupta2024_p`` is p-ROME (Gupta et al. 2024). The mismatch in Meng et al.'s program (``meng2022_code``) is what makes
sequential edits collapse. ``wen_bai`` is the same program with the clamp of 3 that Wen and Bai set for GPT-2 (`ROME.for_model`). ``wei2024``
is Wei et al.'s change of it for facts of the relation's side (`RelationFact`): ``k*`` is of the prompt that names the old object, which should say
"None" in its first five contexts, too.
"""

REMOVED_CONTEXTS = 5


@public
@dataclass(frozen=True)
class ROME(EditMethod):
    """Settings of ROME.

    Attributes:
        layer: which block's ``W_out`` to edit; `for_model` knows the published choices.
        variant: which key stands where.
        at: which token's key is edited.
        contexts: how many generated contexts of how many tokens: ``((tokens, count), ...)``.
        bare_weight: how much the bare prompt weighs in the means of ``"ours"``: a half, as in MEMIT, so that the prompt that is edited is surely
            changed. The named variants weigh all contexts alike and do not read this.
        objective: to write the target (default), to erase it, or to force it under noise.
        value: of the value's optimisation.
        seed: of the contexts.

    Raises:
        InputError: an unknown variant, or a bare_weight that is no weight.
    """

    needs_moments: ClassVar[bool] = True
    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: {"layer": layer, "value": ValueSettings(clamp=3.0 if name == "gpt2-medium" else 4.0)} for name, layer in TRACED_LAYERS.items()
    }
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: {"value": ValueSettings(stop_below=0.5)} for name in BUNDLED
    }  # else it loses neighbours
    published_variants: ClassVar[Mapping[str, Mapping[str, Mapping[str, Any]]]] = {
        "wen_bai": {name: {"layer": TRACED_LAYERS[name], "value": ValueSettings(clamp=3.0)} for name in ("gpt2", "gpt2-medium")}
    }

    layer: int
    variant: ROMEVariant = "ours"
    at: EditedToken = "subject"
    contexts: tuple[tuple[int, int], ...] = ((5, 10), (10, 10))
    bare_weight: float = 0.5
    objective: Objective = field(default_factory=Objective)
    value: ValueSettings = field(default_factory=ValueSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("variant", self.variant, ROMEVariant)
        check_bare_weight(self.bare_weight)

    @classmethod
    def last_for_model(cls, model: AnyModel, *, variant: str = "ours") -> ROME:
        """ROME in the second-last layer, which Wen and Bai call "ROME last" and set against the layer that tracing finds.

        Raises:
            InputError: a model of one layer, or as `for_model`.

        Example:
            >>> import tl_knowledge as tlk
            >>> tlk.ROME.last_for_model("factlm").layer  # of 8
            6
        """
        model = as_model(model)
        if layer_count(model) < 2:
            raise InputError(f"{model_name(model)} has one layer, so there is no second-last; pass ROME(layer=0).")
        return cls.for_model(model, layers=layer_count(model) - 2, variant=variant)

    @override
    def plan(self, model: HookedModel, facts: Sequence[Fact], moments: KeyMoments | None) -> Edit:
        """The edit of one fact.

        Raises:
            InputError: several facts, one that does not fit the variant, or no moments.
            ComponentError: no such layer.
        """
        check_layers(model, [self.layer])
        if len(facts) != 1:
            raise InputError(f"ROME edits one fact at a time, not {len(facts)}; plan them one by one, or use MEMIT.")
        moments = needed_moments(moments, "ROME")
        moments.of_layer(self.layer)
        site = output_hook(model, self.layer)
        as_program = self.variant != "ours"
        templates = context_templates(model, self.contexts, seed=self.seed, beginning="end of text" if as_program else "words")
        rows = rows_of(model, facts[0], templates, self.at, self.objective, essence_alike=as_program)
        removed: FactRows | None = None
        if self.variant == "wei2024":
            removed = removed_rows(model, facts[0], templates, self.at, self.objective)
        both = rows if removed is None else rows_beside(rows, removed, REMOVED_CONTEXTS)
        (optimised,) = optimise_values(model, [both], self.layer, site, self.value)
        factors, key = self._rank_one(model, rows, removed or rows, site, optimised, moments)
        notes = optimised.notes(facts[0]) | {"norm": float(factors.dense.norm())}
        return Edit.planned(model, self, {self.layer: factors}, notes=[notes], keys={self.layer: key}, tokens=moments.tokens)

    def _rank_one(
        self, model: HookedModel, rows: FactRows, directed: FactRows, site: str, optimised: Optimised, moments: KeyMoments
    ) -> tuple[LowRank, torch.Tensor]:
        """The change, and its key.

        Args:
            directed: the rows whose key is ``k*``.
        """
        keys, outputs = keys_and_outputs(model, rows, self.layer, site)
        bare, alike, ours = (context_weights(keys, weight) for weight in (1.0, None, self.bare_weight))
        of_direction, of_key = {
            "ours": (ours, ours),
            "gupta2024": (alike, alike),
            "gupta2024_p": (bare, bare),
            "meng2022_code": (alike, bare),
            "wen_bai": (alike, bare),
            "wei2024": (alike, bare),
        }[self.variant]
        directing = keys if directed is rows else keys_and_outputs(model, directed, self.layer, site)[0]
        direction_key, key, output = of_direction @ directing, of_key @ keys, of_key @ outputs
        direction = moments.solve(self.layer, direction_key[None].cpu())[0].to(key)
        scale = float(key @ direction)
        if not (torch.isfinite(direction).all() and scale != 0):
            raise InputError(f"the key has length {scale} under the inverse moments; collect moments of more tokens.")
        return LowRank((direction / scale)[:, None], (optimised.wanted - output)[None]), key[None]
