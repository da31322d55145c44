"""Checks of a model before any work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tl_knowledge.errors import ComponentError, ModelStateError, UnsupportedModelError
from tl_knowledge.models.protocol import HookedModel, is_masked, layer_count, model_name

__all__ = ["check_layers", "check_model"]


def check_model(model: Any, *, masked: bool = False) -> HookedModel:
    """Return the model if the methods of this package can work on it; it is not changed.

    Args:
        masked: whether a masked model will do, which only knowledge neurons can work on.

    Raises:
        UnsupportedModelError: not a TransformerLens model, not autoregressive, or a mixture of experts.
        ModelStateError: training mode with dropout, which would make every run random.
    """
    if not isinstance(model, HookedModel):
        raise UnsupportedModelError(
            f"{type(model).__name__} is not a TransformerLens model; pass a HookedTransformer, a TransformerBridge, or a name to load_model()."
        )
    if not masked and is_masked(model):
        raise UnsupportedModelError(f"{model_name(model)} attends in both directions; pass an autoregressive model.")
    for layer, block in enumerate(model.blocks):
        out = getattr(getattr(block, "mlp", None), "W_out", None)
        if getattr(model.cfg, "num_experts", None) or not isinstance(out, torch.Tensor) or out.ndim != 2:
            raise UnsupportedModelError(
                f"layer {layer} of {model_name(model)} has no single W_out (a mixture of experts?); pass a model with dense MLPs."
            )
    if model.training and _dropout(model) > 0:
        raise ModelStateError(f"{model_name(model)} is in training mode with dropout {_dropout(model):g}; call model.eval() first.")
    return model


def check_layers(model: HookedModel, layers: Sequence[int] | None) -> tuple[int, ...]:
    """Return the layers, all of them for ``None``, refusing those the model does not have.

    Raises:
        ComponentError: no layer, or one outside the model.
    """
    if layers is None:
        return tuple(range(layer_count(model)))
    if not layers:
        raise ComponentError("no layer was given; pass at least one layer.")
    for layer in layers:
        if not 0 <= layer < layer_count(model):
            raise ComponentError(f"layer {layer} is outside {model_name(model)}; it has layers 0 to {layer_count(model) - 1}.")
    return tuple(dict.fromkeys(layers))


def _dropout(model: HookedModel) -> float:
    """The largest dropout probability of any part of the model."""
    modules = [float(m.p) for m in model.modules() if isinstance(m, torch.nn.Dropout)]
    config = getattr(getattr(model, "original_model", None), "config", None)
    return max([0.0, *modules, float(getattr(config, "attention_dropout", 0.0) or 0.0)])
