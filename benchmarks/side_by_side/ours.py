"""Ours, through the public functions as a user calls them."""

from __future__ import annotations

from torch import Tensor

import tl_knowledge as tlk
from side_by_side.work import Work


def trace_states(work: Work) -> Tensor:
    return _trace(work, "resid_post", 1)


def trace_mlps(work: Work) -> Tensor:
    return _trace(work, "mlp_out", 10)


def _trace(work: Work, component: str, window: int) -> Tensor:
    result = tlk.trace(
        work.model,
        work.prompt,
        work.noise,
        component=component,
        window=window,
        samples=work.samples,
        variant="meng2022_code",
        progress=False,
    )
    return result.mean_effect


def neurons(work: Work) -> Tensor:
    return tlk.attribute_neurons(work.model, work.prompt, steps=work.steps, variant="eleutherai2022", progress=False).scores[0]


def rome(work: Work) -> Tensor:
    return _change(tlk.plan_edit(work.model, work.fact, work.rome, moments=work.moments, progress=False))


def memit(work: Work) -> Tensor:
    return _change(tlk.plan_edit(work.model, list(work.facts), work.memit, moments=work.moments, progress=False))


def _change(edit: tlk.Edit) -> Tensor:
    """Every edited layer's change, one after the other."""
    import torch

    return torch.stack([edit.factors[layer].dense for layer in sorted(edit.factors)])
