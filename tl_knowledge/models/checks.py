"""Checks of a model before any work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tl_knowledge.errors import ComponentError, ModelStateError, UnsupportedModelError
from tl_knowledge.models.protocol import METHODS, PARTS, HookedModel, has_mlps, is_encoder_decoder, is_masked, layer_count, model_name

__all__ = ["check_has", "check_layers", "check_model", "check_reads_on", "has_encoder_and_decoder"]


ENCODER_DECODER = (
    "load_model(model) gives it as knowledge neurons (attribute_neurons, locate_neurons), their edits "
    "(localised.KnowledgeNeuronEdit) and evaluate() take it; for everything else pass a model that only decodes"
)


def check_model(model: Any, *, masked: bool = False, without_mlps: bool = False, encoder_decoder: bool = False) -> HookedModel:
    """Return the model if the methods of this package can work on it; it is not changed.

    Args:
        masked: whether a masked model will do, which only knowledge neurons can work on.
        without_mlps: whether a model that has attention alone will do, which can be traced.
        encoder_decoder: whether an encoder with a decoder will do, as `load_model` gives it.

    Raises:
        UnsupportedModelError: not a TransformerLens model, not autoregressive, or a mixture of experts.
        ModelStateError: training mode with dropout, which would make every run random.
    """
    if has_encoder_and_decoder(model) and not (encoder_decoder and is_encoder_decoder(model)):
        raise UnsupportedModelError(f"{model_name(model)} is an encoder with a decoder (T5): {ENCODER_DECODER}.")
    if not all(hasattr(model, part) for part in (*METHODS, *PARTS)):
        raise UnsupportedModelError(
            f"{type(model).__name__} is not a TransformerLens model; pass a HookedTransformer, a TransformerBridge, or a name to load_model()."
        )
    if not masked and is_masked(model):
        raise UnsupportedModelError(f"{model_name(model)} attends in both directions; pass an autoregressive model.")
    for layer, block in enumerate(model.blocks):
        if not (without_mlps and not has_mlps(model)):
            _check_block(model, layer, block)
    if model.training and _dropout(model) > 0:
        raise ModelStateError(f"{model_name(model)} is in training mode with dropout {_dropout(model):g}; call model.eval() first.")
    return model


def has_encoder_and_decoder(model: Any) -> bool:
    """Whether a model of any class is an encoder with a decoder, as one row of tokens or as TransformerLens has it."""
    config = getattr(getattr(model, "original_model", None), "config", None) or getattr(model, "cfg", None)
    flagged = bool(getattr(config, "is_encoder_decoder", False)) or type(model).__name__ == "HookedEncoderDecoder"
    return flagged or is_encoder_decoder(model)


def check_reads_on(model: HookedModel) -> None:
    """Refuse a model that does not read a text from left to right, and so gives it no probability and does not go on with it.

    Raises:
        UnsupportedModelError: a masked model, or an encoder with a decoder.
    """
    if is_masked(model) or is_encoder_decoder(model):
        raise UnsupportedModelError(
            f"{model_name(model)} does not read a text from left to right, so that it gives none a perplexity and goes on with none; "
            "pass an autoregressive model, or leave this measure out."
        )


def check_has(model: HookedModel, *wanted: str | Sequence[str]) -> None:
    """Refuse components of MLPs on a model that has none.

    Raises:
        ComponentError: such a component.
    """
    names = [name for each in wanted for name in ([each] if isinstance(each, str) else each)]
    if not has_mlps(model) and {"mlp_out", "mlp_in", "neuron"} & set(names):
        raise ComponentError(f"{model_name(model)} has attention and no MLP; pass 'resid_post', 'attn_out' or 'head'.")


def _check_block(model: HookedModel, layer: int, block: Any) -> None:
    """Refuse a block without attention, without an MLP, or with several, and say which it is."""
    mlp, place = getattr(block, "mlp", None), f"layer {layer} of {model_name(model)}"
    if mlp is None and not hasattr(block, "attn"):
        raise UnsupportedModelError(f"{place} has no attention (a recurrent model such as Mamba?); pass a transformer.")
    if mlp is None:
        raise UnsupportedModelError(f"{place} has attention and no MLP, which this needs; pass a model with MLPs.")
    out = _weights_out(mlp)
    if getattr(model.cfg, "num_experts", None) or not isinstance(out, torch.Tensor) or out.ndim != 2:
        raise UnsupportedModelError(f"{place} has no single W_out: it is a mixture of experts, or its MLP is unknown; pass a model with dense MLPs.")


def _weights_out(mlp: Any) -> Any:
    try:
        return mlp.W_out
    except (AttributeError, RuntimeError):  # bridges raise either where there is none
        return None


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
