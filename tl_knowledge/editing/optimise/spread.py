"""Values of many facts, spread over several layers: what MEMIT and AlphaEdit share (Meng et al. 2023, section 4.3).

Every fact's state at the output of the last layer is optimised; each layer in turn then takes an even part of what is still missing there::

    layers 3, 4, 5          missing = value - state at the output of layer 5, read anew before each layer
    layer 3 changes by      missing / 3
    layer 4 changes by      missing / 2
    layer 5 changes by      missing / 1
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float

from tl_knowledge.arrays import Hooks
from tl_knowledge.editing.edit import Edit
from tl_knowledge.editing.low_rank import LowRank
from tl_knowledge.editing.optimise.contexts import context_templates
from tl_knowledge.editing.optimise.fact_rows import EditedToken, FactRows, removed_rows, rows_beside, rows_of
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

__all__ = ["BARE_WEIGHT", "Keys", "Placement", "Solve", "SpreadsValues", "spread_over_layers"]

Keys: TypeAlias = Float[torch.Tensor, "fact d_mlp"]
Solve: TypeAlias = Callable[[int, Keys, Float[torch.Tensor, "fact d_model"]], LowRank]
"""A layer's change from the facts' keys and what their outputs should change by."""

BARE_WEIGHT = 0.5  # the bare prompt's key weighs as much as those of all contexts (Meng et al.'s program)


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
        """Whether the target is written or erased, and under which noise."""
        ...

    @property
    def value(self) -> ValueSettings:
        """Of the values' optimisation."""
        ...

    @property
    def seed(self) -> int:
        """Of the contexts."""
        ...


@dataclass(frozen=True)
class Placement:
    """Where values are optimised at the last layer, and how they are shared out.

    Attributes:
        sites: the hooks that are changed together; the facts' keys are to give the last one's value.
        share: what a layer divides by of what is missing, from how many layers are left with it.
    """

    sites: tuple[str, ...]
    share: Callable[[int], float] = float


def spread_over_layers(
    model: HookedModel,
    facts: Sequence[Fact],
    method: SpreadsValues,
    solve: Solve,
    *,
    with_removed: bool = False,
    placement: Placement | None = None,
    **more: Any,
) -> Edit:
    """Optimise all facts' values and let each layer take its part of them.

    Args:
        placement: ``None``: at the block's output, in even parts.
        with_removed: let the values make the old object's prompt say "None", too (`RelationFact`).
        more: what the edit's provenance should have besides the method's settings.

    Raises:
        InputError: layers that do not ascend.
        ComponentError: no such layer.
    """
    layers = method.layers
    check_layers(model, layers)
    if list(layers) != sorted(set(layers)):
        raise InputError(f"layers {layers} do not ascend; pass each once, lowest first.")
    last, templates = layers[-1], context_templates(model, method.contexts, seed=method.seed)
    batch = [rows_of(model, fact, templates, method.at, method.objective, essence_alike=True) for fact in facts]
    wanted_rows = batch
    if with_removed:
        removed = [removed_rows(model, fact, templates, method.at, method.objective) for fact in facts]
        wanted_rows = [rows_beside(rows, other, len(templates)) for rows, other in zip(batch, removed, strict=True)]
    placed = placement or Placement((block_output(last),))
    values = optimise_values(model, wanted_rows, last, placed.sites, method.value)
    wanted = torch.stack([value.wanted.chunk(len(placed.sites))[-1] for value in values])
    factors: dict[int, LowRank] = {}
    keys: dict[int, Keys] = {}
    for number, layer in enumerate(layers):
        so_far = [pair for k, change in factors.items() for pair in add_low_rank(k, change.left, change.right, output_hook(model, k))]
        keys[layer], states = _keys_and_states(model, batch, layer, placed.sites[-1], so_far)
        factors[layer] = solve(layer, keys[layer], (wanted - states) / placed.share(len(layers) - number))
    notes = [value.notes(fact) for value, fact in zip(values, facts, strict=True)]
    return Edit.planned(model, method, factors, notes=notes, keys=keys, **more)


def _keys_and_states(
    model: HookedModel, batch: Sequence[FactRows], layer: int, site: str, hooks: Hooks
) -> tuple[Keys, Float[torch.Tensor, "fact d_model"]]:
    """Every fact's key in a layer and its state at a site, under some hooks."""
    pairs = [keys_and_outputs(model, rows, layer, site, hooks) for rows in batch]
    keys = [context_weights(own, BARE_WEIGHT) @ own for own, _ in pairs]
    return torch.stack(keys), torch.stack([states[0] for _, states in pairs])
