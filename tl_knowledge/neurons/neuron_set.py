"""A set of neurons: set algebra, hooks, and a random control of the same shape."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from more_itertools import always_iterable

from tl_knowledge.arrays import Hooks
from tl_knowledge.drawing import bar_chart
from tl_knowledge.errors import ComponentError, DataError
from tl_knowledge.hooks import Positions, scale_neurons
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import layer_count
from tl_knowledge.results.placing import with_ending
from tl_knowledge.results.result import Result
from tl_knowledge.results.storage import write_text
from tl_knowledge.wording import counted

__all__ = ["Neuron", "NeuronSet"]

Neuron = tuple[int, int]
"""Layer, and number within the layer's MLP."""


@dataclass(frozen=True)
class NeuronSet:
    """Neurons of one model; ``|``, ``&``, ``-`` and ``^`` work as on sets.

    Attributes:
        neurons: pairs of layer and neuron.
        n_layers, d_mlp: the model's shape.

    Raises:
        ComponentError: a neuron outside the model.

    Example:
        >>> some = NeuronSet(frozenset({(0, 3), (2, 1)}), n_layers=4, d_mlp=8)
        >>> other = NeuronSet(frozenset({(2, 1), (3, 7)}), n_layers=4, d_mlp=8)
        >>> sorted(some & other), len(some | other), some.layer_histogram()
        ([(2, 1)], 3, [1, 0, 1, 0])
    """

    neurons: frozenset[Neuron]
    n_layers: int
    d_mlp: int

    def __post_init__(self) -> None:
        for layer, neuron in self.neurons:
            if not (0 <= layer < self.n_layers and 0 <= neuron < self.d_mlp):
                raise ComponentError(
                    f"neuron {neuron} of layer {layer} is outside the model's {counted(self.n_layers, 'layer')} of {counted(self.d_mlp, 'neuron')}."
                )

    @classmethod
    def of(cls, model: AnyModel, neurons: Iterable[Neuron]) -> NeuronSet:
        """Neurons of a model."""
        model = as_model(model, masked=True, encoder_decoder=True)
        return cls(frozenset(neurons), layer_count(model), int(model.blocks[0].mlp.W_out.shape[0]))

    @property
    def shape(self) -> tuple[int, int]:
        """Layers, and neurons a layer, of the model."""
        return self.n_layers, self.d_mlp

    def headline(self) -> str:
        """How many neurons, of how many."""
        return f"{counted(len(self), 'neuron')} of {counted(self.n_layers, 'layer')} x {self.d_mlp}"

    def summary(self) -> pd.DataFrame:
        """How many neurons each layer has that has any, and their numbers."""
        rows = [{"layer": layer, "neurons": len(group), "numbers": ", ".join(map(str, group))} for layer, group in self._by_layer().items()]
        return pd.DataFrame(rows, columns=["layer", "neurons", "numbers"])  # pyright: ignore[reportArgumentType]

    # Shown as results are; saved as JSON of its own, which other programs read.
    __repr__ = Result.__repr__  # pyright: ignore[reportAssignmentType]
    _repr_html_ = Result._repr_html_

    def __len__(self) -> int:
        return len(self.neurons)

    def __iter__(self) -> Iterator[Neuron]:
        return iter(sorted(self.neurons))

    def __contains__(self, neuron: object) -> bool:
        return neuron in self.neurons

    def __or__(self, other: NeuronSet) -> NeuronSet:
        return self._with(self.neurons | self._same_model(other))

    def __and__(self, other: NeuronSet) -> NeuronSet:
        return self._with(self.neurons & self._same_model(other))

    def __sub__(self, other: NeuronSet) -> NeuronSet:
        return self._with(self.neurons - self._same_model(other))

    def __xor__(self, other: NeuronSet) -> NeuronSet:
        return self._with(self.neurons ^ self._same_model(other))

    def of_layers(self, layers: int | Iterable[int]) -> NeuronSet:
        """The neurons of one layer, or of some.

        Raises:
            ComponentError: a layer that the model does not have.

        Example:
            >>> list(NeuronSet(frozenset({(0, 3), (2, 1)}), n_layers=4, d_mlp=8).of_layers(2))
            [(2, 1)]
        """
        wanted = set(always_iterable(layers))
        outside = sorted(layer for layer in wanted if not 0 <= layer < self.n_layers)
        if outside:
            raise ComponentError(
                f"layer {outside[0]} is outside the model's {counted(self.n_layers, 'layer')}; pass numbers from 0 to {self.n_layers - 1}."
            )
        return self._with(frozenset(neuron for neuron in self.neurons if neuron[0] in wanted))

    def suppress(self, *, positions: Positions | None = None, before_nonlinearity: bool = False) -> Hooks:
        """Hooks that set the neurons to zero, at some positions (``-1``: the last) or everywhere, after the non-linearity or before it.

        Raises:
            ComponentError: the set is empty.
        """
        return self.scale(0.0, positions=positions, before_nonlinearity=before_nonlinearity)

    def enhance(self, factor: float = 2.0, *, positions: Positions | None = None, before_nonlinearity: bool = False) -> Hooks:
        """Hooks that multiply the neurons' activations; EleutherAI's program doubles them before the non-linearity on GPT-2.

        Raises:
            ComponentError: the set is empty, or the factor not finite.
        """
        return self.scale(factor, positions=positions, before_nonlinearity=before_nonlinearity)

    def scale(self, factor: float, *, positions: Positions | None = None, before_nonlinearity: bool = False) -> Hooks:
        """Hooks that multiply the neurons' activations by any factor.

        Raises:
            ComponentError: the set is empty, or the factor not finite.
        """
        if not self.neurons:
            raise ComponentError("the set has no neuron, so its hooks would do nothing; lower the threshold or shared_by of select_neurons().")
        return scale_neurons(self.neurons, factor, positions=positions, before_nonlinearity=before_nonlinearity)

    def random_control(self, seed: int = 0) -> NeuronSet:
        """As many other neurons in every layer, drawn at random.

        Raises:
            ComponentError: a layer has too few other neurons.
        """
        drawn: list[Neuron] = []
        for layer, count in enumerate(self.layer_histogram()):
            others = [neuron for neuron in range(self.d_mlp) if (layer, neuron) not in self.neurons]
            if count > len(others):
                raise ComponentError(
                    f"layer {layer} has {counted(len(others), 'neuron')} outside the set, fewer than the {count} inside; take a smaller set."
                )
            drawn += [(layer, neuron) for neuron in random.Random(f"{seed}/{layer}").sample(others, count)]
        return self._with(frozenset(drawn))

    def layer_histogram(self) -> list[int]:
        """How many neurons each layer has."""
        return [sum(layer == index for layer, _ in self.neurons) for index in range(self.n_layers)]

    def jaccard(self, other: NeuronSet) -> float:
        """Shared neurons over all neurons of both; NaN for two empty sets."""
        both = self.neurons | self._same_model(other)
        return len(self.neurons & other.neurons) / len(both) if both else float("nan")

    def to_dataframe(self) -> pd.DataFrame:
        """One row a neuron."""
        return pd.DataFrame(list(self), columns=["layer", "neuron"])  # pyright: ignore[reportArgumentType]

    def plot(self) -> go.Figure:
        """Bars: neurons by layer."""
        labels = [f"layer {layer}" for layer in range(self.n_layers)]
        counts = [float(count) for count in self.layer_histogram()]
        return bar_chart(labels, counts, title="Neurons by layer", subtitle=counted(len(self), "neuron"), value_axis="neurons", colours="MLP")

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to one JSON file; returns the path."""
        fields = {"kind": "NeuronSet", "n_layers": self.n_layers, "d_mlp": self.d_mlp, "neurons": list(self)}
        return write_text(with_ending(path, ".json"), json.dumps(fields | {"sha256": _checksum(fields)}))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> NeuronSet:
        """Read what `save` wrote.

        Raises:
            DataError: not such a file, or one that is not as it was written.
        """
        source = with_ending(path, ".json")
        try:
            fields = json.loads(source.read_text(encoding="utf-8-sig"))
            checksum = fields.pop("sha256", None)
            plain = checksum is None and set(fields) == {"kind", "n_layers", "d_mlp", "neurons"}  # of an earlier version, or another program
            if fields["kind"] != "NeuronSet" or not (plain or checksum == _checksum(fields)):
                raise ValueError("it is damaged, or another kind of file")
            neurons = frozenset((int(layer), int(neuron)) for layer, neuron in fields["neurons"])
            return cls(neurons, int(fields["n_layers"]), int(fields["d_mlp"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(f"cannot read {str(source)!r} as a saved NeuronSet: {error}; pass a file written by NeuronSet.save().") from error

    def _by_layer(self) -> dict[int, list[int]]:
        return {layer: [number for _, number in group] for layer, group in groupby(self, key=itemgetter(0))}

    def _with(self, neurons: frozenset[Neuron]) -> NeuronSet:
        return NeuronSet(neurons, self.n_layers, self.d_mlp)

    def _same_model(self, other: NeuronSet) -> frozenset[Neuron]:
        if self.shape != other.shape:
            raise ComponentError(
                f"sets of models of {self.n_layers} x {self.d_mlp} and {other.n_layers} x {other.d_mlp} do not combine; take sets of one model."
            )
        return other.neurons


def _checksum(fields: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()
