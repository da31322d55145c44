"""AlphaEdit: MEMIT's update, projected on what other text's keys leave free (Fang et al. 2025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from typing_extensions import override

from tl_knowledge.door import public
from tl_knowledge.editing.edit import Edit
from tl_knowledge.editing.low_rank import LowRank
from tl_knowledge.editing.method import EditMethod
from tl_knowledge.editing.optimise.fact_rows import EditedToken
from tl_knowledge.editing.optimise.linear_system import solved
from tl_knowledge.editing.optimise.objective import Objective
from tl_knowledge.editing.optimise.spread import Keys, spread_over_layers
from tl_knowledge.editing.optimise.values import ValueSettings
from tl_knowledge.errors import InputError, NumericalError
from tl_knowledge.models.bundled import BUNDLED
from tl_knowledge.models.checks import check_layers
from tl_knowledge.models.ledger import written_keys
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.runs.key_moments import KeyMoments, needed_moments

__all__ = ["AlphaEdit"]


@public
@dataclass(frozen=True)
class AlphaEdit(EditMethod):
    """Settings of AlphaEdit: ``dW = (P (K K^T + K_prev K_prev^T) + ridge I)^-1 P K R^T`` in every layer.

    ``P`` projects on the directions of keys in which other text hardly ever lies; ``K_prev`` are the keys of all edits that are written into
    the model at the time (its sequential history), so edits that came before are kept as well. With the published settings of `for_model` the
    edits are those of Fang et al.'s program (FactLM's ridge is on the scale of its keys).

    Attributes:
        layers: the edited layers, ascending.
        null_below: directions whose eigenvalue of ``C = E[k k^T]`` is below this are free; in units of squared activations.
        ridge: holds the change small.
        at: which token's key is edited.
        contexts: how many generated contexts of how many tokens.
        objective: to write the target (default), to erase it, or to force it under noise.
        value: of the values' optimisation.
        seed: of the contexts.
    """

    needs_moments: ClassVar[bool] = True
    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "gpt2-xl": {"layers": (13, 14, 15, 16, 17), "value": ValueSettings(steps=20, clamp=0.75)},
        "gpt-j-6b": {"layers": (3, 4, 5, 6, 7, 8), "value": ValueSettings(steps=25, clamp=0.75)},
    } | {name: {"layers": (2, 3), "ridge": 0.3} for name in BUNDLED}

    layers: tuple[int, ...]
    null_below: float = 0.02
    ridge: float = 10.0
    at: EditedToken = "subject"
    contexts: tuple[tuple[int, int], ...] = ((10, 5),)
    objective: Objective = field(default_factory=Objective)
    value: ValueSettings = field(default_factory=lambda: ValueSettings(steps=25, clamp=0.75))
    seed: int = 0

    @classmethod
    @override
    def small(cls) -> AlphaEdit:
        return replace(super().small(), null_below=100.0, ridge=0.5)

    @override
    def plan(self, model: HookedModel, facts: Sequence[Fact], moments: KeyMoments | None) -> Edit:
        """One edit of all facts.

        Raises:
            InputError: no moments, a ridge that is not positive, or layers that do not ascend.
            ComponentError: no such layer.
            NumericalError: no direction is free.
        """
        check_layers(model, self.layers)
        moments = needed_moments(moments, "AlphaEdit")
        if self.ridge <= 0:
            raise InputError(f"ridge={self.ridge} leaves the update singular; pass a positive number (10 is usual).")
        free = {layer: free_directions(moments, layer, self.null_below) for layer in self.layers}

        def solve(layer: int, keys: Keys, change: torch.Tensor) -> LowRank:
            # In the basis B of the free directions: dW = B (B^T M B + ridge I)^-1 B^T K R^T, which is the formula above.
            basis = free[layer].to(keys)
            inside = torch.cat([keys, *(previous.to(keys) for previous in written_keys(model, layer))]) @ basis
            ridge = self.ridge * torch.eye(basis.shape[1], dtype=keys.dtype, device=keys.device)
            return LowRank(basis @ solved(inside.T @ inside + ridge, (keys @ basis).T, f"the keys of layer {layer}"), change)

        return spread_over_layers(model, facts, self, solve, tokens=moments.tokens, free_directions=[free[layer].shape[1] for layer in self.layers])


def free_directions(moments: KeyMoments, layer: int, below: float) -> Float[torch.Tensor, "d_mlp free"]:
    """Eigenvectors of a layer's second moments whose eigenvalue is below a bound, orthonormal.

    Raises:
        NumericalError: there is none.
    """
    values, vectors = moments.eigenvectors(layer)
    if not bool((values < below).any()):
        raise NumericalError(
            f"no direction of layer {layer}'s keys has a second moment below {below:g} (the smallest is {float(values[0]):.3g}); raise null_below."
        )
    return vectors[:, values < below]
