"""Keys of the edited token, and the outputs of a site beside them, read off plain runs."""

from __future__ import annotations

import torch
from jaxtyping import Float

from tl_knowledge.arrays import Hooks
from tl_knowledge.editing.optimise.fact_rows import FactRows, at_positions
from tl_knowledge.engine.recording import record
from tl_knowledge.errors import InputError
from tl_knowledge.models.hook_names import component_hook
from tl_knowledge.models.protocol import HookedModel

__all__ = ["check_bare_weight", "context_weights", "keys_and_outputs"]


def keys_and_outputs(
    model: HookedModel, rows: FactRows, layer: int, site: str, hooks: Hooks | None = None
) -> tuple[Float[torch.Tensor, "context d_mlp"], Float[torch.Tensor, "context d_model"]]:
    """The edited token's key in every context, the bare prompt first, and a site's output there, under some hooks, in float64.

    Where the objective corrupts the subject, both are read corrupted.
    """
    key_site = component_hook("neuron", layer)
    activations = record(model, rows.tokens[:-1], rows.noise + (hooks or []), [key_site, site])
    keys, outputs = (at_positions(activations[name], rows.edited[:-1]).double() for name in (key_site, site))
    return keys, outputs


def context_weights(like: Float[torch.Tensor, "context d"], bare: float | None) -> Float[torch.Tensor, " context"]:
    """How much each context weighs in a mean over them, the bare prompt first; ``None``: all alike.

    Example:
        >>> context_weights(torch.zeros(3, 1), 0.5)
        tensor([0.5000, 0.2500, 0.2500])
    """
    contexts = len(like)
    if bare is None or contexts == 1:
        return like.new_full((contexts,), 1 / contexts)
    weights = like.new_full((contexts,), (1 - bare) / (contexts - 1))
    weights[0] = bare
    return weights


def check_bare_weight(bare: float | None) -> None:
    """Refuse a weight of the bare prompt that is none.

    Raises:
        InputError: outside 0 to 1.
    """
    if bare is not None and not 0 <= bare <= 1:
        raise InputError(f"bare_weight={bare} is no weight; pass a number from 0 to 1.")
