"""Run the tokens from some token on (a fact's subject), many rows at a time, with that token's state changed in some of them.

Only that token is changed, so what stands before it is a frozen prefix (`tl_knowledge.engine.prefix`), which with examples in the
context is most of the prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from jaxtyping import Float
from more_itertools import chunked

from tl_knowledge.arrays import Hooks
from tl_knowledge.engine.prefix import FrozenPrefix, freeze_prefix, run_on_prefix
from tl_knowledge.engine.recording import Reached
from tl_knowledge.engine.rows import budget_rows
from tl_knowledge.errors import UnsupportedModelError
from tl_knowledge.models.hook_names import block_output
from tl_knowledge.models.protocol import HookedModel, layer_count, model_name
from tl_knowledge.prompts.prompt import Prompt

__all__ = ["Shift", "Suffix"]


@dataclass(frozen=True, eq=False)
class Shift:
    """What is added to the token's state at the output of a block."""

    layer: int
    change: Float[torch.Tensor, " d_model"]


@dataclass(frozen=True, eq=False)
class Suffix:
    """A prompt whose tokens before one of them are frozen.

    Attributes:
        position: the first token that runs, whose state is changed.
    """

    model: HookedModel
    prompt: Prompt
    position: int
    prefix: FrozenPrefix

    @classmethod
    def of(cls, model: HookedModel, prompt: Prompt, at: str = "subject") -> Suffix:
        """Freeze what stands before a span's last token."""
        position = prompt.span(at).last
        return cls(model, prompt, position, freeze_prefix(model, prompt.tokens, kept=len(prompt) - position))

    @property
    def first_at(self) -> int:
        """That token among those that run, which are all where nothing could be frozen."""
        return self.position - (len(self.prompt) - self.prefix.tokens.shape[1])

    @property
    def last_at(self) -> int:
        """The token that predicts the answer among those that run."""
        return self.prompt.last.last - (len(self.prompt) - self.prefix.tokens.shape[1])

    def rows_at_once(self, memory_budget: float, *, keeps_graph: bool = False) -> int:
        """How many rows fit a memory budget; with a graph for gradients, the activations of all layers are kept."""
        layers = 2 * layer_count(self.model) if keeps_graph else 1
        # A row attends to the whole prompt, but only the tokens that run have activations; the bound from the prompt's length would be far too low.
        return budget_rows(self.model, self.prefix.tokens.shape[1], 1, memory_budget / layers)

    def final_states(self, shifts: Sequence[Shift], memory_budget: float) -> Float[torch.Tensor, "shift d_model"]:
        """The last block's output at the token that predicts the answer, under each shift."""
        order = sorted(range(len(shifts)), key=lambda i: shifts[i].layer)
        states: dict[int, torch.Tensor] = {}
        for some in chunked(order, max(1, self.rows_at_once(memory_budget) - 1)):
            states |= dict(zip(some, self._shifted([shifts[i] for i in some]), strict=True))
        return torch.stack([states[i] for i in range(len(shifts))])

    def _shifted(self, shifts: Sequence[Shift]) -> torch.Tensor:
        hooks = [pair for first, of_layer in _by_layer(shifts) for pair in self._born(first + 1, of_layer)]
        with torch.no_grad():
            return self.run(hooks, rows=len(shifts) + 1)[1:]

    def _born(self, first: int, shifts: Sequence[Shift]) -> Hooks:
        """Rows that leave a block as the unchanged row does, but for the token's state."""
        changes, at = torch.stack([shift.change for shift in shifts]), self.first_at

        def bear(rows: torch.Tensor, *, hook: object) -> torch.Tensor:
            born = (rows[:1].expand(len(changes), -1, -1) if self.prefix.grows else rows[first : first + len(changes)]).clone()
            born[:, at] += changes.to(born)
            return torch.cat([rows[:first], born, rows[first + len(changes) :]])

        return [(block_output(shifts[0].layer), bear)]

    def run(self, hooks: Hooks, rows: int) -> Float[torch.Tensor, "row d_model"]:
        """The last block's output where the answer is predicted, of every row; nothing after it runs.

        Args:
            hooks: they say how many rows come out.
            rows: how many that will be.

        Raises:
            UnsupportedModelError: the last block never shows its output.
        """
        caught: list[torch.Tensor] = []

        def catch(states: torch.Tensor, *, hook: object) -> None:
            caught.append(states[:, self.last_at])
            raise Reached

        with suppress(Reached):
            run_on_prefix(self.model, self.prefix, [*hooks, (block_output(layer_count(self.model) - 1), catch)], rows=rows)
        if not caught:
            raise UnsupportedModelError(f"{model_name(self.model)} never shows its last block's output, so a relation's map cannot be read off it.")
        return caught[0]


def _by_layer(shifts: Sequence[Shift]) -> Iterator[tuple[int, list[Shift]]]:
    """Shifts of one layer together, in the order of layers, with how many came before."""
    before = 0
    for layer in sorted({shift.layer for shift in shifts}):
        some = [shift for shift in shifts if shift.layer == layer]
        yield before, some
        before += len(some)
