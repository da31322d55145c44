"""What a result records of the model that it was computed with."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

from tl_knowledge.models.protocol import HookedModel, model_name

__all__ = ["describe_model", "weight_fingerprint", "weight_processing"]


def weight_processing(model: HookedModel) -> dict[str, bool]:
    """Which of TransformerLens' weight processing steps the model shows.

    Centring is read off the weights themselves (every row of ``W_out`` has mean zero), so it is right for any model,
    however it was loaded.
    """
    folded = str(getattr(model.cfg, "normalization_type", "")).endswith("Pre") or bool(getattr(model, "compatibility_mode", False))
    written: torch.Tensor = model.blocks[0].mlp.W_out.detach()
    centred = bool(written.float().mean(-1).abs().max() < 1e-5 * written.float().abs().mean())
    return {"fold_ln": folded, "center_writing_weights": centred}


def describe_model(model: HookedModel) -> dict[str, Any]:
    """What `Provenance` records of a model: name, backend, weight processing, dtype, device."""
    parameter = next(iter(model.parameters()))
    return {
        "model": model_name(model),
        "backend": type(model).__name__,
        "weight_processing": weight_processing(model),
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "device": str(parameter.device),
    }


def weight_fingerprint(model: HookedModel) -> str:
    """Changes when any weight does: names, shapes and bit patterns of all parameters.

    Bits are summed as integers, so the value does not depend on threads or device.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters(), key=lambda pair: str(pair[0])):
        weights: torch.Tensor = parameter.detach().contiguous().flatten()
        bits = weights.view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[weights.element_size()])
        some = bits[:: max(1, len(bits) // 64)].tolist()  # a sum alone would not notice rows changing places
        digest.update(json.dumps([name, list(parameter.shape), int(bits.sum(dtype=torch.int64)), some]).encode())
    return digest.hexdigest()[:16]
