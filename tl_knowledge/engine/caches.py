"""A model's own key-value cache as a frozen prefix: filled once, read by any number of rows, and never grown.

Each attention layer joins the frozen keys and values to those of the new tokens, in the form that the model's class reads: keys before rotation,
``[row pos head d_head]``, for ``HookedTransformer``; as Hugging Face's attention left them, ``[row head pos d_head]``, for a bridge.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int

from tl_knowledge.arrays import Hooks, Tokens
from tl_knowledge.engine.recording import record
from tl_knowledge.models.hook_names import UNEMBED_IN, block_input
from tl_knowledge.models.protocol import HookedModel, layer_count

__all__ = ["Cache", "fill_cache", "fill_shared", "filled_cache", "filling", "is_hooked_transformer", "shared_length"]

Owners = Int[torch.Tensor, " row"]
Heads = Float[torch.Tensor, "_ _ _ d_head"]


@dataclass(frozen=True)
class Cache:
    """Keys and values of every layer, of some rows of tokens.

    Attributes:
        length: how many tokens.
        layers: of ``HookedTransformer`` ``(keys, values)``; of a bridge the layers of Hugging Face's cache.
        filled: Hugging Face's cache; ``None`` for ``HookedTransformer``.
    """

    length: int
    layers: Sequence[Any]
    filled: Any = None

    def tensors(self) -> list[torch.Tensor]:
        """All keys and values."""
        return [each for layer in self.layers for each in (layer if self.filled is None else (layer.keys, layer.values))]

    def arguments(self, kept: int, *, before: int | None = None, owners: Owners | None = None) -> dict[str, Any]:
        """What the model is given besides its new tokens.

        Args:
            kept: how many new tokens.
            before: the tokens before this one; ``None`` is all.
            owners: which row of the cache each row that is run continues; ``None``: row ``r`` continues row ``r % rows``.
        """
        length = self.length if before is None else before
        if self.filled is None:
            entries = [_Entry(keys[:, :length], values[:, :length], owners) for keys, values in self.layers]
            mask = torch.ones(1, kept, dtype=torch.long, device=entries[0].keys.device)
            return {"past_kv_cache": _Entries(entries, length), "attention_mask": mask}
        frozen = copy.copy(self.filled)
        frozen.layers = [_frozen_layer(layer, before, owners) for layer in self.layers]
        return {"past_key_values": frozen}


def fill_cache(model: HookedModel, tokens: Tokens, hooks: Hooks, length: int, names: Sequence[str] = ()) -> tuple[Cache, dict[str, torch.Tensor]]:
    """The keys and values of the first tokens of some rows, and other activations of the same run.

    Args:
        tokens: ``[row pos]``; a bridge runs the first ones only.
        hooks: in force while they run.
        length: how many tokens.
        names: of the other activations.
    """
    shown, arguments = filling(model)
    if is_hooked_transformer(model):
        recorded = record(model, tokens, hooks, [*names, *shown], stop_at_layer=layer_count(model))
    else:
        recorded = record(model, tokens[:, :length], hooks, [*names, UNEMBED_IN], **arguments)
    return filled_cache(length, shown, recorded, arguments), recorded


def filling(model: HookedModel) -> tuple[list[str], dict[str, Any]]:
    """What of a run to record, and what to give the model besides its tokens, so that `filled_cache` has their keys and values afterwards."""
    if is_hooked_transformer(model):
        return [f"blocks.{layer}.attn.hook_{part}" for layer in range(layer_count(model)) for part in ("k", "v")], {}
    from transformers import DynamicCache

    bridge: Any = model
    return [], {"past_key_values": DynamicCache(config=bridge.original_model.config), "use_cache": True}


def filled_cache(length: int, shown: Sequence[str], recorded: Mapping[str, torch.Tensor], arguments: Mapping[str, Any]) -> Cache:
    """The keys and values of a run's first tokens, of which `filling` said what to record and what to give the model."""
    if shown:
        kept = [recorded[name][:, :length] for name in shown]
        return Cache(length, list(zip(kept[::2], kept[1::2], strict=True)))
    filled = arguments["past_key_values"]
    return Cache(length, filled.layers, filled)


