"""The part of a fact's rows that an edit can change: from the edited token on, from the edited layer on.

Everything before the edited token is frozen (its keys and values are the same at every step), and so is everything below the edited layer: a
single dummy row runs there, and the cached states are swapped in where the edit enters. An edit of layer 3 at token 2, read at token 4::

    block 5    .   .   *   *   o
    block 4    .   .   o   o   o        o   runs at every step
    W_out 3    .   .   +   .   .        +   the change of the value is added
    block 2    .   .   .   .   .        .   computed once, before the first step
    block 1    .   .   .   .   .        *   its keys and values only: nobody reads what the last block writes there
    token      0   1   2   3   4

Rows that run together begin at the first of their edited tokens, so those go together whose places are alike. They may end at different tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int

from tl_knowledge.arrays import Hooks, Tokens
from tl_knowledge.editing.optimise.changed_rows import Change, ChangedRows
from tl_knowledge.editing.optimise.fact_rows import at_positions
from tl_knowledge.engine.caches import Cache, fill_shared
from tl_knowledge.engine.cuts import cheapest_cuts
from tl_knowledge.engine.narrowing import may_narrow, narrow_attention, narrow_mlp
from tl_knowledge.engine.prefix import FrozenPrefix, may_freeze, prefix_of, run_on_prefix_from
from tl_knowledge.engine.recording import record
from tl_knowledge.engine.rows import keep_positions
from tl_knowledge.models.hook_names import block_input, block_output
from tl_knowledge.models.protocol import HookedModel, attention_input, layer_count
from tl_knowledge.models.routed import is_bare

__all__ = ["FrozenRows", "Suffix", "alike", "price_of_a_run"]

Numbers = Int[torch.Tensor, " row"]

READING = 25  # tokens that a row could run in the time in which a processor reads, and lays out, a block's weights
ON_A_PROCESSOR, ON_AN_ACCELERATOR = 1.4e8, 2e10  # floating-point operations that could be done while Python starts a block's kernels

_adds: WeakKeyDictionary[object, dict[str, bool]] = WeakKeyDictionary()


def alike(starts: Numbers, ends: Numbers, price: float, *, padded: bool = True) -> Iterator[Int[torch.Tensor, " member"]]:
    """Row numbers in groups that run together, from the first start of theirs on, so that as few tokens as can be run in vain.

    The cheapest way to cut the rows, in the order of their places, into groups: a group costs a price and all its tokens.

    Args:
        starts, ends: each row's first token, and the one after its last.
        price: of a group, in tokens.
        padded: whether rows run to the last end of their group, and not each to its own.

    Example:
        >>> starts, ends = torch.tensor([9, 2, 3, 13]), torch.tensor([12, 7, 7, 15])
        >>> [group.tolist() for group in alike(starts, ends, price=4.0)], [group.tolist() for group in alike(starts, ends, price=100.0)]
        ([[1, 2], [0], [3]], [[1, 2, 0, 3]])
    """
    places = list(zip(starts.tolist(), ends.tolist(), strict=True))
    alike_rows = [list(rows) for _, rows in groupby(sorted(range(len(places)), key=places.__getitem__), key=places.__getitem__)]

    def costs(first: int) -> Iterator[float]:
        start, end, rows, tokens = places[alike_rows[first][0]][0], 0, 0, 0
        for more in alike_rows[first:]:
            own = places[more[0]][1]
            end, rows, tokens = max(end, own), rows + len(more), tokens + len(more) * own
            yield price + (rows * end if padded else tokens) - rows * start

    for group in cheapest_cuts(len(alike_rows), costs):
        yield torch.tensor([row for i in group for row in alike_rows[i]], device=starts.device)


def price_of_a_run(model: HookedModel, device: torch.device) -> float:
    """What one more run a step costs, in tokens of a row: a run reads all weights and starts all kernels."""
    each = 12 * 2 * 2 * int(model.cfg.d_model) ** 2  # a token in a block, there and back
    return READING + (ON_A_PROCESSOR if device.type == "cpu" else ON_AN_ACCELERATOR) / each


class FrozenRows:
    """Rows before any change, run once: what is known of them, and the suffixes that run at every step.

    Attributes:
        starts: ``[row site*d_model]``: the sites' outputs at the edited token, one after the other.
    """

    def __init__(
        self,
        model: HookedModel,
        tokens: Tokens,
        edited: Numbers,
        read: Int[torch.Tensor, "row answer"],
        layer: int,
        sites: tuple[str, ...],
        noise: Hooks,
    ) -> None:
        self.model, self.layer, self.sites, self.edited, self.read = model, layer, sites, edited, read
        self.tokens = tokens[:, : int(read.max()) + 1]
        self.direct = is_bare(model) and len(sites) == 1 and adds_to_the_stream(model, layer, sites[0], tokens[:1])
        self.first = layer + 1 if self.direct else layer
        self.narrows = layer < layer_count(model) - 1 and may_narrow(model)
        self.padded = not (self.narrows and attention_input(model, layer + 1))
        entering = block_output(self.first - 1) if self.first else block_input(0)
        names, length = {block_input(0), entering, *sites}, self.tokens.shape[1]
        self.cache: Cache | None = None
        if noise or not may_freeze(model, length, filled=length):
            activations = record(model, self.tokens, noise, names)
        else:
            self.cache, activations = fill_shared(model, self.tokens, sorted(names))
        self.entered, self.states = activations[block_input(0)], activations[entering]
        self.starts = torch.cat([at_positions(activations[site], edited) for site in sites], dim=-1)

    def groups(self, rows: Numbers) -> Iterator[tuple[Int[torch.Tensor, " member"], ChangedRows]]:
        """Some of these rows in groups that run together, as numbers among the rows that are asked for."""
        starts = self.edited[rows] if self.cache is not None else torch.zeros_like(rows)
        price = price_of_a_run(self.model, rows.device)
        for members in alike(starts, self.read[rows].amax(1) + 1, price, padded=self.padded):
            yield members, Suffix(self, rows[members])

    def prefix(self, rows: Numbers, start: int, end: int) -> FrozenPrefix:
        """What some rows continue from a token on."""
        arguments = self.cache.arguments(end - start, before=start, owners=rows) if self.cache is not None and start else {}
        return prefix_of(self.model, self.tokens[rows, start:end], self.entered[rows, start:end], arguments)


class Suffix(ChangedRows):
    """Some rows from the first of their edited tokens on, to the last that is read."""

    def __init__(self, whole: FrozenRows, rows: Numbers) -> None:
        self.whole, self.sites, self.starts = whole, whole.sites, whole.starts[rows]
        start = int(whole.edited[rows].min()) if whole.cache is not None else 0
        end = int(whole.read[rows].max()) + 1
        self.edited, self.read = whole.edited[rows] - start, whole.read[rows] - start
        self.prefix, self.states = whole.prefix(rows, start, end), whole.states[rows, start:end]
        self.narrow = self._narrowed() if whole.narrows else []

    def _narrowed(self) -> Hooks:
        """Nothing is computed behind the last token that a row reads; in the last block, keys and values before it, and all else where it is read."""
        model, device = self.whole.model, self.read.device
        needed = torch.zeros(self.states.shape[:2], dtype=torch.bool, device=device).scatter_(1, self.read, True)
        upto: Bool[torch.Tensor, "row pos"] = needed.flip(1).cumsum(1).flip(1) > 0
        source, last, hooks = torch.arange(len(needed), device=device), layer_count(model) - 1, Hooks()
        for layer in range(self.whole.layer + 1, last + 1):
            read = needed if layer == last else upto
            hooks += narrow_mlp(model, layer, read, source) + narrow_attention(model, layer, upto, read, source)
        return hooks

    def _run(self, changes: Sequence[Change], hooks: Hooks) -> Float[torch.Tensor, "row answer _"]:
        whole, more = self.whole, [*self.narrow, *keep_positions(self.read), *hooks]
        if whole.direct:
            return run_on_prefix_from(whole.model, self.prefix, whole.first, changes[0](self.states, hook=None), more)
        return run_on_prefix_from(whole.model, self.prefix, whole.first, self.states, [*zip(whole.sites, changes, strict=True), *more])


def adds_to_the_stream(model: HookedModel, layer: int, site: str, tokens: Tokens) -> bool:
    """Whether what is added at a site comes out of the block unchanged, as nearly everywhere; tried once a model, without hooks of others on it.

    Not so where the block normalises its MLP's output (Gemma-2) or its own (post-norm models).
    """
    tried = _adds.setdefault(model, {})
    if site not in tried:
        end = block_output(layer)
        plain = record(model, tokens, [], [end])[end]
        change = plain.norm(dim=-1, keepdim=True) * torch.linspace(-1, 1, plain.shape[-1], dtype=plain.dtype, device=plain.device)
        moved = record(model, tokens, [(site, lambda x, *, hook: x + change)], [end])[end]
        tried[site] = bool(torch.allclose(moved - plain, change, rtol=1e-2, atol=1e-2 * float(change.abs().max())))
    return tried[site]
