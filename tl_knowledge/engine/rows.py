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
4. run MLPs and projections only where rows can differ (`narrow_mlp`, `narrow_attention`);
5. keep only the answer's positions just before the unembedding (`keep_positions`).

All of these are plain hook lists, so the engine composes with everything else. A model that refuses growing rows (unknown
architecture, masks expanded to the batch) is recognised by `growing_rows_refusal` before anything is computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int

from tl_knowledge.arrays import HookFn, Hooks, Logits, Residual, Tokens
from tl_knowledge.engine.forward import run_model
from tl_knowledge.engine.fused import fused_activations
from tl_knowledge.engine.proof import Proof, probe_tokens, same
from tl_knowledge.engine.recording import capture_base
from tl_knowledge.models.hook_names import UNEMBED_IN, by_position, component_hook, state_hook
from tl_knowledge.models.protocol import HookedModel, attention_input, is_encoder_decoder, layer_count, mlp_input

__all__ = [
    "MEMORY_BUDGET",
    "KnownRows",
    "as_index",
    "budget_rows",
    "copy_rows",
    "each_row",
    "grow_rows",
    "growing_rows_refusal",
    "keep_positions",
    "narrow_attention",
    "narrow_mlp",
    "narrowed_hooks",
    "pad_right",
    "row_bytes",
    "rows_engine",
    "run_rows",
]

MEMORY_BUDGET = 2.0**28
"""Bytes that activations may take by default: small chunks stay in the processor's caches and were the faster at every size tried."""

Index = Int[torch.Tensor, " written"]
Mask = Bool[torch.Tensor, "row pos"]


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


def narrowed_hooks(model: HookedModel) -> list[str]:
    """Where `narrow_mlp` and `narrow_attention` take from other rows what is not computed."""
    if _NARROWING.refusal(model):
        return []
    names: list[str] = []
    for layer in range(layer_count(model)):
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
    return [] if name is None else [(name, _pack(needed)), *_spread(written, needed, source, known)]


def _narrow_attention(
    model: HookedModel, layer: int, needed: Mask, read: Mask, source: Int[torch.Tensor, " row"], known: KnownRows | None = None
) -> Hooks:
    name = attention_input(model, layer)
    if name is None:
        return []
    projected = [pair for part in _projections(layer) for pair in _spread(part, needed, source, known)]
    written = _spread(component_hook("attn_out", layer), read, source, known)
    return [(name, _pack(needed)), *projected, (component_hook("head", layer), _pack(read)), *written]


def _projections(layer: int) -> list[str]:
    return [f"blocks.{layer}.attn.hook_{part}" for part in ("q", "k", "v")]


def _pack(needed: Mask) -> HookFn:
    """Needed positions of all rows as one row, and `_spread` undoes it.

    ::

        row 0   # # # .              # # # # # # #        one row, without the dots
        row 1   . # # .    _pack ->  0 0 0 1 1 2 2
        row 2   . . # #  <- _spread  (a dot is taken from the row's source row)
    """
    places = needed.flatten().nonzero().squeeze(1)
    return lambda states, *, hook: states.flatten(0, 1).index_select(0, places)[None]


def _spread(name: str, needed: Mask, source: Int[torch.Tensor, " row"], known: KnownRows | None) -> Hooks:
    """Undo `_pack`; a position that was not needed is taken from the source row."""
    number, count = torch.zeros(needed.shape, dtype=torch.long, device=needed.device), int(needed.sum())
    number[needed] = torch.arange(count, device=needed.device)
    if known is None:
        elsewhere, others = number[source], None
    else:
        others = known.at(name).flatten(0, 1)
        elsewhere = count + source[:, None] * needed.shape[1] + torch.arange(needed.shape[1], device=needed.device)
    taken = torch.where(needed, number, elsewhere).flatten()

    def spread(packed: torch.Tensor, *, hook: object) -> torch.Tensor:
        there = packed[0] if others is None else torch.cat([packed[0], others])
        return there.index_select(0, taken).unflatten(0, needed.shape)

    return [(name, spread)]


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
    """Why this model cannot run growing rows, or ``None`` where it can; an encoder with a decoder is two runs, and cannot.

    The probe: two prompts, and a copy of each born in each block; every born row must equal its parent, and the parents one plain forward.
    """
    return "its decoder runs after its encoder" if is_encoder_decoder(model) else _GROWING.refusal(model)


def rows_engine(model: HookedModel) -> str:
    """How many runs go together on this model, for a provenance: ``"rows"``, or ``"loop"`` with the reason why rows cannot grow."""
    refusal = growing_rows_refusal(model)
    return f"loop (growing rows refused: {refusal})" if refusal else "rows"


def _probe_growing(model: HookedModel) -> str:
    return _probe(model, narrow=False)


def _probe_narrowing(model: HookedModel) -> str:
    return _probe(model, narrow=True)


def _probe(model: HookedModel, *, narrow: bool) -> str:
    tokens = probe_tokens(model)
    base: list[torch.Tensor] = []
    births = dict.fromkeys(range(-1, layer_count(model)), torch.arange(2, device=tokens.device))
    last = torch.full((1, 1), tokens.shape[1] - 1, device=tokens.device)
    plain: torch.Tensor = run_model(model, tokens, capture_base(model, base))
    if len(base) != layer_count(model) + 1:
        return "some blocks never show their output"
    narrowing = [pair for layer in range(layer_count(model)) if narrow for pair in _narrow_newborn(model, layer, tokens)]
    grown = run_rows(model, tokens, grow_rows(base, births) + narrowing + keep_positions(last))
    expected = plain[:, -1:].repeat(layer_count(model) + 2, 1, 1)
    if grown.shape != expected.shape:
        return f"the logits came out as {tuple(grown.shape)} instead of {tuple(expected.shape)}"
    return "" if same(grown, expected) else "copies of a row came out different from the row"


def _narrow_newborn(model: HookedModel, layer: int, tokens: Tokens) -> Hooks:
    """The rows born before a layer take their last position from the parent."""
    rows = 2 * (layer + 2)
    needed = torch.ones(rows, tokens.shape[1], dtype=torch.bool, device=tokens.device)
    needed[2:, -1] = False
    source = torch.arange(rows, device=tokens.device) % 2
    return _narrow_mlp(model, layer, needed, source) + _narrow_attention(model, layer, needed, needed, source)


_GROWING = Proof("the engine of growing rows", _probe_growing, "every run is a forward of its own")
_NARROWING = Proof("running modules only where rows differ", _probe_narrowing, instead="")


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
