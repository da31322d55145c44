"""Ablation: heads, neurons and modules taken out of a run, to see what it does without them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Literal, TypeAlias

import torch

from tl_knowledge.arrays import HookFn, Hooks, as_pairs, as_positions
from tl_knowledge.door import public
from tl_knowledge.errors import ComponentError, check_choice
from tl_knowledge.hooks.writing import Activations, Positions, check_not_alone, has_recorded, write_part, write_recorded
from tl_knowledge.models.hook_names import Component, Written, component_hook

__all__ = ["Ablation", "ablate"]

Ablation: TypeAlias = Literal["zero", "mean", "resample"]
"""What is written instead: nothing, the mean of recorded activations, or another run's activations."""


@public
def ablate(
    *,
    heads: tuple[int, int] | Iterable[tuple[int, int]] | None = None,
    neurons: tuple[int, int] | Iterable[tuple[int, int]] | None = None,
    modules: tuple[int, Written] | Iterable[tuple[int, Written]] | None = None,
    by: Ablation = "zero",
    recorded: Activations | None = None,
    positions: Positions | None = None,
) -> Hooks:
    """Take heads, neurons and modules out: something else is written in their place.

    Nothing, which a model never sees (``"zero"``: Michel et al. 2019); the mean of what it usually is, which leaves what all prompts have in
    common (``"mean"``: Wang et al. 2022); or what it is in another run (``"resample"``: Chan et al. 2022).

    Args:
        heads: pairs of layer and head, whose ``z`` is replaced.
        neurons: pairs of layer and neuron, whose activation after the non-linearity is replaced; a `NeuronSet` is such pairs.
        modules: pairs of layer and ``"mlp_out"`` or ``"attn_out"``, whose output is replaced.
        by: what by.
        recorded: activations by hook name. For ``"mean"`` those that the mean is of, over all their rows and positions (from
            `tl_knowledge.tracing.mean_activations`, or a cache of prompts of your own); for ``"resample"`` those of a run of equal length.
        positions: one or several, negative ones from the end; every position when ``None``.

    Returns:
        One hook for each layer and kind: on ``attn.hook_z``, ``mlp.hook_post``, ``hook_mlp_out`` or ``hook_attn_out``.

    Raises:
        ComponentError: nothing to ablate, an unknown word, or nothing recorded to write; on running, a head, neuron or position outside the
            activation, or any position at a step of ``generate`` with a key-value cache.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> prompt = tlk.Prompt.from_text(model, "The capital of France is", subject="France", target=" Paris")
        >>> hooks = tlk.ablate(heads=[(5, 3), (6, 0)], modules=(2, "mlp_out"))
        >>> [name for name, _ in hooks]
        ['blocks.5.attn.hook_z', 'blocks.6.attn.hook_z', 'blocks.2.hook_mlp_out']
        >>> logits = model.run_with_hooks(prompt.tokens, fwd_hooks=hooks)
    """
    check_choice("by", by, Ablation, ComponentError)
    if by != "zero" and recorded is None:
        what = "activations whose mean is written" if by == "mean" else "the run whose activations are written"
        raise ComponentError(f"by={by!r} needs recorded=, {what}; pass a cache, or by='zero'.")
    sites: list[tuple[str, tuple[int, ...] | None, int]] = []
    with_units: dict[Component, list[tuple[int, int]]] = {"head": as_pairs(heads), "neuron": as_pairs(neurons)}
    for component, pairs in with_units.items():
        for layer, own in groupby(sorted(set(pairs)), key=itemgetter(0)):
            sites.append((component_hook(component, layer), tuple(unit for _, unit in own), 2 if component == "head" else 1))
    of_modules: list[tuple[int, Written]] = as_pairs(modules)
    for layer, module in dict.fromkeys(of_modules):
        check_choice("modules", module, Written, ComponentError)
        sites.append((component_hook(module, layer), None, 1))
    if not sites:
        raise ComponentError("nothing was given to ablate; pass heads=, neurons= or modules=, each as pairs such as (3, 0) or (3, 'mlp_out').")
    missing = [name for name, *_ in sites if by != "zero" and recorded is not None and not has_recorded(recorded, name)]
    if missing:
        raise ComponentError(f"by={by!r} writes what was recorded, but {missing[0]} was not; record it too, or pass by='zero'.")
    where = None if positions is None else as_positions(positions)
    return [(name, _replace(name, where, units, by, recorded, axes)) for name, units, axes in sites]


def _replace(name: str, where: Sequence[int] | None, units: tuple[int, ...] | None, by: Ablation, recorded: Activations | None, axes: int) -> HookFn:
    """A hook that replaces one activation.

    Args:
        axes: how many of the activation's are one position's own.
    """
    if by == "resample" and recorded is not None:
        return write_recorded(recorded, name, where, units)
    lengths: list[int] = []

    def replace(activation: torch.Tensor, *, hook: object) -> torch.Tensor:
        if axes == 2 and activation.ndim != 4:
            raise ComponentError(f"this model shows {name} as {tuple(activation.shape)}, so heads cannot be told apart; ablate modules or neurons.")
        value = activation.new_zeros(activation.shape[-axes:])
        if recorded is not None and by == "mean":
            value = recorded[name].to(activation).flatten(0, -axes - 1).mean(0)
        if value.shape != activation.shape[-axes:]:
            raise ComponentError(
                f"recorded {name} is {tuple(value.shape)} at a position, the running one {tuple(activation.shape[-axes:])}; record it on this model."
            )
        if activation.ndim == 2:  # batch and positions in one axis (OPT's MLPs)
            if where is not None:
                raise ComponentError(f"this model has batch and positions of {name} in one axis; pass positions=None, or use measure_ablation().")
            return write_part(activation[None], value.expand_as(activation)[None], name, None, units)[0]
        if where is not None:
            check_not_alone(activation, where, lengths)
        return write_part(activation, value.expand_as(activation), name, where, units)

    return replace
