"""Changes of a block's matrices, added to a Hugging Face model's own weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float

from tl_knowledge.errors import UnsupportedModelError
from tl_knowledge.models.matrices import ATTENTION, BlockMatrix, Matrix

__all__ = ["add_to_hugging_face"]

PROJECTIONS: dict[Matrix, tuple[str, ...]] = {
    "W_Q": ("q_proj", "query"),
    "W_K": ("k_proj", "key"),
    "W_V": ("v_proj", "value"),
    "W_O": ("c_proj", "o_proj", "out_proj", "dense"),
    "W_in": ("c_fc", "up_proj", "dense_h_to_4h", "fc_in", "fc1"),
    "W_gate": ("gate_proj",),
    "W_out": ("c_proj", "down_proj", "dense_4h_to_h", "fc_out", "fc2", "Wo", "output.dense"),
}
"""What Hugging Face calls each matrix, in one architecture or another."""

FUSED = {"W_Q": 0, "W_K": 1, "W_V": 2}  # places in GPT-2's ``c_attn``

READ_A_NORM = ("W_Q", "W_K", "W_V", "W_in", "W_gate")


def add_to_hugging_face(
    module: torch.nn.Module,
    changes: Mapping[BlockMatrix, Float[torch.Tensor, "d_in d_out"]],
    biases: Mapping[int, Float[torch.Tensor, " d_model"]] | None = None,
    *,
    norms_folded: bool = False,
) -> None:
    """Add to the weights of a Hugging Face model, in all places or in none.

    Args:
        changes: of each matrix, ``[in, out]``; attention's with all heads side by side.
        biases: by layer, of the bias of ``W_out``.
        norms_folded: whether the changes are of weights that norms were folded into, as TransformerLens does; Hugging Face's are not.

    Raises:
        UnsupportedModelError: a model of TransformerLens, or one that a bridge has wrapped; a layer without such a projection of that shape, one
            without a bias that should change, or a change of what reads a norm that was folded into it.
    """
    _check_not_wrapped(module)
    pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
    for place, change in sorted(changes.items(), key=lambda pair: pair[0]):
        if norms_folded and place.name in READ_A_NORM:
            raise UnsupportedModelError(
                f"{place} was edited with its norm folded into it, which Hugging Face's weights do not have; "
                "plan the edit on a model loaded with fold_ln=False or backend='bridge'."
            )
        pairs.append(_held_beside(module, place, change))
    for layer, bias in (biases or {}).items():
        part = _projection(module, BlockMatrix(layer, "W_out"))
        pairs.append((_of_shape(getattr(part, "bias", None), bias, module, layer, "bias of an output projection"), bias))
    with torch.no_grad():
        for held, change in pairs:
            held.copy_((held.double() + change.to(held.device).double()).to(held.dtype))


def _check_not_wrapped(module: torch.nn.Module) -> None:
    """Refuse weights that a model of TransformerLens computes with: what is added to them past its ledger could not be taken out again.

    Raises:
        UnsupportedModelError: they are.
    """
    if any(type(part).__module__.partition(".")[0] == "transformer_lens" for part in module.modules()):
        raise UnsupportedModelError(
            f"{type(module).__name__} holds the weights that a TransformerLens model computes with (a bridge wraps the model that it was made of, "
            "its original_model); edit those with edit.write_into(model), or pass to_hf() a Hugging Face model of its own, such as "
            "AutoModelForCausalLM.from_pretrained(...)."
        )


def _held_beside(module: torch.nn.Module, place: BlockMatrix, change: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a module holds of a matrix, and the change as it is laid there."""
    what = "output projection" if place.name == "W_out" else f"projection for {place.name}"
    part = _projection(module, place)
    if part is None and place.name in FUSED and (fused := _only(module, place.layer, ("c_attn",), attention=True)) is not None:
        weight: torch.Tensor = fused.weight.detach()  # pyright: ignore[reportAssignmentType, reportCallIssue]
        width, number = change.shape[1], FUSED[place.name]
        if weight.shape == (change.shape[0], 3 * width):
            return weight[:, number * width : (number + 1) * width], change
    delta = change if type(part).__name__ == "Conv1D" else change.T
    return _of_shape(getattr(part, "weight", None), delta, module, place.layer, what), delta


def _projection(module: torch.nn.Module, place: BlockMatrix) -> torch.nn.Module | None:
    """A layer's only projection of a kind, if there is just one; of an encoder with a decoder (T5), whose blocks are counted one after the other."""
    stacks = [getattr(getattr(module, side, None), "block", None) for side in ("encoder", "decoder")]
    if place.name == "W_out" and all(stack is not None for stack in stacks):
        blocks: list[Any] = [block for stack in stacks if stack is not None for block in stack]
        return getattr(blocks[place.layer].layer[-1].DenseReluDense, "wo", None) if place.layer < len(blocks) else None
    return _only(module, place.layer, PROJECTIONS[place.name], attention=place.name in ATTENTION)


def _only(module: torch.nn.Module, layer: int, names: tuple[str, ...], *, attention: bool) -> torch.nn.Module | None:
    pattern = re.compile(rf"(^|\.){layer}\.(.*\.)?({'|'.join(names)})$")
    parts = [part for name, part in module.named_modules() if pattern.search(name) and ("attn" in name or "attention" in name) == attention]
    return parts[0] if len(parts) == 1 else None


def _of_shape(held: torch.Tensor | None, change: torch.Tensor, module: torch.nn.Module, layer: int, what: str) -> torch.Tensor:
    """What a module holds, where it has the shape of what is to be added.

    Raises:
        UnsupportedModelError: it has not.
    """
    if held is None or held.shape != change.shape:
        there = "none" if held is None else str(tuple(held.shape))
        raise UnsupportedModelError(
            f"layer {layer} of {type(module).__name__} has no single {what} of {tuple(change.shape)} (there is: {there}); "
            "pass the Hugging Face model that the edited one was loaded from."
        )
    return held
