"""The texts in which neurons are most active, as a result and as circuitsvis' view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import plotly.graph_objects as go
from circuitsvis.topk_samples import topk_samples

from tl_knowledge.drawing import HtmlView
from tl_knowledge.neurons.entry import rows_of
from tl_knowledge.neurons.figures import token_map, token_maps
from tl_knowledge.neurons.neuron_set import NeuronSet
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.result import TableResult
from tl_knowledge.wording import counted

__all__ = ["NeuronContexts"]

DRAWN = 12


@dataclass(frozen=True, eq=False)
class NeuronContexts(TableResult):
    """Neurons' strongest contexts.

    Attributes:
        table: ``layer neuron rank activation text pos token tokens activations``: for each neuron its strongest texts (``rank`` 0 is the first), the
            text's number in the corpus, the position and the token where the neuron is strongest, and the tokens around it with the neuron's
            activation at each.
        neurons: which.
        texts, tokens: how many were read.
        provenance: the model, the versions.
    """

    ranked_by: ClassVar[str] = "activation"
    either_sign: ClassVar[bool] = True
    table: pd.DataFrame
    neurons: NeuronSet
    texts: int
    tokens: int
    provenance: Provenance

    def headline(self) -> str:
        """How many neurons, and over how much text."""
        return (
            f"strongest contexts of {counted(len(self.neurons), 'neuron')} in {counted(self.texts, 'text')} "
            f"({counted(self.tokens, 'token')}); {self.provenance.model}"
        )

    def top(self, k: int = 10) -> pd.DataFrame:
        """The k strongest contexts of all, as text."""
        best = super().top(k)
        return best.assign(context=best["tokens"].map("".join)).drop(columns=["tokens", "activations"])

    def summary(self) -> pd.DataFrame:
        """One row a neuron: its strongest activation, and its strongest tokens, the strongest first."""
        rows: list[dict[str, Any]] = []
        for layer, neuron in self.neurons:
            own = rows_of(self.table, (layer, neuron))
            strongest = ", ".join(str(token).strip() for token in own["token"])
            rows.append({"layer": layer, "neuron": neuron, "activation": float(own["activation"].iloc[0]), "at": strongest})
            rows[-1]["context"] = "".join(own["tokens"].iloc[0])
        return pd.DataFrame(rows).sort_values("activation", ascending=False, key=abs, ignore_index=True)

    def plot(self, *, limit: int = DRAWN) -> go.Figure:
        """Heat map: the most active neurons' strongest tokens; colour is the activation. `view` shows the texts."""
        chosen = [(int(row["layer"]), int(row["neuron"])) for row in self.summary().head(limit).to_dict(orient="records")]
        own = {f"{layer}, {number}": rows_of(self.table, (layer, number)) for layer, number in chosen}
        chart = token_map("", {name: (rows["activation"].tolist(), rows["token"].tolist()) for name, rows in own.items()})
        subtitle = (
            f"one token a text, the strongest first; {len(chosen)} of {counted(len(self.neurons), 'neuron')}, "
            f"{counted(self.texts, 'text')}; {self.provenance.model}"
        )
        return token_maps([chart], title="Neurons' strongest tokens", subtitle=subtitle, colour_axis="activation")

    def view(self) -> HtmlView:
        """circuitsvis' list of the strongest contexts, a neuron at a time, for notebooks; ``.save(path)`` writes a page that works offline."""
        neurons = list(self.neurons)
        by_neuron = [rows_of(self.table, neuron) for neuron in neurons]
        rendered = topk_samples(
            [[own["tokens"].map(list).tolist() for own in by_neuron]],
            [[own["activations"].map(list).tolist() for own in by_neuron]],
            zeroth_dimension_name="Shown",
            first_dimension_name="Neuron",
            zeroth_dimension_labels=["activation"],
            first_dimension_labels=[f"layer {layer}, neuron {number}" for layer, number in neurons],
        )
        note = (
            f"{counted(self.texts, 'text')}, {counted(self.tokens, 'token')}; {self.provenance.model}; blue above zero, red below; hover for values"
        )
        return HtmlView.of(rendered, title="Neurons' strongest contexts", note=note)
