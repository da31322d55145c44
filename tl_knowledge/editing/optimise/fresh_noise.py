"""Noise that is drawn anew at each forward, as Hase et al.'s program forces facts: whole rows, nothing kept from one step to the next.

Every row, the essence row too, is corrupted where the *bare* prompt has its subject. The draws of one fact are one stream of rows, here for ROME::

    rows of the stream     0 .. C-1          C .. 2C          2C+1 .. 3C+1     ...
    go to                  the keys of the   step 0:          step 1:
                           C contexts        C contexts,      C contexts,
                                             essence          essence
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Int

from tl_knowledge.arrays import Hooks, Tokens
from tl_knowledge.editing.optimise.changed_rows import Change, ChangedRows
from tl_knowledge.editing.optimise.fact_rows import at_positions, drawn_from
from tl_knowledge.engine.forward import run_model
from tl_knowledge.engine.recording import record
from tl_knowledge.engine.rows import keep_positions
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.runs.corruption import Noise

__all__ = ["FreshNoiseRows"]


class FreshNoiseRows(ChangedRows):
    """One fact's rows, run whole at every step under the next draw; what `Suffix` is to noise that stays.

    ``starts`` are those under the first step's draw.
    """

    def __init__(
        self,
        model: HookedModel,
        tokens: Tokens,
        edited: Int[torch.Tensor, " row"],
        read: Int[torch.Tensor, "row answer"],
        site: str,
        noise: Noise,
        positions: Sequence[int],
        drawn: int,
    ) -> None:
        """Read the start under the first draw.

        Args:
            positions: the subject's in the bare prompt.
            drawn: how many rows of the stream were drawn before.
        """
        self.model, self.tokens, self.edited, self.read, self.sites = model, tokens, edited, read, (site,)
        self.noise, self.positions, self.drawn = noise, tuple(positions), drawn
        activations = record(model, tokens, drawn_from(noise, self.positions, self.drawn), {site})
        self.starts = at_positions(activations[site], edited)

    def groups(self, rows: Int[torch.Tensor, " row"]) -> Iterator[tuple[Int[torch.Tensor, " member"], ChangedRows]]:
        """The rows are one fact's: they run, and leave, together."""
        yield torch.arange(len(rows), device=rows.device), self

    def _run(self, changes: Sequence[Change], hooks: Hooks) -> torch.Tensor:
        """One run; the next draw's rows are used up."""
        noise, self.drawn = drawn_from(self.noise, self.positions, self.drawn), self.drawn + len(self.tokens)
        return run_model(self.model, self.tokens, [*noise, *zip(self.sites, changes, strict=True), *keep_positions(self.read), *hooks])
