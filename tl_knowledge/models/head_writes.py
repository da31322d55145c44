"""How a block's heads write into the residual stream, where what they write adds up."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float

from tl_knowledge.models.protocol import HookedModel

__all__ = ["head_output_weights"]


def head_output_weights(
    model: HookedModel, layer: int, z: Float[torch.Tensor, "pos head d_head"], written: Float[torch.Tensor, "pos d_model"]
) -> Float[torch.Tensor, "head d_head d_model"] | None:
    """A block's ``W_O``; ``None`` where attention's output is not the sum of ``z W_O`` over heads (a norm after it).

    Args:
        z, written: heads' activations and attention's output in one run, by which that is found out: what heads do not explain must be a bias, the
            same at every position.
    """
    part: Any = getattr(model.blocks[layer], "attn", None)
    out = getattr(part, "W_O", None)
    if not isinstance(out, torch.Tensor) or out.shape[:2] != z.shape[1:]:
        return None
    left = written - torch.einsum("phd,hdm->pm", z, out.detach())
    rounding = 1e3 * torch.finfo(left.dtype).eps * float(written.abs().max())
    return None if float((left - left[:1]).abs().max()) > rounding else out.detach()
