"""Affine maps of states, one a layer: what affine maps between layers and the tuned lens are."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float

from tl_knowledge.errors import ComponentError
from tl_knowledge.models.ledger import check_made_for
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.result import Result

__all__ = ["LayerMaps"]


class LayerMaps(Result):
    """``h A_l + b_l`` for states after some layers.

    Attributes:
        called: what these maps are called, for an error.
        layers: after which states are taken, one map each; ``-1`` is the embeddings.
        weights: ``A``, from the second axis to the third.
        biases: ``b``.
        fingerprint: of the weights of the model that they were made for.
        provenance: of that model.
    """

    called: ClassVar[str]
    layers: tuple[int, ...]
    weights: Float[torch.Tensor, "map d_model d_model"]
    biases: Float[torch.Tensor, "map d_model"]
    fingerprint: str
    provenance: Provenance

    @property
    def source_layers(self) -> tuple[int, ...]:
        """The layers after which states are taken."""
        return self.layers

    def transport(self, residual: torch.Tensor, layer: int) -> torch.Tensor:
        """States ``[... d_model]`` of a layer, carried; in the map's precision or the states', whichever is more.

        Raises:
            ComponentError: a layer that no map is for.
        """
        if layer not in self.layers:
            raise ComponentError(f"no map takes states after layer {layer}; there are maps after {list(self.layers)}.")
        number = self.layers.index(layer)
        wide = torch.promote_types(self.weights.dtype, residual.dtype)
        weight, bias = (each[number].to(residual.device, wide) for each in (self.weights, self.biases))
        return residual.to(wide) @ weight + bias

    def check(self, model: HookedModel) -> None:
        """Refuse another model than they were made for.

        Raises:
            ModelStateError: other weights.
        """
        check_made_for(model, self.fingerprint, self.called, f"{self.provenance.model!r} in {self.provenance.dtype}")
