"""Hooks that read a map's input and change its output at the same positions, and what several of them make of one output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from tl_knowledge.arrays import Hooks
from tl_knowledge.errors import ModelStateError
from tl_knowledge.models.mlp_maps import MLPMap
from tl_knowledge.models.routed import BETWEEN, mark_replaced, replaced_from

__all__ = ["Acting", "Apply", "Trail", "at_map", "trail_of"]

Apply: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From a map's inputs and outputs to its new outputs; the same tensor where nothing changes."""

Acting: TypeAlias = Callable[[torch.Tensor, torch.Tensor, object], torch.Tensor | None]
"""From a map's inputs and outputs (and the hook point of the outputs) to its new outputs; ``None``: they stay."""


def at_map(place: MLPMap, acting: Acting) -> Hooks:
    """The two hooks of something that acts at a map, position by position.

    Raises:
        ModelStateError: on running, when inputs and outputs are of different positions.
    """
    read: list[torch.Tensor] = []

    def keep(queries: torch.Tensor, *, hook: object) -> None:
        read[:] = [queries.detach()]

    def act(outputs: torch.Tensor, *, hook: object) -> torch.Tensor | None:
        queries = read.pop() if read else None
        if queries is None or queries.shape[:-1] != outputs.shape[:-1]:
            came = "none" if queries is None else f"those of {tuple(queries.shape[:-1])}"
            raise ModelStateError(
                f"an edit at {place.output} saw {tuple(outputs.shape[:-1])} positions, and at {place.query} {came}: something runs the MLP at other "
                "positions. Keep the edit on the model with write_into(model) or applied(model), where every run of this package knows of it."
            )
        return acting(queries, outputs, hook)

    return [(place.query, keep), (place.output, act)]


@dataclass(frozen=True, eq=False)
class Trail:
    """What an output was before any edit, and which edits have acted on it since.

    An output carries its trail along, so that an edit that comes later starts from the same place.
    """

    queries: torch.Tensor
    base: torch.Tensor
    edits: tuple[Any, ...]

    def followed(self, edits: Sequence[Any], apply: Apply) -> torch.Tensor:
        """The output that some edits together make of the first one."""
        changed = apply(self.queries, self.base)
        mark_replaced(changed, None if changed is self.base else self.base, edits)
        return changed


def trail_of(queries: torch.Tensor, outputs: torch.Tensor, there: Sequence[Any], apply: Apply) -> Trail:
    """The trail of an output that some edits on the model have acted on.

    Args:
        there: those edits.
        apply: what they do.

    Raises:
        ModelStateError: they changed it, and something else changed it since.
    """
    noted = replaced_from(outputs)
    if noted is not None:
        base, edits = noted
        return Trail(queries, outputs if base is None else base, edits)
    if there and apply(queries, outputs) is not outputs:
        raise ModelStateError(BETWEEN)
    return Trail(queries, outputs, tuple(there))
