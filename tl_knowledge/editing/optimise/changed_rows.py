"""Rows with a change of the value at their edited token: what is read off them, whichever way they are run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeAlias

import torch
from jaxtyping import Float, Int

from tl_knowledge.arrays import Hooks
from tl_knowledge.engine.recording import Reached
from tl_knowledge.models.hook_names import UNEMBED_IN

__all__ = ["Change", "ChangedRows"]

Change: TypeAlias = Callable[..., torch.Tensor]
"""A hook that always returns the changed activation."""


class ChangedRows(ABC):
    """Rows that run once a step of the optimisation, each with its own change.

    Attributes:
        sites: the hooks where values are changed.
        edited: ``[row]``: where they are, in the rows as they are run.
        starts: ``[row site*d_model]``: the sites' outputs at the edited token, before the edit, one after the other.
    """

    sites: tuple[str, ...]
    edited: Int[torch.Tensor, " row"]
    starts: Float[torch.Tensor, "row d"]

    def logits(self, deltas: Float[torch.Tensor, "row d"]) -> Float[torch.Tensor, "row answer d_vocab"]:
        """The logits at the read positions, with each row's change."""
        return self._run(self._changes(deltas), [])

    def final_states(self, deltas: Float[torch.Tensor, "row d"]) -> Float[torch.Tensor, "row answer d_model"]:
        """The same up to the unembedding's input."""
        caught: list[torch.Tensor] = []

        def catch(states: torch.Tensor, *, hook: object) -> None:
            caught.append(states)
            raise Reached

        with suppress(Reached):
            self._run(self._changes(deltas), [(UNEMBED_IN, catch)])
        return caught[0]

    def _changes(self, deltas: Float[torch.Tensor, "row d"]) -> list[Change]:
        """One hook a site."""
        return [_changing(self.edited, own) for own in deltas.chunk(len(self.sites), dim=-1)]

    @abstractmethod
    def _run(self, changes: Sequence[Change], hooks: Hooks) -> torch.Tensor:
        """One run, the value at every site changed by its hook, with further hooks at the end."""


def _changing(edited: Int[torch.Tensor, " row"], deltas: Float[torch.Tensor, "row d"]) -> Change:
    """A hook that adds each row's change at its edited token."""
    number = torch.arange(len(edited), device=edited.device)

    def change(activation: torch.Tensor, *, hook: object) -> torch.Tensor:
        changed = activation.clone()
        changed[number, edited] = changed[number, edited] + deltas.to(changed.dtype)
        return changed

    return change
