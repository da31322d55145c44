"""What decides the results of a state: two states with the same key have the same result."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from tl_knowledge.explore.state import ExplorerState, TracedComponent

__all__ = ["ResultKeys", "key_text"]


def key_text(key: tuple[object, ...]) -> str:
    """A key of plain values as a short text.

    Example:
        >>> key_text(ResultKeys(ExplorerState("a")).prediction) == key_text(ResultKeys(ExplorerState("a", samples=3)).prediction)
        True
    """
    return hashlib.sha256(repr(key).encode()).hexdigest()[:20]


@dataclass(frozen=True)
class ResultKeys:
    """What decides each result: the parts of a state that it depends on.

    Attributes:
        state: the state.
    """

    state: ExplorerState

    @property
    def traces(self) -> tuple[object, ...]:
        """Of all maps that are shown."""
        return tuple(map(self.trace, self.state.components))

    @property
    def comparisons(self) -> tuple[object, ...]:
        """Of the prompt and the further ones."""
        return tuple(map(self.comparison, (self.state.prompt, *self.state.further)))

    @property
    def prediction(self) -> tuple[object, ...]:
        """Of the next tokens."""
        return "predict", self.state.prompt, self.state.target

    def trace(self, component: TracedComponent) -> tuple[object, ...]:
        """Of a map."""
        return "trace", component, self.state.window, self._runs

    @property
    def cell(self) -> tuple[object, ...]:
        """Of what is behind the clicked cell."""
        return "cell", self.state.cell, self._runs

    @property
    def circuit(self) -> tuple[object, ...]:
        """Of the circuit, which is made of maps."""
        return "circuit", self.state.window, self._runs

    def comparison(self, text: str) -> tuple[object, ...]:
        """Of a prompt before and after."""
        state = self.state
        return "compare", text, state.prompt, state.target, state.suppressed, state.knocked_out, state.edits

    @property
    def _runs(self) -> tuple[object, ...]:
        """The clean run and the corrupted ones."""
        state = self.state
        return state.prompt, state.subject, state.relation, state.target, state.corrupt, state.samples, state.seed, state.metric
