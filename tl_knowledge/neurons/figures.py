"""Figures of neurons, from plain tables."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from tl_knowledge.drawing import grouped_bars

__all__ = ["layer_bars"]

NO_BAR = (float("nan"), float("nan"), float("nan"))


def layer_bars(distributions: Mapping[str, pd.DataFrame], groups: Mapping[str, int]) -> go.Figure:
    """Bars: the share of the neurons in every layer.

    Args:
        distributions: by name, as `LocatedNeurons.layer_distribution` gives them; shallower models have no bars in the last layers.
        groups: by the same names, how many groups of prompts.
    """
    bars = {
        f"{name} ({int(frame['neurons'].sum())} neurons, {groups[name]} groups)": [
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
