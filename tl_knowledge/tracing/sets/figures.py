"""Figures of averages over facts."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from tl_knowledge.arrays import FloatArray
from tl_knowledge.drawing import HeatMap, Line, LinePanel, heat_maps, line_panels
from tl_knowledge.errors import ComponentError
from tl_knowledge.models.hook_names import Component
from tl_knowledge.results.statistics import IntervalVariant, mean_interval
from tl_knowledge.runs.metric import Metric
from tl_knowledge.runs.roles import PLACES, SIDES, last_corrupted, roles_of_side
from tl_knowledge.runs.windows import layer_axis
from tl_knowledge.tracing.sets.effects import RoleEffects
from tl_knowledge.tracing.words import COLOUR_SCALES, COMPONENT_WORDS
from tl_knowledge.wording import counted

__all__ = ["plot_heat_maps", "plot_roles", "plot_severed", "plot_sides", "sample_words"]

BANDS: dict[IntervalVariant, str] = {"ours": "bands: 95% bootstrap over facts", "meng2022_code": "bands: 1.96 sd of scores / sqrt(facts)"}


def plot_roles(average: RoleEffects, variant: IntervalVariant) -> go.Figure:
    """Effect by layer for every role: a row of panels a side, a column a component."""
    frame = average.to_dataframe(variant).query("severed == 'none'")
    panels: list[LinePanel] = []
    for side in average.sides:
        styles = {role: style for style, role in enumerate(roles_of_side(side))}
        for component in average.components:
            of_panel = frame.query("corrupt == @side and component == @component")
            lines = [_line(role, of_panel.loc[of_panel["role"] == role], style if side == "subject" else 6 + style) for role, style in styles.items()]
            words = _words(component, average.of(side, component)[0].window)
            panels.append(LinePanel(f"{side} corrupted: {words}", [line for line in lines if len(line.x)]))
    return line_panels(
        panels,
        title="Where restoring one clean activation helps, by token role",
        subtitle=f"{sample_words(average)}; {BANDS[variant]}",
        x_axis="layer",
        y_axis=effect_axis(average.metric),
        columns=len(average.components),
    )


def plot_heat_maps(average: RoleEffects) -> go.Figure:
    """Roles by layers, a map a side and component."""
    frame = average.to_dataframe().query("severed == 'none'")
    maps: list[HeatMap] = []
    for side in average.sides:
        roles = [role for role in roles_of_side(side) if role in set(frame[frame["corrupt"] == side]["role"])]
        marked = frozenset(i for i, role in enumerate(roles) if (side == "subject") == ("subject" in role))
        for component in average.components:
            table = frame.query("corrupt == @side and component == @component").pivot(index="role", columns="layer", values="effect").loc[roles]
            columns = [str(layer) for layer in table.columns]
            window = average.of(side, component)[0].window
            title = f"{side} corrupted: {COMPONENT_WORDS[component]}"
            colours = COLOUR_SCALES[component]
            maps.append(HeatMap(table.to_numpy(), roles, columns, title, "token role", layer_axis(window), marked=marked, colours=colours))
    return heat_maps(
        maps,
        title="Average indirect effect by token role",
        subtitle=f"{sample_words(average)}; corrupted roles bold with *",
        colour_axis=effect_axis(average.metric),
        columns=len(average.components),
    )


def plot_severed(average: RoleEffects) -> go.Figure:
    """The residual state restored at the last corrupted token, intact and severed.

    Raises:
        ComponentError: nothing was severed, or the residual state was not traced.
    """
    severed = tuple(dict.fromkeys(measure.severed for measure in average.measures if measure.severed))
    if not severed or "resid_post" not in average.components:
        raise ComponentError("no severed trace of the residual state is here; call trace_facts(..., sever=('mlp_out', 'attn_out')) with resid_post.")
    panels: list[LinePanel] = []
    for side in average.sides:
        lines: list[Line] = []
        for style, modules in enumerate(((), *severed)):
            values = average.effects_at("last corrupted token", side, "resid_post", modules)
            name = " and ".join(COMPONENT_WORDS[m].removeprefix("head's ") for m in modules) + " severed" if modules else "intact"
            lines.append(_mean_line(name, average.layers, values, style))
        panels.append(LinePanel(f"{side} corrupted: restored at the {last_corrupted(side)}", lines))
    return line_panels(
        panels,
        title="What a restored state acts through",
        subtitle=f"residual state restored at the last corrupted token; {sample_words(average)}; {BANDS['ours']}",
        x_axis="layer of the restored state",
        y_axis=effect_axis(average.metric),
    )


def plot_sides(frame: pd.DataFrame, sample: str, metric: Metric) -> go.Figure:
    """Subject against relation by layer; filled points differ after correction for many comparisons.

    Args:
        frame: the table of a `tl_knowledge.tracing.SideComparison`.
        sample: how many facts and noise samples, in words.
        metric: what effects are measured in.
    """
    panels: list[LinePanel] = []
    components = list(dict.fromkeys(frame["component"]))
    for place in PLACES:
        for component in components:
            rows = frame.query("place == @place and component == @component")
            different = frozenset(int(x) for x in rows[rows["differs"]]["layer"])
            lines = [_line(f"{side} corrupted", rows, style, (side, f"{side}_low", f"{side}_high"), different) for style, side in enumerate(SIDES)]
            panels.append(LinePanel(f"{_words(component, int(rows['window'].iloc[0]))} at the {place}", lines))
    return line_panels(
        panels,
        title="Subject against relation: is the knowledge kept in the same place?",
        subtitle=f"filled points: the sides differ (Wilcoxon, paired over facts, p < .05 after Benjamini-Hochberg); {sample}; bands 95%",
        x_axis="layer",
        y_axis=effect_axis(metric),
        columns=len(components),
    )


def effect_axis(metric: Metric) -> str:
    """What an axis of average effects is called."""
    return f"average indirect effect ({metric.measured_in})"


def sample_words(average: RoleEffects) -> str:
    """How many facts and noise samples an average is of, and of which model."""
    left_out = f" of {average.given} given" if average.skipped else ""
    return f"{counted(len(average.facts), 'fact')}{left_out}, {counted(average.settings.samples, 'noise sample')} each; {average.provenance.model}"


def _mean_line(name: str, layers: Sequence[int], effects: FloatArray, style: int) -> Line:
    """A line of means over facts with their intervals, from effects ``[fact layer]``."""
    mean, low, high = mean_interval(list(effects[:, None]))
    return Line(name, layers, mean.tolist(), low.tolist(), high.tolist(), style)


def _line(
    name: str,
    rows: pd.DataFrame,
    style: int,
    columns: tuple[str, str, str] = ("effect", "low", "high"),
    filled: frozenset[int] | None = None,
) -> Line:
    """A line of a table's means with their intervals."""
    x, y, low, high = (rows[column].tolist() for column in ("layer", *columns))
    return Line(name, x, y, low, high, style, filled)


def _words(component: Component, window: int) -> str:
    return COMPONENT_WORDS[component] + (f" ({window} layers)" if window > 1 else "")
