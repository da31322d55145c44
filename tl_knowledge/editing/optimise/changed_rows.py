"""Rows with a change of the value at their edited token: what is read off them, whichever way they are run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
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
        edited: ``[row]``: where the value is changed, in the rows as they are run.
        starts: ``[row d_model]``: the site's output at the edited token, before the edit.
    """

    edited: Int[torch.Tensor, " row"]
    starts: Float[torch.Tensor, "row d_model"]

    def logits(self, deltas: Float[torch.Tensor, "row d_model"]) -> Float[torch.Tensor, "row answer d_vocab"]:
        """The logits at the read positions, with each row's change."""
        return self._run(_changing(self.edited, deltas), [])

    def final_states(self, deltas: Float[torch.Tensor, "row d_model"]) -> Float[torch.Tensor, "row answer d_model"]:
        """The same up to the unembedding's input."""
        caught: list[torch.Tensor] = []

        def catch(states: torch.Tensor, *, hook: object) -> None:
            caught.append(states)
            raise Reached

        with suppress(Reached):
            self._run(_changing(self.edited, deltas), [(UNEMBED_IN, catch)])
        return caught[0]

    @abstractmethod
    def _run(self, change: Change, hooks: Hooks) -> torch.Tensor:
        """One run, the value changed by a hook, with further hooks at the end."""


def _changing(edited: Int[torch.Tensor, " row"], deltas: Float[torch.Tensor, "row d_model"]) -> Change:
    """A hook that adds each row's change at its edited token."""
    number = torch.arange(len(edited), device=edited.device)

    def change(activation: torch.Tensor, *, hook: object) -> torch.Tensor:
        changed = activation.clone()
        changed[number, edited] = changed[number, edited] + deltas.to(changed.dtype)
        return changed

    return change
