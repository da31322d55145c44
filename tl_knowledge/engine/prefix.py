"""A frozen prefix: run few new tokens a row against the keys and values of the tokens before it.

Where only the last positions change, the keys and values of every earlier position are the same in all rows. They are computed once, and
each attention layer joins them to however many rows it is given, so the prefix composes with growing rows (`tl_knowledge.engine.rows`): a row
costs one token (or a few) instead of a prompt. Several prompts of one length go together: row ``r`` continues prompt ``r % prompts``.
Layers that only feed ones whose input is swapped in may run fewer rows than there are prompts.

Hooks that somebody has set on the model would see the prefix and the new token in two runs, and another token at their positions in each:
under them nothing is frozen.

The prefix is handed to the model as its own key-value cache, in the form that the model's class reads, and never grows.

Whether a model can do all this is found out by a probe (`prefix_refusal`). What it cannot do falls away, a step at a time, and the result stays
the same::

                       tokens a row    rows below the first change
    frozen prefix      one or a few    one
    whole sequences    all             one                              the model's cache is not exact
    plain rows         all             all                              its rows cannot grow
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float

from tl_knowledge.arrays import Hooks, Tokens
from tl_knowledge.engine.caches import fill_cache, is_hooked_transformer
from tl_knowledge.engine.forward import run_model
from tl_knowledge.engine.proof import Proof, probe_tokens, same
from tl_knowledge.engine.recording import capture, record
from tl_knowledge.engine.rows import growing_rows_refusal
from tl_knowledge.models.hook_names import UNEMBED_IN, block_input, block_output
from tl_knowledge.models.protocol import HookedModel, answered_from, encoder_depth, is_encoder_decoder, is_masked, layer_count
from tl_knowledge.models.routed import users_hook

__all__ = [
    "FrozenPrefix",
    "exact_up_to",
    "freeze_prefix",
    "may_freeze",
    "prefix_engine",
    "prefix_of",
    "prefix_refusal",
    "run_on_prefix",
    "run_on_prefix_from",
    "whole_sequences",
    "within_cache",
]


@dataclass(frozen=True)
class FrozenPrefix:
    """What is known before the rows run.

    Attributes:
        tokens: ``[1 pos]``: what the model is run on; one row, so that masks and rotary tables broadcast. All prompts where rows cannot grow.
        entering: ``[prompt pos d_model]``: what each prompt's own tokens enter block 0 with.
        arguments: the keys and values of the tokens before, as the model takes them.
        block: where they enter: block 0, or an encoder's with a decoder the decoder's first where nothing else is run anew.
        grows: whether hooks may add rows; where not, all rows run from the start.
        starts_anywhere: whether the model can be started at any block.
    """

    tokens: Tokens
    entering: Float[torch.Tensor, "prompt _ d_model"]
    arguments: dict[str, Any]
    block: int = 0
    grows: bool = True
    starts_anywhere: bool = False

    def rows(self, number: int) -> Tokens:
        """What the model is run on for so many rows: one row that grows, or every row."""
        return self.tokens if self.grows else self.tokens.repeat(number // len(self.tokens), 1)


def freeze_prefix(model: HookedModel, tokens: Tokens, kept: int = 1) -> FrozenPrefix:
    """Freeze every token but the last ones of some prompts of one length; nothing where the model cannot exactly.

    Args:
        tokens: ``[prompt pos]``.
        kept: how many tokens at the end are run anew in every row.
    """
    if growing_rows_refusal(model):
        in_decoder = is_encoder_decoder(model) and kept <= tokens.shape[1] - answered_from(model, tokens)
        return whole_sequences(model, tokens, block=encoder_depth(model) if in_decoder else 0)
    if tokens.shape[1] <= kept or not may_freeze(model, tokens.shape[1], filled=tokens.shape[1] - kept):
        return whole_sequences(model, tokens)
    return _freeze(model, tokens, kept)


def may_freeze(model: HookedModel, length: int, *, filled: int) -> bool:
    """Whether the beginning of prompts of so many tokens can be frozen, exactly.

    Args:
        filled: how many of them run while the cache is filled.
    """
    return not (growing_rows_refusal(model) or prefix_refusal(model)) and within_cache(model, length, filled)


def whole_sequences(model: HookedModel, tokens: Tokens, hooks: Hooks | None = None, *, block: int = 0) -> FrozenPrefix:
    """Nothing frozen: every row runs all of its tokens.

    Args:
        hooks: in force while it is read what the tokens enter with.
        block: where they enter.
    """
    entering = record(model, tokens, hooks or [], [block_input(block)])[block_input(block)]
    return prefix_of(model, tokens, entering, {}, block=block)


def prefix_of(
    model: HookedModel, tokens: Tokens, entering: Float[torch.Tensor, "prompt _ d_model"], arguments: dict[str, Any], *, block: int = 0
) -> FrozenPrefix:
    """What rows continue, by what the model can: one row that grows, or all of them from the start.

    Args:
        arguments: the keys and values of the tokens before; read where rows can grow.
        block: where they enter; read where rows cannot grow.
    """
    if growing_rows_refusal(model):
        return FrozenPrefix(tokens, entering, {}, block=block, grows=False)
    return FrozenPrefix(tokens[:1], entering, arguments, starts_anywhere=is_hooked_transformer(model) and not prefix_refusal(model))


def _freeze(model: HookedModel, tokens: Tokens, kept: int) -> FrozenPrefix:
    own, entry = is_hooked_transformer(model), block_input(0)
    cache, recorded = fill_cache(model, tokens, [], tokens.shape[1] - kept, [entry] if own else [])
    arguments = cache.arguments(kept)
    entering = recorded[entry][:, -kept:] if own else record(model, tokens[:, -kept:], [], [entry], **arguments)[entry]
    return FrozenPrefix(tokens[:1, -kept:], entering, arguments, starts_anywhere=own)


def run_on_prefix(model: HookedModel, prefix: FrozenPrefix, hooks: Hooks, rows: int) -> torch.Tensor:
    """Run the tokens after a prefix.

    Args:
        hooks: they say how many rows come out; where rows cannot grow they are given all rows.
        rows: how many that will be, each prompt's turn after the other's.
    """
    entering = prefix.entering if prefix.grows else prefix.entering.repeat(rows // len(prefix.entering), 1, 1)
    swap_in: Hooks = [(block_input(prefix.block), lambda _, *, hook: entering)]
    logits: torch.Tensor = run_model(model, prefix.rows(rows), swap_in + hooks, **prefix.arguments)
    return logits


def run_on_prefix_from(
    model: HookedModel, prefix: FrozenPrefix, layer: int, states: Float[torch.Tensor, "row pos d_model"], hooks: Hooks
) -> torch.Tensor:
    """Run states that enter a block (or leave the last one) through the rest of the model, after a prefix.

    ``HookedTransformer`` starts there; a bridge cannot, so one dummy row runs through the layers below (all rows where they cannot grow).
    """
    if prefix.starts_anywhere:
        arguments = {name: value for name, value in prefix.arguments.items() if name != "attention_mask"}
        logits: torch.Tensor = run_model(model, states, hooks, start_at_layer=layer, **arguments)
        return logits
    site = block_output(layer - 1) if layer else block_input(0)
    swapped: Hooks = [(site, lambda _, *, hook: states), *hooks]
    dummy: torch.Tensor = run_model(model, prefix.rows(len(states)), swapped, **prefix.arguments)
    return dummy


def prefix_refusal(model: HookedModel) -> str | None:
    """Why this model's rows have to run all of their tokens, or ``None`` where a prefix can be frozen.

    The probe freezes all but the last two tokens of two prompts, and runs two rows of each from the embedding on, then from the middle of the
    model on; their last states and logits must be those of a plain forward. A masked model reads in both directions: a change anywhere changes
    every position, so nothing is frozen there, and no warning given. Nor is anything under hooks of somebody else: they may count positions.
    """
    if is_encoder_decoder(model):
        return growing_rows_refusal(model)
    if is_masked(model):
        return "it reads in both directions"
    if (hooked := users_hook(model)) is not None:
        return f"somebody's hook is on {hooked!r}"
    return _FREEZING.refusal(model)


def prefix_engine(model: HookedModel) -> str:
    """How rows that continue a prompt run on this model, for a provenance, with the reason where it is not the fastest way."""
    if refusal := growing_rows_refusal(model):
        return f"plain rows (growing rows refused: {refusal})"
    if refusal := prefix_refusal(model):
        return "full sequences" if is_masked(model) else f"full sequences (a frozen prefix refused: {refusal})"
    return "rows on a frozen prefix"


def _probe(model: HookedModel) -> str:
    tokens, layers, kept = probe_tokens(model), layer_count(model), 2
    middle = layers // 2
    names = {block_output(layers - 1), block_output(middle - 1) if middle else block_input(0), UNEMBED_IN}
    caught: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    plain: torch.Tensor = run_model(model, tokens, [pair for name in names for pair in capture(name, caught[name])])
    missing = [name for name in names if not caught[name]]
    if missing:
        return f"{missing[0]} never fires"
    prefix, last, states = _freeze(model, tokens, kept), block_output(layers - 1), list[torch.Tensor]()
    twice: Hooks = [(block_output(0), lambda rows, *, hook: rows.repeat(2, 1, 1))]
    from_the_start = run_on_prefix(model, prefix, twice + capture(last, states), rows=4)
    entering = caught[block_output(middle - 1) if middle else block_input(0)][0][:, -kept:].repeat(2, 1, 1)
    from_the_middle = run_on_prefix_from(model, prefix, middle, entering, [])
    expected = plain[:, -kept:].repeat(2, 1, 1)
    if not same(states[0], caught[last][0][:, -kept:].repeat(2, 1, 1)):
        return "the last states after a cache are other ones"
    if not same(from_the_start, expected):
        return "the logits after a cache are other ones"
    return "" if same(from_the_middle, expected) else "a run from the middle of the model gives other logits"


_FREEZING = Proof("a frozen prefix", _probe, "rows run all of their tokens")


def within_cache(model: HookedModel, length: int, filled: int) -> bool:
    """Whether prompts are short enough for the probes to speak for a cache of their first tokens.

    A sliding window that is full keeps only those that the next token sees.

    Args:
        filled: how many of them run while the cache is filled.
    """
    most = exact_up_to(model)
    return length <= most and filled < most


def exact_up_to(model: HookedModel) -> float:
    """The longest prompt that the probe speaks for: beyond it a model with a sliding window or switching rotary tables does something else."""
    config: Any = getattr(getattr(model, "original_model", None), "config", None)
    limits = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size", "original_max_position_embeddings")]
    rotary: Any = getattr(config, "rope_parameters", None) or {}
    if rotary.get("rope_type") in ("dynamic", "longrope"):
        limits += [rotary.get("original_max_position_embeddings"), getattr(config, "max_position_embeddings", None)]
    return min((float(limit) for limit in limits if limit), default=float("inf"))
