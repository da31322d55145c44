"""The part of a fact's rows that an edit can change: from the edited token on, from the edited layer on.

Everything before the edited token is frozen (its keys and values are the same at every step), and so is everything below the edited layer: a
single dummy row runs there, and the cached states are swapped in where the edit enters. An edit of layer 3 at token 2::

    block 5    .   .   o   o   o
    block 4    .   .   o   o   o        o   runs at every step
    W_out 3    .   .   +   .   .        +   the change of the value is added
    block 2    .   .   .   .   .        .   computed once, before the first step
    block 1    .   .   .   .   .
    token      0   1   2   3   4
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Int

from tl_knowledge.arrays import Hooks, Tokens
from tl_knowledge.editing.optimise.changed_rows import Change, ChangedRows
from tl_knowledge.editing.optimise.fact_rows import at_positions
from tl_knowledge.engine.prefix import freeze_prefix, run_on_prefix_from, whole_sequences
from tl_knowledge.engine.recording import record
from tl_knowledge.engine.rows import keep_positions
from tl_knowledge.models.hook_names import block_input, block_output
from tl_knowledge.models.protocol import HookedModel

__all__ = ["Suffix", "similar_positions"]

SLACK = 4  # tokens that may be run in vain so that rows with other beginnings go together

_adds: WeakKeyDictionary[object, dict[str, bool]] = WeakKeyDictionary()


def similar_positions(edited: Int[torch.Tensor, " row"]) -> Iterator[Int[torch.Tensor, " member"]]:
    """Row numbers in groups whose edited positions are at most four tokens apart; a group shares one frozen beginning.

    Example:
        >>> [group.tolist() for group in similar_positions(torch.tensor([9, 2, 4, 13]))]
        [[1, 2], [0, 3]]
    """
    order = edited.argsort(stable=True)
    group: list[int] = []
    for row in order.tolist():
        if group and int(edited[row] - edited[group[0]]) > SLACK:
            yield torch.tensor(group, device=edited.device)
            group = []
        group.append(row)
    yield torch.tensor(group, device=edited.device)


class Suffix(ChangedRows):
    """Some rows whose edited tokens stand at about the same place."""

    def __init__(
        self,
        model: HookedModel,
        tokens: Tokens,
        edited: Int[torch.Tensor, " row"],
        read: Int[torch.Tensor, "row answer"],
        layer: int,
        sites: tuple[str, ...],
        noise: Hooks,
    ) -> None:
        self.model, self.sites = model, sites
        tokens = tokens[:, : int(read.max()) + 1]
        kept = tokens.shape[1] - int(edited.min())
        self.prefix = whole_sequences(model, tokens, noise) if noise else freeze_prefix(model, tokens, kept)
        frozen = tokens.shape[1] - self.prefix.tokens.shape[1]
        self.edited, self.read = edited - frozen, read - frozen
        self.direct = len(sites) == 1 and adds_to_the_stream(model, layer, sites[0], tokens[:1])
        self.first = layer + 1 if self.direct else layer
        entering = block_output(self.first - 1) if self.first else block_input(0)
        own: Hooks = [(block_input(0), lambda _, *, hook: self.prefix.entering)]
        activations = record(model, self.prefix.rows(len(tokens)), own, {entering, *sites}, **self.prefix.arguments)
        self.states = activations[entering]
        self.starts = torch.cat([at_positions(activations[site], self.edited) for site in sites], dim=-1)

    def _run(self, changes: Sequence[Change], hooks: Hooks) -> torch.Tensor:
        more = [*keep_positions(self.read), *hooks]
        if self.direct:
            return run_on_prefix_from(self.model, self.prefix, self.first, changes[0](self.states, hook=None), more)
        return run_on_prefix_from(self.model, self.prefix, self.first, self.states, [*zip(self.sites, changes, strict=True), *more])


def adds_to_the_stream(model: HookedModel, layer: int, site: str, tokens: Tokens) -> bool:
    """Whether what is added at a site comes out of the block unchanged, as nearly everywhere; tried once a model.

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
