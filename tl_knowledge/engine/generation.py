"""Going on with a text: the model's own ``generate``, one form for both classes, with its cache where that proves exact."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Int

from tl_knowledge.arrays import Hooks, Tokens
from tl_knowledge.engine.prefix import exact_up_to
from tl_knowledge.engine.proof import Proof, probe_tokens, same
from tl_knowledge.engine.recording import capture
from tl_knowledge.models.hook_names import UNEMBED_IN
from tl_knowledge.models.protocol import HookedModel, context_length
from tl_knowledge.models.reread import has_readers

__all__ = ["written_tokens"]

PROBED = 3


def written_tokens(
    model: HookedModel, tokens: Tokens, more: int, *, top_k: int | None = None, hooks: Hooks | None = None, cached: bool = True
) -> Int[torch.Tensor, "batch _"]:
    """Rows of one length and what follows them: so many tokens, sampled among the ``top_k`` likeliest, or (``None``) the likeliest.

    Args:
        hooks: in force at every step; with a cache a step after the first runs one token a row.
        cached: keep earlier keys and values instead of computing them again, where the model's cache is exact.
    """
    proven = tokens.shape[1] + more <= exact_up_to(model)  # beyond it rotary tables may be others than those of the keys in the cache
    exact = proven and (has_readers(model) or not cached or _CACHED.refusal(model) is None)
    return _generate(model, tokens, more, top_k, hooks or [], cached and exact)


def _generate(model: HookedModel, tokens: Tokens, more: int, top_k: int | None, hooks: Hooks, cached: bool) -> Int[torch.Tensor, "batch _"]:
    settings: dict[str, Any] = {"max_new_tokens": more, "top_k": top_k, "do_sample": top_k is not None}
    settings |= {} if cached else {"use_past_kv_cache": False}
    with torch.no_grad(), model.hooks(fwd_hooks=hooks) if hooks else nullcontext():
        return model.generate(tokens, stop_at_eos=False, return_type="tokens", verbose=False, **settings)  # pyright: ignore  # of both classes


def _probe(model: HookedModel) -> str:
    """With the cache and without, the states that a few steps' tokens are read from are the same."""
    tokens = probe_tokens(model)[:, : max(1, context_length(model) - PROBED)]
    read: list[torch.Tensor] = []
    for cached in (True, False):
        states: list[torch.Tensor] = []
        _generate(model, tokens, PROBED, None, capture(UNEMBED_IN, states), cached)
        read.append(torch.stack([each[:, -1] for each in states]))
    return "" if same(*read) else "it reads other states"


_CACHED = Proof("going on with a text from a key-value cache", _probe, "every token runs the whole text")
