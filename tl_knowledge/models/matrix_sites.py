"""The hooks around a matrix of a block, at which it can be changed without touching it; found by a probe of its gradient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float

from tl_knowledge.arrays import Hooks
from tl_knowledge.errors import ComponentError, UnsupportedModelError
from tl_knowledge.models.matrices import BlockMatrix, Matrix, as_held, held_matrix, matrix_weights, memory_like, parameters_sharing, part_of
from tl_knowledge.models.protocol import HookedModel, model_device, model_name
from tl_knowledge.models.routed import check_not_replaced

__all__ = ["Sites", "add_at", "matrix_sites"]

_MLP_READS = ("mlp.hook_in", "ln2.hook_normalized", "ln1.hook_normalized")
_ATTENTION_READS = ("attn.qkv.hook_in", "ln1.hook_normalized")
_READS: dict[Matrix, tuple[str, ...]] = {
    "W_Q": ("attn.q.hook_in", *_ATTENTION_READS),
    "W_K": ("attn.k.hook_in", *_ATTENTION_READS),
    "W_V": ("attn.v.hook_in", *_ATTENTION_READS),
    "W_O": ("attn.o.hook_in", "attn.hook_z"),
    "W_in": ("mlp.in.hook_in", *_MLP_READS),
    "W_gate": ("mlp.gate.hook_in", *_MLP_READS),
    "W_out": ("mlp.hook_post",),
}
_WRITES: dict[Matrix, tuple[str, ...]] = {
    "W_Q": ("attn.q.hook_out", "attn.hook_q"),
    "W_K": ("attn.k.hook_out", "attn.hook_k"),
    "W_V": ("attn.v.hook_out", "attn.hook_v"),
    "W_O": ("attn.o.hook_out", "hook_attn_out"),
    "W_in": ("mlp.in.hook_out", "mlp.hook_pre_linear", "mlp.hook_pre"),
    "W_gate": ("mlp.gate.hook_out", "mlp.hook_pre"),
    "W_out": ("mlp.out.hook_out", "hook_mlp_out"),
}


@dataclass(frozen=True, eq=False)
class Sites:
    """The hooks around a matrix.

    Attributes:
        reads: where its input is seen.
        writes: of its own output, before anything else is made of it.
        gain, shift: of the norm that its input goes through after it was seen; ``None`` where it is seen as it is read.
    """

    reads: str
    writes: str
    gain: Float[torch.Tensor, " d_in"] | None = None
    shift: Float[torch.Tensor, " d_in"] | None = None

    def input_of(self, seen: torch.Tensor, d_in: int) -> torch.Tensor:
        """What the matrix reads, from what is seen at ``reads``; heads side by side."""
        flat = seen if seen.shape[-1] == d_in else seen.flatten(-2)
        scaled = flat if self.gain is None else flat * self.gain.to(flat)
        return scaled if self.shift is None else scaled + self.shift.to(flat)


_found: WeakKeyDictionary[object, dict[BlockMatrix, tuple[str, str, bool]]] = WeakKeyDictionary()


def matrix_sites(model: HookedModel, place: BlockMatrix) -> Sites:
    """The hooks at which a matrix can be changed without touching it.

    Found by a probe: the gradient of the model's output with respect to what such hooks add is the gradient with respect to the weights.

    Raises:
        UnsupportedModelError: no such matrix, none that a forward reads as it is held, or no such hooks.
    """
    found = _found.setdefault(model, {})
    if place not in found:
        found[place] = _find_sites(model, place)
    return _sites_at(model, place, *found[place])


def add_at(sites: Sites, left: Float[torch.Tensor, "d_in rank"], right: Float[torch.Tensor, "rank d_out"], what: str) -> Hooks:
    """Let a matrix write as if ``left @ right`` were added to it; gradients reach the factors.

    Args:
        what: the matrix's name, for an error.

    Returns:
        Two hooks: one reads its input, one adds to its output.

    Raises:
        ComponentError: on running, when the factors do not fit the model.
    """
    inputs: list[torch.Tensor] = []

    def read(activation: torch.Tensor, *, hook: object) -> None:
        if left.shape[0] not in (activation.shape[-1], activation.shape[-2:].numel()):
            raise ComponentError(
                f"factors of {what} for an input of {left.shape[0]} do not fit {tuple(activation.shape)}; the edit is of another model."
            )
        inputs[:] = [sites.input_of(activation, left.shape[0])]

    def add(activation: torch.Tensor, *, hook: object) -> torch.Tensor:
        check_not_replaced(activation, sites.writes)
        return activation + ((inputs.pop().to(activation) @ left.to(activation)) @ right.to(activation)).reshape(activation.shape)

    return [(sites.reads, read), (sites.writes, add)]


def _find_sites(model: HookedModel, place: BlockMatrix) -> tuple[str, str, bool]:
    if not parameters_sharing(model, held_matrix(model, place)):
        raise UnsupportedModelError(f"{place} of {model_name(model)} is made anew from other weights at each look, so it cannot be changed.")
    for candidate in _candidates(model, place):
        if _is_changed_at(model, place, _sites_at(model, place, *candidate)):
            return candidate
    raise UnsupportedModelError(
        f"no hooks of {model_name(model)} show what {place} reads and writes as the model runs, so it cannot be changed; "
        "load the model with backend='bridge', or with fold_ln=True, or edit W_out."
    )


def _candidates(model: HookedModel, place: BlockMatrix) -> Iterator[tuple[str, str, bool]]:
    """Names of hooks, and whether a norm's gain and shift come between."""

    def there(names: tuple[str, ...]) -> list[str]:
        return [name for name in (f"blocks.{place.layer}.{each}" for each in names) if name in model.hook_dict]

    for reads, writes in product(there(_READS[place.name]), there(_WRITES[place.name])):
        yield reads, writes, False
        if getattr(_norm_of(model, place, reads), "w", None) is not None:  # HookedTransformer shows a norm before its gain and shift
            yield reads, writes, True


