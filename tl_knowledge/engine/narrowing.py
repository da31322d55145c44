"""Running MLPs and attention's projections only where a row can differ from another one, which is run beside it or known.

A module that treats positions one by one is given the needed ones of all rows as one long row, and its output is spread out again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int

from tl_knowledge.arrays import HookFn, Hooks, Tokens
from tl_knowledge.engine.proof import Proof
from tl_knowledge.engine.rows import probe_growth
from tl_knowledge.models.hook_names import component_hook
from tl_knowledge.models.protocol import HookedModel, attention_input, layer_count, mlp_input
from tl_knowledge.models.routed import is_bare

__all__ = ["KnownRows", "may_narrow", "narrow_attention", "narrow_mlp", "narrowed_hooks", "packed_places"]

Mask = Bool[torch.Tensor, "row pos"]


@dataclass(frozen=True)
class KnownRows:
    """Rows that are not run: what they hold at every hook that `narrowed_hooks` names.

    Attributes:
        start: which of their positions is the first of the rows that are run.
    """

    recorded: Mapping[str, torch.Tensor]
    start: int

    def at(self, name: str) -> torch.Tensor:
        """An activation of theirs, ``[row pos ...]``."""
        return self.recorded[name][:, self.start :]


def may_narrow(model: HookedModel) -> bool:
    """Whether modules may be run on packed positions: nobody's hook, nor an edit that is one, would see them in other places."""
    return is_bare(model) and not _NARROWING.refusal(model)


def narrowed_hooks(model: HookedModel, first: int = 0) -> list[str]:
    """Where `narrow_mlp` and `narrow_attention` take from other rows what is not computed, from a layer on."""
    if not may_narrow(model):
        return []
    names: list[str] = []
    for layer in range(first, layer_count(model)):
        names += [component_hook("mlp_out", layer)] if mlp_input(model, layer) else []
        names += [*_projections(layer), component_hook("attn_out", layer)] if attention_input(model, layer) else []
    return names


def narrow_mlp(model: HookedModel, layer: int, needed: Mask, source: Int[torch.Tensor, " row"], known: KnownRows | None = None) -> Hooks:
    """Run a block's MLP only where a row can differ from its source row, and take the rest from there.

    An MLP treats positions one by one, so the needed ones run as one long row, and its output is spread out again. A
    restored row differs from its corrupted one at and after the restored position only, and in the last layer only the
    answer's positions are read: about half the work is not needed.

    Args:
        needed: where to compute. Where neither a row nor its source row is needed, anything may come out.
        source: for each row, the row it equals elsewhere.
        known: what holds these rows where they are not among those that are run.
    """
    return [] if _NARROWING.refusal(model) else _narrow_mlp(model, layer, needed, source, known)


def narrow_attention(
    model: HookedModel, layer: int, needed: Mask, read: Mask, source: Int[torch.Tensor, " row"], known: KnownRows | None = None
) -> Hooks:
    """The same for attention's projections, on models whose queries, keys and values can be spread out (``HookedTransformer``).

    Args:
        needed: where queries, keys and values are computed; elsewhere they are the source row's.
        read: where the output projection is computed.
        source, known: as in `narrow_mlp`.
    """
    return [] if _NARROWING.refusal(model) else _narrow_attention(model, layer, needed, read, source, known)


def _narrow_mlp(model: HookedModel, layer: int, needed: Mask, source: Int[torch.Tensor, " row"], known: KnownRows | None = None) -> Hooks:
    name, written = mlp_input(model, layer), component_hook("mlp_out", layer)
    return [] if name is None else [(name, _pack(needed)), *_spread([written], needed, source, known)]


def _narrow_attention(
    model: HookedModel, layer: int, needed: Mask, read: Mask, source: Int[torch.Tensor, " row"], known: KnownRows | None = None
) -> Hooks:
    name = attention_input(model, layer)
    if name is None:
        return []
    projected = _spread(_projections(layer), needed, source, known)
    written = _spread([component_hook("attn_out", layer)], read, source, known)
    return [(name, _pack(needed)), *projected, (component_hook("head", layer), _pack(read)), *written]


def _projections(layer: int) -> list[str]:
    return [f"blocks.{layer}.attn.hook_{part}" for part in ("q", "k", "v")]


def packed_places(needed: Mask) -> Int[torch.Tensor, "row pos"]:
    """Which place of the one long row each needed position has; -1 elsewhere."""
    return (needed.flatten().cumsum(0) - 1).view(needed.shape).masked_fill(~needed, -1)


def _pack(needed: Mask) -> HookFn:
    """Needed positions of all rows as one row, and `_spread` undoes it.

    ::

        row 0   # # # .              # # # # # # #        one row, without the dots
        row 1   . # # .    _pack ->  0 0 0 1 1 2 2
        row 2   . . # #  <- _spread  (a dot is taken from the row's source row)
    """
    places = needed.flatten().nonzero().squeeze(1)
    return lambda states, *, hook: states.flatten(0, 1).index_select(0, places)[None]


def _spread(names: Sequence[str], needed: Mask, source: Int[torch.Tensor, " row"], known: KnownRows | None) -> Hooks:
    """Undo `_pack` at some hooks; a position that was not needed is taken from the source row."""
    place = packed_places(needed)
    if known is None:
        elsewhere = place[source].clamp_min(0)
    else:  # behind all that is run
        elsewhere = place.amax() + 1 + source[:, None] * needed.shape[1] + torch.arange(needed.shape[1], device=needed.device)
    taken = torch.where(needed, place, elsewhere).flatten()

    def at(name: str) -> HookFn:
        others = None if known is None else known.at(name).flatten(0, 1)

        def spread(packed: torch.Tensor, *, hook: object) -> torch.Tensor:
            there = packed[0] if others is None else torch.cat([packed[0], others])
            return there.index_select(0, taken).unflatten(0, needed.shape)

        return spread

    return [(name, at(name)) for name in names]


def _probe(model: HookedModel) -> str:
    """Rows that take their last position from their parent come out like it."""
    return probe_growth(model, lambda tokens: [pair for layer in range(layer_count(model)) for pair in _narrow_newborn(model, layer, tokens)])


def _narrow_newborn(model: HookedModel, layer: int, tokens: Tokens) -> Hooks:
    """The rows born before a layer take their last position from the parent."""
    rows = 2 * (layer + 2)
    needed = torch.ones(rows, tokens.shape[1], dtype=torch.bool, device=tokens.device)
    needed[2:, -1] = False
    source = torch.arange(rows, device=tokens.device) % 2
    return _narrow_mlp(model, layer, needed, source) + _narrow_attention(model, layer, needed, needed, source)


_NARROWING = Proof("running modules only where rows differ", _probe, instead="")
