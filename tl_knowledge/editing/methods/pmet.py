"""PMET: MEMIT with the values of attention and of the MLP apart, of which the MLP's are written (Li et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from typing_extensions import override

from tl_knowledge.door import public
from tl_knowledge.editing.methods.memit import MEMIT
from tl_knowledge.editing.optimise.spread import Placement
from tl_knowledge.editing.optimise.values import ValueSettings
from tl_knowledge.errors import InputError
from tl_knowledge.models.hook_names import component_hook
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.models.weights import output_hook

__all__ = ["PMET"]


VALUE = ValueSettings(steps=30, learning_rate=0.2, kl_factor=1.0, clamp=0.75, likeliest_factor=0.1, stop_drift=0.01)


@public
@dataclass(frozen=True)
class PMET(MEMIT):
    """Settings of PMET: MEMIT's update of every layer, ``dW^T = R K^T (moment_weight C + K K^T)^-1``, towards values of the MLP's own output.

    At the last layer a change of attention's output and one of the MLP's are optimised *together* at the edited token; only the MLP's is
    written, so that what attention should have contributed does not go into the MLP (Li et al. 2024, section 4). Each layer takes what is missing
    over the *square root* of the number of layers left. Once the target's tokens are the likeliest in every context its loss weighs a tenth, and a
    drift of at most 0.01 ends the optimisation. Published for GPT-J and GPT-NeoX.

    Raises:
        InputError: another variant than ``"ours"``.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> method = tlk.editing.PMET.for_model(model)
        >>> moments = tlk.collect_key_moments(model, tlk.load_corpus(), layers=method.layers, progress=False)
        >>> fact = tlk.Fact("France", "The capital of {} is", " London")
        >>> tlk.plan_edit(model, fact, method, moments=moments).layers == method.layers
        True
    """

    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "gpt-j-6b": {"layers": (3, 4, 5, 6, 7, 8)},
        "gpt-neox-20b": {"layers": (6, 7, 8, 9, 10), "moment_weight": 15_000.0, "value": replace(VALUE, learning_rate=0.5, kl_factor=0.8, clamp=0.8)},
        "factlm": {"layers": (2, 3), "moment_weight": 10.0, "value": replace(VALUE, clamp=3.0)},
        "factlm-llama": {"layers": (2, 3), "moment_weight": 10.0, "value": replace(VALUE, clamp=2.0)},
    }

    moment_weight: float = 6_000.0
    value: ValueSettings = VALUE

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant != "ours":
            raise InputError(f"PMET has no variant {self.variant!r}; leave it out, or take MEMIT(variant={self.variant!r}).")

    @classmethod
    @override
    def small(cls) -> PMET:
        return replace(super().small(), value=replace(VALUE, steps=4))  # pyright: ignore[reportReturnType]

    @override
    def placement(self, model: HookedModel) -> Placement:
        """Attention's output and the MLP's, of the last layer; by square roots."""
        last = self.layers[-1]
        return Placement((component_hook("attn_out", last), output_hook(model, last)), math.sqrt)
