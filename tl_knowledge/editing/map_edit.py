"""Edits that act at a map of one block: from its input and its output, position by position, they say what the output becomes."""

from __future__ import annotations

from abc import abstractmethod

import torch
from typing_extensions import override

from tl_knowledge.arrays import Hooks
from tl_knowledge.editing.routed import RoutedEdit
from tl_knowledge.editing.routes import at_map
from tl_knowledge.errors import ComponentError
from tl_knowledge.models.mlp_maps import MLPMap, mlp_map
from tl_knowledge.models.protocol import HookedModel

__all__ = ["MapEdit"]


class MapEdit(RoutedEdit):
    """A `RoutedEdit` with a ``place``, and what it does there.

    Attributes:
        place: the map, by its hooks.
    """

    place: MLPMap

    @abstractmethod
    def _acted(self, queries: torch.Tensor, outputs: torch.Tensor, point: object) -> torch.Tensor | None:
        """What the map's outputs become; ``None``: they stay.

        Args:
            queries: the map's inputs at the same positions.
            point: the hook point of the outputs.
        """

    @property
    def layers(self) -> tuple[int, ...]:
        """The layer it acts in."""
        return (self.place.layer,)

    @override
    def hooks(self) -> Hooks:
        return at_map(self.place, self._acted)

    @override
    def reading(self, hooks: Hooks) -> Hooks:
        return hooks[:1]

    @override
    def check_fits(self, model: HookedModel) -> None:
        super().check_fits(model)
        there = mlp_map(model, self.place.matrix, self.place.layer)
        if there != self.place:
            raise ComponentError(
                f"the {self.method} edit acts from {self.place.query} on {self.place.output}, but {self.place.matrix} of layer {self.place.layer} of "
                f"this model is seen from {there.query} at {there.output}; plan it on this model."
            )
