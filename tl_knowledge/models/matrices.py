"""Every ``[in, out]`` matrix of a block: where it is held, what it reads and where its output is.

``W_out`` is held by its layer's number elsewhere (`tl_knowledge.models.weights`); here are the others, and it among them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, TypeAlias, get_args
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float

from tl_knowledge.arrays import Hooks
from tl_knowledge.errors import ComponentError, InputError, UnsupportedModelError, check_choice
from tl_knowledge.models.protocol import HookedModel, model_device, model_name

__all__ = [
    "ATTENTION",
    "MATRICES",
    "BlockMatrix",
    "Matrix",
    "Sites",
    "add_at",
    "as_held",
    "check_matrices",
    "held_matrix",
    "matrix_sites",
    "matrix_weights",
    "memory_like",
    "parameters_sharing",
    "part_of",
    "places_in",
]

Matrix: TypeAlias = Literal["W_Q", "W_K", "W_V", "W_O", "W_in", "W_gate", "W_out"]
"""A block's matrices, as TransformerLens names them; those of attention stand for all heads side by side."""

MATRICES: tuple[Matrix, ...] = get_args(Matrix)

ATTENTION = ("W_Q", "W_K", "W_V", "W_O")

Weights: TypeAlias = Float[torch.Tensor, "d_in d_out"]

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


@dataclass(frozen=True, order=True)
class BlockMatrix:
    """One block's matrix.

    Example:
        >>> str(BlockMatrix(3, "W_in")), BlockMatrix.named("blocks.0.attn.W_Q")
        ('blocks.3.mlp.W_in', BlockMatrix(layer=0, name='W_Q'))
    """

    layer: int
    name: Matrix

    def __post_init__(self) -> None:
        check_choice("matrix", self.name, MATRICES, ComponentError)

    def __str__(self) -> str:
        return f"blocks.{self.layer}.{'attn' if self.name in ATTENTION else 'mlp'}.{self.name}"

    @classmethod
    def named(cls, name: str) -> BlockMatrix:
        """The matrix that TransformerLens calls so."""
        _, layer, _, matrix = name.split(".")
        check_choice("matrix", matrix, MATRICES, ComponentError)
        return cls(int(layer), matrix)  # pyright: ignore[reportArgumentType]  # checked


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


def held_matrix(model: HookedModel, place: BlockMatrix) -> torch.Tensor:
    """What the model holds: ``[d_in d_out]`` of an MLP, ``[head d_in d_out]`` of attention.

    Raises:
        UnsupportedModelError: the model has no such matrix.
    """
    held = _held(model, place)
    if held is not None:
        return held
    raise UnsupportedModelError(f"{model_name(model)} has no {place}; a model without a gated MLP has no W_gate, for example.")


def _held(model: HookedModel, place: BlockMatrix) -> torch.Tensor | None:
    block = model.blocks[place.layer]
    part = getattr(block, "attn" if place.name in ATTENTION else "mlp", None)
    for name in (f"_{place.name}", place.name):  # HookedTransformer holds the fewer keys and values of grouped heads under an underscore
        weights = getattr(part, name, None)
        if isinstance(weights, torch.Tensor):
            return weights
    return None


def matrix_weights(model: HookedModel, place: BlockMatrix) -> Weights:
    """The matrix as ``[d_in, d_out]``: of attention all heads side by side (``W_O``: one under the other)."""
    held = held_matrix(model, place)
    if held.ndim == 2:
        return held
    return held.flatten(0, 1) if place.name == "W_O" else held.transpose(0, 1).flatten(1)


def check_matrices(matrices: Sequence[str]) -> None:
    """Refuse names that are no matrices, none at all, or one twice.

    Raises:
        ComponentError: an unknown matrix.
        InputError: none, or one twice.
    """
    for name in matrices:
        check_choice("matrix", name, MATRICES, ComponentError)
    if not matrices or len(set(matrices)) < len(matrices):
        raise InputError(f"matrices={tuple(matrices)} names no matrix, or one twice; pass each once, such as ('W_out',).")


def places_in(model: HookedModel, layers: Sequence[int], matrices: Sequence[Matrix] | None) -> list[BlockMatrix]:
    """Some matrices of some blocks, in that order; ``None``: all that each block has.

    Example:
        >>> import tl_knowledge as tlk
        >>> [str(place) for place in places_in(tlk.load_model("factlm"), (0,), None)][-2:]
        ['blocks.0.mlp.W_in', 'blocks.0.mlp.W_out']

    Raises:
        UnsupportedModelError: a matrix that was named, and that the model does not have.
    """
    places = [BlockMatrix(layer, name) for layer in layers for name in (MATRICES if matrices is None else matrices)]
    if matrices is None:
        return [place for place in places if _held(model, place) is not None]
    for place in places:
        held_matrix(model, place)
    return places


def as_held(change: Weights, held: torch.Tensor, place: BlockMatrix) -> torch.Tensor:
    """A change ``[d_in, d_out]`` in the shape that the model holds."""
    if held.ndim == 2:
        return change
    heads = held.shape[0]
    return change.unflatten(0, (heads, -1)) if place.name == "W_O" else change.unflatten(1, (heads, -1)).transpose(0, 1)


def parameters_sharing(model: HookedModel, held: torch.Tensor) -> dict[str, torch.Tensor]:
    """The parameters that lie in the same memory as some weights, by name: bridges show a fused ``qkv`` and its parts; none for a copy."""
    pointer = held.untyped_storage().data_ptr()
    return {str(name): each for name, each in model.named_parameters() if each.untyped_storage().data_ptr() == pointer}


def memory_like(held: torch.Tensor) -> torch.Tensor:
    """Zeros for all the memory that some weights are a part of, in one row."""
    return held.new_zeros(held.untyped_storage().nbytes() // held.element_size())


def part_of(memory: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The part of such a row that a tensor is of its own memory.

    Example:
        >>> weights = torch.arange(6.0).reshape(2, 3)
        >>> part_of(10 * torch.arange(6.0), weights[:, 1:].T)
        tensor([[10., 40.],
                [20., 50.]])
    """
    return memory.as_strided(like.size(), like.stride(), like.storage_offset())


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
        return activation + ((inputs.pop() @ left.to(activation)) @ right.to(activation)).reshape(activation.shape)

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
