"""The growing-rows engine: rows are born at the layer where they start to differ.

A hook may return *more rows* than it was given; everything downstream runs with the bigger batch. So one forward gives
every restored run of a causal trace, and each restored run costs only the layers after its restoration::

                        block 0    block 1    block 2    unembed
    one dummy row      ----------+
    base rows                    +==============================>
    born at block 0              +==============================>
    born at block 1                         +===================>
    born at block 2                                    +========>

1. start the model on ONE row, so that masks and rotary tables stay batch-1 and broadcast, and swap the real rows in
   where the first rows are born (`grow_rows`);
2. at the output of block ``l`` append copies of the parents of the rows born there (`grow_rows`);
3. let row-masked hooks make the newborn rows differ (`copy_rows`);
4. run MLPs and projections only where rows can differ (`tl_knowledge.engine.narrowing`);
5. keep only the answer's positions just before the unembedding (`keep_positions`).

All of these are plain hook lists, so the engine composes with everything else. A model that refuses growing rows (unknown
architecture, masks expanded to the batch) is recognised by `growing_rows_refusal` before anything is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int

from tl_knowledge.arrays import HookFn, Hooks, Logits, Residual, Tokens
from tl_knowledge.engine.forward import run_model
from tl_knowledge.engine.fused import fused_activations
from tl_knowledge.engine.proof import Proof, probe_tokens, same
from tl_knowledge.engine.recording import capture_base
from tl_knowledge.models.hook_names import UNEMBED_IN, by_position, state_hook
from tl_knowledge.models.protocol import HookedModel, is_encoder_decoder, layer_count
from tl_knowledge.models.routed import module_hook

__all__ = [
    "MEMORY_BUDGET",
    "as_index",
    "budget_rows",
    "copy_rows",
    "each_row",
    "grow_rows",
    "growing_rows_refusal",
    "keep_positions",
    "pad_right",
    "probe_growth",
    "row_bytes",
    "rows_engine",
    "run_rows",
]

MEMORY_BUDGET = 2.0**28
"""Bytes that activations may take by default: small chunks stay in the processor's caches and were the faster at every size tried."""

Index = Int[torch.Tensor, " written"]


def grow_rows(base: Sequence[Residual], births: Mapping[int, Index], *, alone: bool = False) -> Hooks:
    """Swap the base rows in where the first rows are born, and append copies of rows at the outputs of later blocks.

    Up to there a single dummy row runs: what the base rows are in every layer is already known.

    Args:
        base: the base rows' residual stream ``[row pos d_model]``: entering block 0, then leaving each block.
        births: for each layer, the indices of the rows to copy at that block's output; the copies take the next free
            row numbers. Layer ``-1`` stands for the input of block 0.
        alone: run the copies only, and not the base rows, of which everything that the copies take from them is known.
    """
    start = min(births)

    def swap_in(parents: Index) -> HookFn:
        return lambda _, *, hook: base[start + 1][parents] if alone else torch.cat([base[start + 1], base[start + 1][parents]])

    def append(layer: int, parents: Index) -> HookFn:
        return lambda rows, *, hook: torch.cat([rows, (base[layer + 1] if alone else rows)[parents]])

    return [(state_hook(layer), swap_in(births[layer]) if layer == start else append(layer, births[layer])) for layer in sorted(births)]


def copy_rows(
    name: str,
    source: Index,
    rows: Index,
    positions: Index,
    units: Index | None = None,
    *,
    recorded: torch.Tensor | None = None,
    start: int = 0,
    own: bool = False,
) -> Hooks:
    """Write, row for row, one position (and unit) of other rows: ``x[rows, positions] = x[source, positions]``.

    Args:
        recorded: the activation that holds the source rows, where these are not among the rows that are run.
        start: which of its positions is the first of the rows that are run.
        own: whether a hook of this package, just before, has made the tensor that comes here: it is written in place then.
    """

    def copy(activation: torch.Tensor, *, hook: object) -> torch.Tensor:
        changed = activation if own else activation.clone()
        written, values = by_position(name, changed), by_position(name, activation if recorded is None else recorded)
        if units is None:
            written[rows, positions] = values[source, positions + start]
        else:
            written[rows, positions, units] = values[source, positions + start, units]
        return changed

    return [(name, copy)]


def each_row(hooks: Mapping[int, Hooks]) -> Hooks:
    """Hooks of single rows as hooks of the whole batch: each row's own see, and change, that row alone.

    Args:
        hooks: by row number; the row must be born where its first hook fires.
    """
    of_name: dict[str, list[tuple[int, HookFn]]] = {}
    for row, own in hooks.items():
        for name, fn in own:
            of_name.setdefault(name, []).append((row, fn))

    def together(of_rows: Sequence[tuple[int, HookFn]]) -> HookFn:
        def act(activation: torch.Tensor, *, hook: object) -> torch.Tensor:
            changed = activation.clone()
            for row, fn in of_rows:
                value = fn(changed[row : row + 1], hook=hook)
                if value is not None:
                    changed[row : row + 1] = value
            return changed

        return act

    return [(name, together(of_rows)) for name, of_rows in of_name.items()]