def _sites_at(model: HookedModel, place: BlockMatrix, reads: str, writes: str, through_norm: bool) -> Sites:
    """Hooks by name, with the gain and shift that the norm has now."""
    norm = _norm_of(model, place, reads) if through_norm else None
    gain, shift = getattr(norm, "w", None), getattr(norm, "b", None)
    return Sites(reads, writes, None if gain is None else gain.detach().clone(), None if shift is None else shift.detach().clone())


def _norm_of(model: HookedModel, place: BlockMatrix, reads: str) -> Any:
    """The norm that a hook is of, if it is of one."""
    return getattr(model.blocks[place.layer], reads.split(".")[2], None) if reads.endswith("hook_normalized") else None


@torch.enable_grad()  # not a ``with``, whose last line an interrupt could keep from switching gradients off again
def _is_changed_at(model: HookedModel, place: BlockMatrix, sites: Sites) -> bool:
    """Whether a change at some hooks is, to first order, a change of the weights."""
    tokens = torch.arange(4, device=model_device(model))[None] % int(model.cfg.d_vocab)
    held, weights = held_matrix(model, place), matrix_weights(model, place).detach()
    change = torch.zeros_like(weights).requires_grad_(True)
    identity = torch.eye(weights.shape[1], dtype=weights.dtype, device=weights.device)
    parameters = list(parameters_sharing(model, held).values())
    needed = [parameter.requires_grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        logits: torch.Tensor = model.run_with_hooks(tokens, fwd_hooks=add_at(sites, change, identity, str(place)))
        seen = (logits.float() * _directions(logits)).sum()
        gradients: list[torch.Tensor | None] = [*torch.autograd.grad(seen, [change, *parameters], allow_unused=True)]
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, IndexError, ComponentError):  # shapes that do not fit: not the place
        return False
    finally:
        for parameter, own in zip(parameters, needed, strict=True):
            parameter.requires_grad_(own)
    of_change, memory = gradients[0], memory_like(held)
    for parameter, gradient in zip(parameters, gradients[1:], strict=True):
        if gradient is not None:
            part_of(memory, parameter).add_(gradient)
    if of_change is None:
        return False
    apart = as_held(of_change, held, place) - part_of(memory, held)
    rounding = {torch.float64: 1e-6, torch.float32: 1e-3}.get(weights.dtype, 5e-2)
    return bool(of_change.abs().max() > 0) and bool(apart.norm() <= rounding * of_change.norm())


def _directions(logits: torch.Tensor) -> torch.Tensor:
    """Fixed weights of any sign, so that nothing cancels."""
    numbers: Any = torch.arange(logits.numel(), device=logits.device, dtype=torch.float32)
    return torch.sin(numbers * 12.9898).reshape(logits.shape)
