"""An edit that is neurons: each writes a vector behind the MLP where what the MLP reads activates it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from typing_extensions import override

from tl_knowledge.door import public
from tl_knowledge.drawing import bar_chart
from tl_knowledge.editing.map_edit import MapEdit
from tl_knowledge.editing.planned import loss_lines
from tl_knowledge.errors import NumericalError
from tl_knowledge.models.mlp_maps import MLPMap
from tl_knowledge.results.provenance import Provenance

__all__ = ["NONLINEARITIES", "NeuronEdit", "Nonlinearity", "neuron_sum"]

Nonlinearity: TypeAlias = Literal["relu", "gelu", "silu"]
"""Of an added neuron. Only ``"relu"`` is exactly 0 where the neuron is off."""

NONLINEARITIES = {"relu": torch.relu, "gelu": torch.nn.functional.gelu, "silu": torch.nn.functional.silu}


@public
@dataclass(frozen=True, eq=False)
class NeuronEdit(MapEdit):
    """Neurons beside those of an MLP: ``sum_i act(k_i . x + b_i) v_i`` is added to what ``W_out`` makes, ``x`` what the MLP reads.

    Wherever every neuron's activation is 0, the model is the unedited one, bit for bit. Of a gated MLP these neurons have no gate.

    Attributes:
        place: the MLP, by its hooks.
        keys, biases, values: of each neuron.
        queries: what the MLP reads where each neuron was made to be active.
        nonlinearity: ``act``.
        targets: the token that each neuron is to bring about, as text.
        method, settings, fingerprint, notes, provenance: as every edit has them.

    Raises:
        NumericalError: a neuron that is not finite.
    """

    ranked_by: ClassVar[str] = "activation"
    place: MLPMap
    keys: Float[torch.Tensor, "neuron d_model"]
    biases: Float[torch.Tensor, " neuron"]
    values: Float[torch.Tensor, "neuron d_model"]
    queries: Float[torch.Tensor, "neuron d_model"]
    nonlinearity: Nonlinearity
    targets: tuple[str, ...]
    method: str
    settings: dict[str, Any]
    fingerprint: str
    notes: tuple[dict[str, Any], ...]
    provenance: Provenance
    _key: object = field(default_factory=object, init=False, repr=False)

    def __post_init__(self) -> None:
        if not all(bool(part.isfinite().all()) for part in (self.keys, self.biases, self.values)):
            raise NumericalError(f"a neuron of the {self.method} edit is not finite; check the weights for NaN, or lower the learning rate.")

    @property
    def activations(self) -> Float[torch.Tensor, " neuron"]:
        """Each neuron's activation where it was made to be active."""
        return NONLINEARITIES[self.nonlinearity]((self.keys * self.queries).sum(-1) + self.biases)

    @override
    def _acted(self, queries: torch.Tensor, outputs: torch.Tensor, point: object) -> torch.Tensor | None:
        activations, written = neuron_sum(queries, self.keys, self.biases, self.values, self.nonlinearity)
        active = (activations != 0).any(-1, keepdim=True)
        return torch.where(active, outputs + written.to(outputs), outputs) if bool(active.any()) else None

    @override
    def headline(self) -> str:
        """The method, how many neurons, for how many facts, and the model."""
        neurons, facts = len(self.keys), self.facts_written
        made = f"{neurons} neuron{'s' * (neurons != 1)} beside the MLP of layer {self.place.layer}"
        return f"{self.method}, {made}, {facts} fact{'s' * (facts != 1)}, {self.stored_bytes / 1024:.1f} KiB; {self.provenance.model}"

    @override
    def to_dataframe(self) -> pd.DataFrame:
        """One row a neuron: the token it is for, the lengths of its key and value, its bias, and its activation at the edit."""
        norms = {"key_norm": self.keys.norm(dim=-1).tolist(), "value_norm": self.values.norm(dim=-1).tolist(), "bias": self.biases.tolist()}
        return pd.DataFrame({"neuron": range(len(self.keys)), "target": self.targets} | norms | {"activation": self.activations.tolist()})

    def plot(self) -> go.Figure:
        """Lines: each fact's loss at every step; bars of the activations where no loss was recorded."""
        lines = loss_lines(self.notes, self.headline())
        if lines is not None:
            return lines
        labels, values = [target.strip() for target in self.targets], self.activations.tolist()
        title = "Activation where each neuron was made"
        return bar_chart(labels, values, title=title, subtitle=self.headline(), value_axis="activation", colours="MLP")


def neuron_sum(
    queries: Float[torch.Tensor, "*pos d_model"],
    keys: Float[torch.Tensor, "neuron d_model"],
    biases: Float[torch.Tensor, " neuron"],
    values: Float[torch.Tensor, "neuron d_model"],
    nonlinearity: Nonlinearity,
) -> tuple[Float[torch.Tensor, "*pos neuron"], Float[torch.Tensor, "*pos d_model"]]:
    """The activations of some neurons, and what they write together."""
    activations = NONLINEARITIES[nonlinearity](queries.to(keys) @ keys.T + biases)
    return activations, activations @ values