def keep_positions(positions: Int[torch.Tensor, "#row answer"]) -> Hooks:
    """Unembed only some positions of each row: the logits come out as ``[row answer d_vocab]``."""
    return [(UNEMBED_IN, lambda states, *, hook: states.take_along_dim(positions[..., None], dim=1))]


def run_rows(model: HookedModel, tokens: Tokens, hooks: Hooks, **arguments: Any) -> Logits:
    """Run the model on one row of tokens; the hooks say how many rows come out, and the arguments what the tokens continue."""
    with torch.no_grad(), fused_activations(model):
        logits: torch.Tensor = run_model(model, tokens[:1], hooks, **arguments)
    return logits


def row_bytes(model: HookedModel, length: int, answer_positions: int, before: int = 0) -> int:
    """Memory one row needs while it runs, in bytes, from above: activations of a block, and the logits.

    Attention holds its pattern three times (scores, masked scores, softmax); gated MLPs hold three hidden vectors.

    Args:
        before: tokens of a frozen prefix, of whose keys and values a row holds a copy or two.
    """
    config = model.cfg
    d_mlp = int(config.d_mlp or 4 * config.d_model)
    block = length * (10 * int(config.d_model) + 4 * d_mlp) + 3 * int(config.n_heads) * length * (before + length)
    block += 4 * before * int(config.d_model)
    logits = 2 * answer_positions * int(config.d_vocab)
    return max(block, logits + length * int(config.d_model)) * next(iter(model.parameters())).element_size()


def growing_rows_refusal(model: HookedModel) -> str | None:
    """Why this model cannot run growing rows (`probe_growth`), or ``None`` where it can; an encoder with a decoder is two runs, and cannot.

    Nor can a model with somebody's PyTorch forward hook: it would see other rows and positions than in a forward of its own.
    """
    if is_encoder_decoder(model):
        return "its decoder runs after its encoder"
    if (hooked := module_hook(model)) is not None:
        return f"a PyTorch hook is on {hooked!r}"
    return _GROWING.refusal(model)


def rows_engine(model: HookedModel) -> str:
    """How many runs go together on this model, for a provenance: ``"rows"``, or ``"loop"`` with the reason why rows cannot grow."""
    refusal = growing_rows_refusal(model)
    return f"loop (growing rows refused: {refusal})" if refusal else "rows"


def probe_growth(model: HookedModel, more: Callable[[Tokens], Hooks] = lambda _: []) -> str:
    """The probe: two prompts, and a copy of each born in each block; every born row must equal its parent, and the parents one plain forward.

    Args:
        more: further hooks, which must change nothing.
    """
    tokens = probe_tokens(model)
    base: list[torch.Tensor] = []
    births = dict.fromkeys(range(-1, layer_count(model)), torch.arange(2, device=tokens.device))
    last = torch.full((1, 1), tokens.shape[1] - 1, device=tokens.device)
    plain: torch.Tensor = run_model(model, tokens, capture_base(model, base))
    if len(base) != layer_count(model) + 1:
        return "some blocks never show their output"
    grown = run_rows(model, tokens, grow_rows(base, births) + more(tokens) + keep_positions(last))
    expected = plain[:, -1:].repeat(layer_count(model) + 2, 1, 1)
    if grown.shape != expected.shape:
        return f"the logits came out as {tuple(grown.shape)} instead of {tuple(expected.shape)}"
    return "" if same(grown, expected) else "copies of a row came out different from the row"


_GROWING = Proof("the engine of growing rows", probe_growth, "every run is a forward of its own")


def budget_rows(model: HookedModel, length: int, answer_positions: int, memory_budget: float, before: int = 0) -> int:
    """How many rows fit a memory budget in bytes; at least one. ``before`` is the length of a frozen prefix."""
    return max(1, int(memory_budget // row_bytes(model, length, answer_positions, before)))


def pad_right(prompts: Sequence[Int[torch.Tensor, "_ _"]]) -> Tokens:
    """Prompts of unequal length, ``[1 pos]`` each, as one batch; causal attention keeps the padding from mattering."""
    padded = torch.zeros(len(prompts), max(tokens.shape[1] for tokens in prompts), dtype=torch.long, device=prompts[0].device)
    for row, tokens in enumerate(prompts):
        padded[row, : tokens.shape[1]] = tokens[0]
    return padded


def as_index(values: Iterable[int], device: torch.device) -> Index:
    """A tensor of row or position numbers."""
    return torch.tensor(list(values), dtype=torch.long, device=device)
