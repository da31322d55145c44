"""Interchange in a subspace: some directions of a state come from another run, all others stay."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from jaxtyping import Float

from tl_knowledge.arrays import HookFn, Hooks, as_positions
from tl_knowledge.door import public
from tl_knowledge.errors import ComponentError, check_choice
from tl_knowledge.hooks.writing import Positions, check_not_alone, check_reach
from tl_knowledge.models.hook_names import component_hook
from tl_knowledge.wording import counted

__all__ = ["SubspaceComponent", "check_orthonormal", "patch_subspace"]

SubspaceComponent: TypeAlias = Literal["resid_pre", "resid_post", "mlp_out", "attn_out", "neuron"]
"""What has one state a position: the stream, a module's write, or an MLP's hidden activations (``"neuron"``)."""

Basis: TypeAlias = Float[torch.Tensor, "d dims"]


@public
def patch_subspace(basis: Basis | None, states: torch.Tensor, *, component: SubspaceComponent, layer: int, positions: Positions) -> Hooks:
    """Put a subspace's part of other states in place of this run's: the distributed interchange intervention of Geiger et al. (2024).

    ``x + B B^T (s - x)``: what ``x`` has in the directions ``B`` is taken from ``s``. Gradients reach ``B`` and ``s``.

    Args:
        basis: ``B``, orthonormal columns; ``None`` is the whole space, where ``s`` takes the place of ``x``.
        states: ``s``, ``[d]`` for all rows of the batch, or ``[batch d]``.
        component: whose states these are.
        layer: of which block.
        positions: one or several, negative ones from the end.

    Returns:
        One hook.

    Raises:
        ComponentError: an unknown component, no position, states of another shape, or columns that are not orthonormal; on running, what does not fit
            the model, the batch or the prompt, or a step of ``generate`` with a cache.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> _, cache = model.run_with_cache("The capital of Italy is")
        >>> source = cache["blocks.2.hook_resid_post"][0, 4]  # after " Italy"
        >>> basis = torch.linalg.qr(torch.randn(128, 4)).Q
        >>> hooks = tlk.hooks.patch_subspace(basis, source, component="resid_post", layer=2, positions=4)
        >>> logits = model.run_with_hooks("The capital of France is", fwd_hooks=hooks)
    """
    check_choice("component", component, SubspaceComponent, ComponentError)
    where, lengths, name = list(as_positions(positions)), list[int](), component_hook(component, layer)
    if not where or states.ndim not in (1, 2) or not states.numel():
        raise ComponentError(
            f"states of shape {tuple(states.shape)} cannot be put at positions {where} of {name}; pass [d] or [batch d], and at least one position."
        )
    rows = states.reshape(-1, states.shape[-1])
    if basis is not None:
        check_orthonormal(basis)
        if len(basis) != rows.shape[1]:
            raise ComponentError(
                f"a basis of {counted(len(basis), 'number')} a direction does not fit states of {rows.shape[1]}; it is of another component."
            )
    return [(name, _interchange(basis, rows, name, where, lengths))]


def _interchange(basis: Basis | None, rows: Float[torch.Tensor, "source d"], name: str, where: list[int], lengths: list[int]) -> HookFn:
    def put(activation: torch.Tensor, *, hook: object) -> torch.Tensor:
        if activation.ndim != 3:
            raise ComponentError(f"this model shows {name} as {list(activation.shape)}, not as [batch pos d]; pass another component.")
        if activation.shape[2] != rows.shape[1] or len(rows) not in (1, activation.shape[0]):
            raise ComponentError(f"states {list(rows.shape)} do not fit {name} of {list(activation.shape)}; pass one state or one a row.")
        check_not_alone(activation, where, lengths)
        check_reach(activation, where, name)
        changed = activation.clone()
        wide = torch.promote_types(activation.dtype, torch.float32)
        own, given = activation[:, where].to(wide), rows.to(activation.device, wide)[:, None]
        if basis is None:
            changed[:, where] = given.to(activation.dtype).expand_as(own)
        else:
            within = basis.to(activation.device, wide)
            changed[:, where] = (own + (given - own) @ within @ within.mT).to(activation.dtype)
        return changed

    return put


def check_orthonormal(basis: Basis) -> None:
    """Refuse directions that are not of length one and at right angles, for which ``B B^T`` is no projection.

    Raises:
        ComponentError: such directions, or none.
    """
    dims = basis.shape[1]
    found = basis.detach().to(torch.promote_types(basis.dtype, torch.float32))
    off = float((found.mT @ found - torch.eye(dims).to(found)).abs().max()) if dims else float("nan")
    if not off <= torch.finfo(basis.dtype).eps ** 0.5:
        raise ComponentError(f"the {dims} directions are not orthonormal (off by {off:.2g}); pass torch.linalg.qr(basis).Q.")
