"""What a prompt's states say in another prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from tl_knowledge.drawing import HeatMap, heat_maps
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.result import TableResult
from tl_knowledge.states.settings import DecodingSettings, short
from tl_knowledge.wording import counted

__all__ = ["DecodedStates"]


@dataclass(frozen=True, eq=False)
class DecodedStates(TableResult):
    """A Patchscope of one prompt.

    Attributes:
        table: one row a layer and position: ``layer`` (``-1`` for the embeddings), ``pos``, ``token``; what the target prompt goes on with: ``says``
            and its ``says_probability``, the answer's ``probability`` and ``rank`` (0: the likeliest of the vocabulary), ``text`` (as many tokens
            as were asked for); and ``next``, the likeliest token behind the state's own token in its own prompt, its ``surprisal`` in the target
            prompt (nats) and whether it is what is said there, ``agrees``.
        labels: the prompt's tokens.
        target: the answer.
        without: what the target prompt goes on with when nothing is written into it.
        without_probability: the answer's probability then.
        settings: where the states were written.
        provenance: what they were decoded with.
    """

    ranked_by: ClassVar[str] = "probability"
    table: pd.DataFrame
    labels: tuple[str, ...]
    target: str
    without: str
    without_probability: float
    settings: DecodingSettings
    provenance: Provenance

    def headline(self) -> str:
        """How many states of which model, and where they were written."""
        return (
            f"{counted(len(self.table), 'state')} decoded in {short(self.settings.into)!r}, answer {self.target.strip()!r}; {self.provenance.model}"
        )

    def summary(self) -> pd.DataFrame:
        """By layer: precision@1 and mean surprisal (nats) of the model's own next tokens, and the answer's largest probability."""
        by_layer = self.table.groupby("layer")
        columns = {"states": by_layer.size(), "precision": by_layer["agrees"].mean(), "surprisal": by_layer["surprisal"].mean()}
        return pd.DataFrame(columns | {"probability": by_layer["probability"].max()}).reset_index()

    def plot(self) -> go.Figure:
        """Heat map of the answer's probability, tokens by layers; in every cell what the target prompt goes on with."""
        table = self.table.sort_values(["pos", "layer"])
        positions, layers = sorted(set(table["pos"])), sorted(set(table["layer"]))
        shape = len(positions), len(layers)
        values = np.asarray(table["probability"], dtype=float).reshape(shape)
        said = np.asarray(table["says"], dtype=object).reshape(shape)
        names = ["tokens" if layer < 0 else str(layer) for layer in layers]
        labels = [self.labels[pos] or " " for pos in positions]
        chart = HeatMap(values, labels, names, "", "token", "layer", colours="residual", texts=[[str(each).strip() for each in row] for row in said])
        where = "its own layer" if self.settings.into_layer is None else f"layer {self.settings.into_layer}"
        carried = f", through {self.settings.through}" if self.settings.through else ""
        subtitle = (
            f"each written after {where}{carried} at token {self.settings.at} of {short(self.settings.into)!r}, which without goes on with "
            f"{self.without.strip()!r} ({self.target.strip()!r} {self.without_probability:.2g}); {self.provenance.model}"
        )
        return heat_maps(
            [chart],
            title=f"What states say in another prompt: {self.target.strip()!r}?",
            subtitle=subtitle,
            colour_axis=f"probability of {self.target.strip()!r} there",
        )