def fill_shared(model: HookedModel, tokens: Tokens, names: Sequence[str]) -> tuple[Cache, dict[str, torch.Tensor]]:
    """`fill_cache` of whole rows, of which many begin alike: each beginning runs once, and then the rest of every row.

    Args:
        names: of other activations of the run; ``[row pos ...]`` all.
    """
    length, cut = tokens.shape[1], shared_length(tokens) if is_hooked_transformer(model) else 0
    if cut == 0:
        return fill_cache(model, tokens, [], length, names)
    beginnings, owners = torch.unique(tokens[:, :cut], dim=0, return_inverse=True)
    known, before = fill_cache(model, beginnings, [], cut, names)
    layers, entry = range(layer_count(model)), block_input(0)
    entering = record(model, tokens, [], [entry])[entry][:, cut:]
    swap_in: Hooks = [(entry, lambda _, *, hook: entering)]
    parts = [(f"blocks.{layer}.attn.hook_k", f"blocks.{layer}.attn.hook_v") for layer in layers]
    wanted = [*names, *(name for pair in parts for name in pair)]
    after = record(model, tokens[:1, cut:], swap_in, wanted, stop_at_layer=len(layers), **known.arguments(length - cut, owners=owners))

    def joined(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        return torch.cat([old[owners], new], dim=1)

    caches = [(joined(old[0], after[keys]), joined(old[1], after[values])) for old, (keys, values) in zip(known.layers, parts, strict=True)]
    return Cache(length, caches), {name: joined(before[name], after[name]) for name in names}


def shared_length(tokens: Tokens) -> int:
    """After how many tokens to cut rows so that the beginnings that differ, and all rests, are the fewest tokens; none where that saves nothing.

    Example:
        >>> shared_length(torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 6, 7]]))
        2
    """
    rows, length = tokens.shape
    run = {cut: cut * len(torch.unique(tokens[:, :cut], dim=0)) + rows * (length - cut) for cut in range(1, length)}
    best = min(run, key=run.__getitem__, default=0)
    return best if best and run[best] < rows * length else 0


def is_hooked_transformer(model: HookedModel) -> bool:
    """Not a bridge to a Hugging Face module."""
    return not hasattr(model, "original_model")


def _frozen_layer(layer: Any, before: int | None, owners: Owners | None) -> Any:
    """A layer of Hugging Face's cache that joins its tokens to any number of rows and keeps nothing."""
    frozen = copy.copy(layer)
    if before is not None:
        frozen.keys, frozen.values = layer.keys[..., :before, :], layer.values[..., :before, :]
        if hasattr(frozen, "cumulative_length"):  # of a sliding window, which is longer than the prompts that are run here
            frozen.cumulative_length = before
    frozen.update = partial(_join, frozen.keys, frozen.values, owners)
    return frozen


def _join(
    old_keys: Heads, old_values: Heads, owners: Owners | None, keys: Heads, values: Heads, *_: Any, **__: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    joined = torch.cat([_to_rows(old_keys, len(keys), owners), keys], dim=-2)
    return joined, torch.cat([_to_rows(old_values, len(values), owners), values], dim=-2)


class _Entry:
    """One layer's prefix as ``HookedTransformer`` reads it."""

    def __init__(self, keys: Heads, values: Heads, owners: Owners | None) -> None:
        self.keys, self.values, self.owners = keys, values, owners
        self.past_keys = keys[:1]  # the model reads their shape, and runs on one row of tokens

    def append(self, new_keys: Heads, new_values: Heads) -> tuple[Heads, Heads]:
        keys = torch.cat([_to_rows(self.keys, len(new_keys), self.owners), new_keys], dim=1)
        return keys, torch.cat([_to_rows(self.values, len(new_values), self.owners), new_values], dim=1)


class _Entries:
    """All layers' prefixes as ``HookedTransformer`` reads them."""

    def __init__(self, entries: list[_Entry], length: int) -> None:
        self.entries, self.length = entries, length

    def __getitem__(self, layer: int) -> _Entry:
        return self.entries[layer]

    def append_attention_mask(self, attention_mask: torch.Tensor) -> torch.Tensor:
        return torch.cat([attention_mask.new_ones(attention_mask.shape[0], self.length), attention_mask], dim=-1)


def _to_rows(prompts: torch.Tensor, rows: int, owners: Owners | None) -> torch.Tensor:
    """Each row's prompt, ``[prompt ...] -> [row ...]``; a view where there is one prompt, or fewer rows than prompts."""
    if owners is not None:
        return prompts.index_select(0, owners[:rows])
    if rows < len(prompts):
        return prompts[:rows]
    copies = prompts.expand(rows // len(prompts), *prompts.shape) if len(prompts) > 1 else None
    return prompts.expand(rows, *prompts.shape[1:]) if copies is None else copies.flatten(0, 1)
