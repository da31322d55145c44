"""What a result records of the model that it was computed with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch

from tl_knowledge.errors import ModelStateError
from tl_knowledge.models.protocol import HookedModel, has_mlps, model_name
from tl_knowledge.models.routed import route_digests

__all__ = ["check_same_weights", "describe_model", "fingerprint_of", "weight_digests", "weight_fingerprint", "weight_processing", "weights_digest"]


ODD = -7046029254386353131  # 2**64 divided by the golden ratio

BYTES_AT_ONCE = 2**18


def weight_processing(model: HookedModel) -> dict[str, bool]:
    """Which of TransformerLens' weight processing steps the model shows.

    Centring is read off the weights themselves (every row of ``W_out`` has mean zero), so it is right for any model,
    however it was loaded.
    """
    folded = str(getattr(model.cfg, "normalization_type", "")).endswith("Pre") or bool(getattr(model, "compatibility_mode", False))
    first = model.blocks[0]
    written: torch.Tensor = (first.mlp.W_out if has_mlps(model) else first.attn.W_O).detach()
    centred = bool(written.float().mean(-1).abs().max() < 1e-5 * written.float().abs().mean())
    return {"fold_ln": folded, "center_writing_weights": centred}


def describe_model(model: HookedModel) -> dict[str, Any]:
    """What `Provenance` records of a model: name, backend, weight processing, dtype, device."""
    parameter = next(iter(model.parameters()))
    return {
        "model": model_name(model),
        "backend": type(getattr(model, "held", model)).__name__,
        "weight_processing": weight_processing(model),
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "device": str(parameter.device),
    }


def weight_fingerprint(model: HookedModel) -> str:
    """Changes when any weight does, however it was changed, and with every edit that keeps hooks on the model; see `weight_digests`."""
    return fingerprint_of(weight_digests(model) | route_digests(model))


def check_same_weights(model: HookedModel, fingerprint: str, what: str) -> None:
    """Refuse a result that was computed on other weights than the model has now; one of an older version, without a fingerprint, passes.

    Raises:
        ModelStateError: other weights.
    """
    if not fingerprint:
        return
    now = weight_fingerprint(model)
    if now != fingerprint:
        raise ModelStateError(
            f"{what} was computed on other weights ({fingerprint}) than {model_name(model)} has now ({now}): another model, type, or edit. "
            "Compute it on this model, or load the weights it was computed on."
        )


def fingerprint_of(digests: Mapping[str, str]) -> str:
    """One fingerprint of all parameters' digests."""
    return hashlib.sha256(json.dumps(sorted(digests.items())).encode()).hexdigest()[:16]


def weight_digests(model: HookedModel) -> dict[str, str]:
    """A digest of every parameter that the model reads, by name.

    All weights are read each time (GPT-2 small: 0.1 s on two cores), since writes through ``.data`` or into a replaced parameter leave no other
    trace.
    """
    unread = {"pos_embed.W_pos"} if getattr(model.cfg, "positional_embedding_type", None) == "alibi" else set[str]()  # never initialised
    return {str(name): weights_digest(parameter) for name, parameter in model.named_parameters() if str(name) not in unread}


def weights_digest(weights: torch.Tensor) -> str:
    """Changes when any bit of the weights does, when two rows or columns change places, or the shape or the type.

    Bit patterns are mixed (multiplied by an odd number and folded, so that signs do not cancel) and summed as integers over rows and over
    columns; the value does not depend on threads or device.
    """
    bits = weights.detach().contiguous()
    bits = bits.reshape(len(bits), -1) if bits.ndim > 1 else bits.reshape(1, -1)
    wide = bits.shape[1] * bits.element_size() % 8 == 0
    if bits.storage_offset() * bits.element_size() % 8:
        bits = bits.clone()  # eight bytes are read at once, so they must begin where eight bytes do
    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    words = bits.view(torch.int64 if wide else integers[bits.element_size()])
    digest = hashlib.sha256(json.dumps([list(weights.shape), str(weights.dtype)]).encode())
    columns, rows = torch.zeros(words.shape[1], dtype=torch.int64, device=words.device), list[torch.Tensor]()
    for part in words.split(max(1, BYTES_AT_ONCE // max(1, 8 * words.shape[1]))):
        mixed = part.to(torch.int64) * ODD
        mixed ^= mixed >> 32
        columns += mixed.sum(0)
        rows.append(mixed.sum(1))
    for sums in (columns, *rows):
        digest.update(sums.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
