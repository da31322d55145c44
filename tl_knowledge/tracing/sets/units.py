"""Figures of heads and neurons, averaged over facts."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from tl_knowledge.drawing import HeatMap, bar_chart, heat_maps
from tl_knowledge.errors import ComponentError
from tl_knowledge.models.hook_names import Component, unit_word
from tl_knowledge.results.statistics import largest_rows
from tl_knowledge.runs.roles import PLACES, last_corrupted
from tl_knowledge.tracing.sets.effects import RoleEffects
from tl_knowledge.tracing.sets.figures import effect_axis, sample_words
from tl_knowledge.tracing.words import COLOUR_SCALES, COMPONENT_WORDS

__all__ = ["plot_units"]

BARS = 25


def plot_units(average: RoleEffects, component: Component | None) -> go.Figure:
    """Heads by layers at the early and the late site, a row of maps a side; of neurons, bars of the largest with their intervals.

    Raises:
        ComponentError: no such component was traced.
    """
    there = average.unit_components
    if not there or component not in (None, *there):
        traced = ", ".join(map(repr, (*average.components, *there)))
        raise ComponentError(
            f"no trace of the units of {component or 'heads or neurons'} is here, but of {traced}; pass components='head' to trace_facts()."
        )
    chosen = component or there[0]
    return _bars(average, chosen) if unit_word(chosen) == "neuron" else _maps(average, chosen)


def _maps(average: RoleEffects, component: Component) -> go.Figure:
    word = ("key-value " if component in ("k", "v") else "") + unit_word(component)
    layers = [str(layer) for layer in average.layers]
    maps: list[HeatMap] = []
    for side in average.sides:
        units = [str(unit) for unit in average.of(side, component)[0].units]
        for place in PLACES:
            values = average.effects_at(place, side, component).mean(0).T
            maps.append(HeatMap(values, units, layers, f"{side} corrupted: at the {place}", word, "layer", colours=COLOUR_SCALES[component]))
    return heat_maps(
        maps,
        title=f"Restoring one {COMPONENT_WORDS[component]}",
        subtitle=sample_words(average),
        colour_axis=effect_axis(average.metric),
        columns=len(PLACES),
    )


def _bars(average: RoleEffects, component: Component) -> go.Figure:
    frame: pd.DataFrame = average.to_dataframe().query("component == @component")
    own = [role == last_corrupted(side) for side, role in zip(frame["corrupt"], frame["role"], strict=True)]
    best = largest_rows(frame.loc[own], BARS, "effect", either_sign=True)
    sides = best["corrupt"] + " corrupted, " if len(average.sides) > 1 else [""] * len(best)
    return bar_chart(
        [f"{side}layer {layer}, {unit_word(component)} {unit}" for side, layer, unit in zip(sides, best["layer"], best["unit"], strict=True)],
        [float(value) for value in best["effect"]],
        [float(value) for value in best["high"] - best["effect"]],
        errors_below=[float(value) for value in best["effect"] - best["low"]],
        title=f"Restoring one {COMPONENT_WORDS[component]} at the last corrupted token",
        subtitle=f"{sample_words(average)}; the {len(best)} largest; 95% bootstrap over facts",
        value_axis=effect_axis(average.metric),
        colours=COLOUR_SCALES[component],
    )
