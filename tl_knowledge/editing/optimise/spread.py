"""Values of many facts, spread over several layers: what MEMIT and AlphaEdit share (Meng et al. 2023, section 4.3).

Every fact's state at the output of the last layer is optimised; each layer in turn then takes an even part of what is still missing there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float

from tl_knowledge.arrays import Hooks
from tl_knowledge.editing.edit import Edit, LowRank
from tl_knowledge.editing.method import edit_provenance
from tl_knowledge.editing.optimise.contexts import context_templates
from tl_knowledge.editing.optimise.fact_rows import EditedToken, FactRows, rows_of
from tl_knowledge.editing.optimise.keys import context_weights, keys_and_outputs
from tl_knowledge.editing.optimise.objective import Objective
from tl_knowledge.editing.optimise.values import ValueSettings, optimise_values
from tl_knowledge.errors import InputError
from tl_knowledge.hooks import add_low_rank
from tl_knowledge.models.checks import check_layers
from tl_knowledge.models.hook_names import block_output
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.models.weights import output_hook
from tl_knowledge.prompts.facts import Fact

__all__ = ["Keys", "Solve", "SpreadsValues", "spread_over_layers"]

Keys: TypeAlias = Float[torch.Tensor, "fact d_mlp"]
Solve: TypeAlias = Callable[[int, Keys, Float[torch.Tensor, "fact d_model"]], LowRank]
"""A layer's change from the facts' keys and what their outputs should change by."""


@runtime_checkable
class SpreadsValues(Protocol):
    """The settings that such methods share."""

    @property
    def layers(self) -> tuple[int, ...]:
        """The edited layers, ascending."""
        ...

    @property
    def at(self) -> EditedToken:
        """Which token's key is edited."""
        ...

    @property
    def contexts(self) -> tuple[tuple[int, int], ...]:
        """How many generated contexts of how many tokens."""
        ...

    @property
    def objective(self) -> Objective:
        """What is asked of the target."""
        ...

    @property
    def value(self) -> ValueSettings:
        """Of the values' optimisation."""
        ...

    @property
    def seed(self) -> int:
        """Of the contexts."""
        ...


def spread_over_layers(model: HookedModel, facts: Sequence[Fact], method: SpreadsValues, solve: Solve, settings: dict[str, Any]) -> Edit:
    """Optimise all facts' values and let each layer take its part of them.

    Args:
        settings: the method's, as the edit records them.

    Raises:
        InputError: layers that do not ascend.
        ComponentError: no such layer.
    """
    layers = method.layers
    check_layers(model, layers)
    if list(layers) != sorted(set(layers)):
        raise InputError(f"layers {layers} do not ascend; pass each once, lowest first.")
    last, templates = layers[-1], context_templates(model, method.contexts, seed=method.seed)
    asked = [rows_of(model, fact, templates, method.at, method.objective) for fact in facts]
    found = optimise_values(model, asked, last, block_output(last), method.value)
    wanted = torch.stack([each.wanted for each in found])
    factors: dict[int, LowRank] = {}
    known: dict[int, Keys] = {}
    for done, layer in enumerate(layers):
        so_far = [pair for k, made in factors.items() for pair in add_low_rank(k, made.left, made.right, output_hook(model, k))]
        known[layer], now = _keys_and_states(model, asked, layer, last, so_far)
        factors[layer] = solve(layer, known[layer], (wanted - now) / (len(layers) - done))
    notes = tuple(each.notes(fact) for each, fact in zip(found, facts, strict=True))
    outputs = {layer: output_hook(model, layer) for layer in layers}
    return Edit(factors, outputs, notes, edit_provenance(model, method, settings, method.seed), known)


def _keys_and_states(
    model: HookedModel, asked: Sequence[FactRows], layer: int, last: int, hooks: Hooks
) -> tuple[Keys, Float[torch.Tensor, "fact d_model"]]:
    """Every fact's key in a layer (the bare prompt weighs as much as all contexts) and its state at the last edited layer, under some hooks."""
    known = [keys_and_outputs(model, rows, layer, block_output(last), hooks) for rows in asked]
    keys = [context_weights(each, 0.5) @ each for each, _ in known]
    return torch.stack(keys), torch.stack([states[0] for _, states in known])
