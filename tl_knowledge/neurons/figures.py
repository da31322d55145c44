"""Figures of neurons, from plain tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from tl_knowledge.drawing import HeatMap, grouped_bars, heat_maps
from tl_knowledge.wording import counted

__all__ = ["layer_bars", "token_map", "token_maps"]

NO_BAR = (float("nan"), float("nan"), float("nan"))


def layer_bars(distributions: Mapping[str, pd.DataFrame], groups: Mapping[str, int]) -> go.Figure:
    """Bars: the share of the neurons in every layer.

    Args:
        distributions: by name, as `LocatedNeurons.layer_distribution` gives them; shallower models have no bars in the last layers.
        groups: by the same names, how many groups of prompts.
    """
    bars = {
        f"{name} ({counted(int(frame['neurons'].sum()), 'neuron')}, {counted(groups[name], 'group')})": [
            (row[0], row[1], row[2]) for row in frame[["share", "low", "high"]].to_numpy().tolist()
        ]
        for name, frame in distributions.items()
    }
    layers = max(map(len, bars.values()))
    return grouped_bars(
        [str(layer) for layer in range(layers)],
        {name: [*rows, *[NO_BAR] * (layers - len(rows))] for name, rows in bars.items()},
        title="Where the neurons are",
        subtitle="share of all refined neurons; 95% bootstrap over groups",
        group_axis="layer",
        value_axis="share of the neurons",
    )


def token_map(title: str, rows: Mapping[str, tuple[Sequence[float], Sequence[str]]]) -> HeatMap:
    """Tokens of some neurons by rank.

    Args:
        rows: by neuron (``"layer, number"``) the tokens' values and the tokens.
    """
    values = np.array([row for row, _ in rows.values()], dtype=float)
    texts = [[token.strip() for token in tokens] for _, tokens in rows.values()]
    ranks = [str(rank + 1) for rank in range(values.shape[1])]
    return HeatMap(values, list(rows), ranks, title, "layer, neuron", "rank", colours="MLP", texts=texts)


def token_maps(charts: Sequence[HeatMap], *, title: str, subtitle: str, colour_axis: str) -> go.Figure:
    """Maps of tokens side by side."""
    return heat_maps(charts, title=title, subtitle=subtitle, colour_axis=colour_axis)
