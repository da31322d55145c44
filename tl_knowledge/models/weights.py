"""``W_out``: where it is, where its output is, and how a change of it goes into a Hugging Face model.

Changes of the model's own weights go through its ledger (`tl_knowledge.models.ledger`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from jaxtyping import Float

from tl_knowledge.errors import UnsupportedModelError
from tl_knowledge.models.hook_names import component_hook
from tl_knowledge.models.protocol import HookedModel

__all__ = [
    "add_to_hugging_face",
    "output_hook",
    "output_weights",
]

OUTPUT_PROJECTIONS = ("c_proj", "down_proj", "dense_4h_to_h", "fc_out", "fc2")  # of MLPs, as Hugging Face calls them

Delta = Float[torch.Tensor, "d_mlp d_model"]


def output_weights(model: HookedModel, layer: int) -> Delta:
    """A block's ``W_out``, as the model holds it."""
    weights: torch.Tensor = model.blocks[layer].mlp.W_out
    return weights


def output_hook(model: HookedModel, layer: int) -> str:
    """The hook of ``W_out``'s own output, before any norm or residual.

    Raises:
        UnsupportedModelError: the model normalises the MLP's output before it shows it.
    """
    own = f"blocks.{layer}.mlp.out.hook_out"
    if own in model.hook_dict:
        return own
    if getattr(model.cfg, "use_normalization_before_and_after", False):
        raise UnsupportedModelError("this model normalises the MLP's output before its hook; load it with backend='bridge', which shows W_out's own.")
    return component_hook("mlp_out", layer)


def add_to_hugging_face(module: torch.nn.Module, deltas: Mapping[int, Delta]) -> None:
    """Add to the MLPs' output projections of a Hugging Face model, in all layers or in none.

    Raises:
        UnsupportedModelError: a layer without such a projection of that shape.
    """
    projections: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for layer, delta in deltas.items():
        pattern = re.compile(rf"(^|\.){layer}\.(.*\.)?({'|'.join(OUTPUT_PROJECTIONS)})$")
        named = [(name, part) for name, part in module.named_modules() if pattern.search(name) and "attn" not in name and "attention" not in name]
        weights: list[torch.Tensor] = [part.weight for _, part in named]  # pyright: ignore
        changes = [delta if type(part).__name__ == "Conv1D" else delta.T for _, part in named]
        if len(weights) != 1 or weights[0].shape != changes[0].shape:
            names = ", ".join(name for name, _ in named) or "none"
            raise UnsupportedModelError(
                f"layer {layer} of {type(module).__name__} has no single output projection of {tuple(delta.shape)} (there are: {names}); "
                "pass the Hugging Face model that the edited one was loaded from."
            )
        projections[layer] = weights[0], changes[0]
    with torch.no_grad():
        for held, change in projections.values():
            held.copy_((held.double() + change.to(held.device).double()).to(held.dtype))
