"""A frozen prefix: run few new tokens a row against the keys and values of the tokens before it.

Where only the last positions change, the keys and values of every earlier position are the same in all rows. They are computed once, and
each attention layer joins them to however many rows it is given, so the prefix composes with growing rows (`tl_knowledge.engine.rows`): a row
costs one token (or a few) instead of a prompt. Several prompts of one length go together: row ``r`` continues prompt ``r % prompts``.
Layers that only feed ones whose input is swapped in may run fewer rows than there are prompts.

Hooks that the caller has set on the model see the prefix and the new token in two runs, so positions that count from the end mean
another token in each.

The prefix is handed to the model as its own key-value cache, in the form that the model's class reads, and never grows.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from jaxtyping import Float

from tl_knowledge.arrays import Hooks, Tokens
from tl_knowledge.engine.recording import record, run_until
from tl_knowledge.models.hook_names import UNEMBED_IN, block_input, block_output
from tl_knowledge.models.protocol import HookedModel, is_masked, layer_count

__all__ = ["FrozenPrefix", "freeze_prefix", "run_on_prefix", "run_on_prefix_from"]

Heads = Float[torch.Tensor, "_ _ head d_head"]


@dataclass(frozen=True)
class FrozenPrefix:
    """What is known before the rows run.

    Attributes:
        tokens: ``[1 pos]``: what the model is run on; one row, so that masks and rotary tables broadcast.
        entering: ``[prompt pos d_model]``: what each prompt's own tokens enter block 0 with.
        arguments: the keys and values of the tokens before, as the model takes them.
    """

    tokens: Tokens
    entering: Float[torch.Tensor, "prompt _ d_model"]
    arguments: dict[str, Any]


def freeze_prefix(model: HookedModel, tokens: Tokens, kept: int = 1) -> FrozenPrefix:
    """Freeze every token but the last ones of some prompts of one length; nothing where nothing can be frozen.

    A masked model reads in both directions: a change anywhere changes every position, so its prompts run whole.

    Args:
        tokens: ``[prompt pos]``.
        kept: how many tokens at the end are run anew in every row.
    """
    if tokens.shape[1] <= kept or is_masked(model):
        entering = record(model, tokens, [], [block_input(0)])[block_input(0)]
        return FrozenPrefix(tokens[:1], entering, {})
    freeze = _freeze_bridge if hasattr(model, "original_model") else _freeze_hooked_transformer
    entering, arguments = freeze(model, tokens, kept)
    return FrozenPrefix(tokens[:1, -kept:], entering, arguments)


def run_on_prefix(model: HookedModel, prefix: FrozenPrefix, hooks: Hooks) -> torch.Tensor:
    """Run the tokens after a prefix; the hooks say how many rows come out."""
    swap_in: Hooks = [(block_input(0), lambda _, *, hook: prefix.entering)]
    logits: torch.Tensor = model.run_with_hooks(prefix.tokens, fwd_hooks=swap_in + hooks, **prefix.arguments)
    return logits


def run_on_prefix_from(
    model: HookedModel, prefix: FrozenPrefix, layer: int, states: Float[torch.Tensor, "row pos d_model"], hooks: Hooks
) -> torch.Tensor:
    """Run states that enter a block (or leave the last one) through the rest of the model, after a prefix.

    ``HookedTransformer`` starts there; a bridge cannot, so one dummy row runs through the layers below.
    """
    if not hasattr(model, "original_model"):
        arguments = {name: value for name, value in prefix.arguments.items() if name != "attention_mask"}
        logits: torch.Tensor = model.run_with_hooks(states, start_at_layer=layer, fwd_hooks=hooks, **arguments)
        return logits
    site = block_output(layer - 1) if layer else block_input(0)
    swapped: Hooks = [(site, lambda _, *, hook: states), *hooks]
    dummy: torch.Tensor = model.run_with_hooks(prefix.tokens, fwd_hooks=swapped, **prefix.arguments)
    return dummy


class _PrefixEntry:
    """One layer's prefix as ``HookedTransformer`` reads it: keys before rotation, ``[prompt pos head d_head]``."""

    def __init__(self, keys: Heads, values: Heads) -> None:
        self.keys, self.values = keys, values
        self.past_keys = keys[:1]  # the model reads their shape, and runs on one row of tokens

    def append(self, new_keys: Heads, new_values: Heads) -> tuple[Heads, Heads]:
        keys = torch.cat([_to_rows(self.keys, len(new_keys)), new_keys], dim=1)
        return keys, torch.cat([_to_rows(self.values, len(new_values)), new_values], dim=1)


class _Prefix:
    """All layers' prefixes as ``HookedTransformer`` reads them."""

    def __init__(self, entries: list[_PrefixEntry], length: int) -> None:
        self.entries, self.length = entries, length

    def __getitem__(self, layer: int) -> _PrefixEntry:
        return self.entries[layer]

    def append_attention_mask(self, attention_mask: torch.Tensor) -> torch.Tensor:
        return torch.cat([attention_mask.new_ones(attention_mask.shape[0], self.length), attention_mask], dim=-1)


def _freeze_hooked_transformer(model: HookedModel, tokens: Tokens, kept: int) -> tuple[torch.Tensor, dict[str, Any]]:
    layers = range(layer_count(model))
    names = [f"blocks.{layer}.attn.hook_{part}" for layer in layers for part in ("k", "v")]
    recorded = record(model, tokens, [], [block_input(0), *names], stop_at_layer=len(layers))
    entries = [_PrefixEntry(recorded[f"blocks.{i}.attn.hook_k"][:, :-kept], recorded[f"blocks.{i}.attn.hook_v"][:, :-kept]) for i in layers]
    mask = torch.ones(1, kept, dtype=torch.long, device=tokens.device)
    return recorded[block_input(0)][:, -kept:], {"past_kv_cache": _Prefix(entries, tokens.shape[1] - kept), "attention_mask": mask}


def _freeze_bridge(model: Any, tokens: Tokens, kept: int) -> tuple[torch.Tensor, dict[str, Any]]:
    """A Hugging Face cache whose layers join the prefix to any number of rows and keep nothing."""
    from transformers import DynamicCache

    filled: Any = DynamicCache(config=model.original_model.config)
    run_until(model, tokens[:, :-kept], [], UNEMBED_IN, past_key_values=filled, use_cache=True)
    frozen = copy.copy(filled)
    frozen.layers = [copy.copy(layer) for layer in filled.layers]
    for layer in frozen.layers:
        layer.update = MethodType(_join, layer)
    arguments = {"past_key_values": frozen}
    return record(model, tokens[:, -kept:], [], [block_input(0)], **arguments)[block_input(0)], arguments


def _join(layer: Any, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
    joined = torch.cat([_to_rows(layer.keys, len(keys)), keys], dim=-2)
    return joined, torch.cat([_to_rows(layer.values, len(values)), values], dim=-2)


def _to_rows(prompts: torch.Tensor, rows: int) -> torch.Tensor:
    """Each row's prompt, ``[prompt ...] -> [row ...]``; a view where there is one prompt, or fewer rows than prompts."""
    if rows < len(prompts):
        return prompts[:rows]
    copies = prompts.expand(rows // len(prompts), *prompts.shape) if len(prompts) > 1 else None
    return prompts.expand(rows, *prompts.shape[1:]) if copies is None else copies.flatten(0, 1)
