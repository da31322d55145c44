"""Keys and what a site says where they are, read off plain runs."""

from __future__ import annotations

import torch
from jaxtyping import Float

from tl_knowledge.arrays import Hooks
from tl_knowledge.editing.requests import Rows, at_positions
from tl_knowledge.model import HookedModel, component_hook
from tl_knowledge.rows import record

__all__ = ["keys_and_outputs"]


def keys_and_outputs(
    model: HookedModel, rows: Rows, layer: int, site: str, hooks: Hooks | None = None
) -> tuple[Float[torch.Tensor, "context d_mlp"], Float[torch.Tensor, "context d_model"]]:
    """The edited token's key in every context, the bare prompt first, and a site's output there, under some hooks, in float64.

    Where the objective corrupts the subject, both are read corrupted.
    """
    key_site = component_hook("neuron", layer)
    found = record(model, rows.tokens[:-1], rows.noise + (hooks or []), [key_site, site])
    keys, outputs = (at_positions(found[name], rows.edited[:-1]).double() for name in (key_site, site))
    return keys, outputs
