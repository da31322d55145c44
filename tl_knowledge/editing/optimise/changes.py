"""A change of one matrix as hooks that gradients go through, while it is trained."""

from __future__ import annotations

import torch
from jaxtyping import Float

from tl_knowledge.arrays import Hooks
from tl_knowledge.hooks import add_low_rank
from tl_knowledge.models.matrices import BlockMatrix
from tl_knowledge.models.matrix_sites import add_at, matrix_sites
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.models.weights import output_hook

__all__ = ["change_hooks"]


def change_hooks(model: HookedModel, place: BlockMatrix, left: Float[torch.Tensor, "d_in rank"], right: Float[torch.Tensor, "rank d_out"]) -> Hooks:
    """The model as if ``left @ right`` were added to one of its matrices.

    Raises:
        UnsupportedModelError: no such matrix, or one that cannot be changed by hooks.
    """
    if place.name == "W_out":
        return add_low_rank(place.layer, left, right, output_hook(model, place.layer))
    return add_at(matrix_sites(model, place), left, right, str(place))
