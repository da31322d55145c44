"""A frozen prefix: run one new token a row against the keys and values of the tokens before it.

Where only the last position changes, the keys and values of every earlier position are the same in all rows. They are computed once, and
each attention layer joins them to however many rows it is given, so the prefix composes with growing rows (`tl_knowledge.rows`): a row
costs one token instead of a prompt.

Hooks that the caller has set on the model see the prefix and the new token in two runs, so positions that count from the end mean
another token in each.

The prefix is handed to the model as its own key-value cache, in the form that the model's class reads, and never grows.
"""

from __future__ import annotations

import copy
from types import MethodType
from typing import Any

import torch
from jaxtyping import Float

from tl_knowledge.arrays import Hooks, Tokens
from tl_knowledge.model import HookedModel, layer_count
from tl_knowledge.rows import record

__all__ = ["run_on_prefix", "with_prefix"]

Heads = Float[torch.Tensor, "_ _ head d_head"]


class _PrefixEntry:
    """One layer's prefix as ``HookedTransformer`` reads it: keys before rotation, ``[1 pos head d_head]``."""

    def __init__(self, keys: Heads, values: Heads) -> None:
        self.past_keys, self.past_values = keys, values

    def append(self, new_keys: Heads, new_values: Heads) -> tuple[Heads, Heads]:
        rows = new_keys.shape[0]
        keys = torch.cat([self.past_keys.expand(rows, -1, -1, -1), new_keys], dim=1)
        return keys, torch.cat([self.past_values.expand(rows, -1, -1, -1), new_values], dim=1)


class _Prefix:
    """All layers' prefixes as ``HookedTransformer`` reads them."""

    def __init__(self, entries: list[_PrefixEntry], length: int) -> None:
        self.entries, self.length = entries, length

    def __getitem__(self, layer: int) -> _PrefixEntry:
        return self.entries[layer]

    def append_attention_mask(self, attention_mask: torch.Tensor) -> torch.Tensor:
        return torch.cat([attention_mask.new_ones(attention_mask.shape[0], self.length), attention_mask], dim=-1)


def with_prefix(model: HookedModel, tokens: Tokens) -> dict[str, Any]:
    """Keyword arguments that make the model see ``tokens`` before whatever it is run on next.

    Args:
        tokens: ``[1 pos]``, at least one.
    """
    if hasattr(model, "original_model"):
        return {"past_key_values": _bridge_prefix(model, tokens)}
    layers = range(layer_count(model))
    names = [f"blocks.{layer}.attn.hook_{part}" for layer in layers for part in ("k", "v")]
    found = record(model, tokens, [], names, stop_at_layer=len(layers))
    entries = [_PrefixEntry(found[f"blocks.{i}.attn.hook_k"], found[f"blocks.{i}.attn.hook_v"]) for i in layers]
    return {"past_kv_cache": _Prefix(entries, tokens.shape[1]), "attention_mask": torch.ones(1, 1, dtype=torch.long, device=tokens.device)}


def _bridge_prefix(model: Any, tokens: Tokens) -> Any:
    """A Hugging Face cache whose layers join the prefix to any number of rows and keep nothing."""
    from transformers import DynamicCache

    filled: Any = DynamicCache(config=model.original_model.config)
    with torch.no_grad():
        model(tokens, past_key_values=filled, use_cache=True)
    frozen = copy.copy(filled)
    frozen.layers = [copy.copy(layer) for layer in filled.layers]
    for layer in frozen.layers:
        layer.update = MethodType(_join, layer)
    return frozen


def _join(layer: Any, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
    rows = keys.shape[0]
    joined = torch.cat([layer.keys.expand(rows, -1, -1, -1), keys], dim=-2)
    return joined, torch.cat([layer.values.expand(rows, -1, -1, -1), values], dim=-2)


def run_on_prefix(model: HookedModel, tokens: Tokens, prefix: dict[str, Any], hooks: Hooks) -> torch.Tensor:
    """Run ``tokens [1 pos]`` behind a prefix; the hooks say how many rows come out."""
    logits: torch.Tensor = model.run_with_hooks(tokens, fwd_hooks=hooks, **prefix)
    return logits
