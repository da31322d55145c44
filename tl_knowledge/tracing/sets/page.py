"""One self-contained HTML page for the traces of a fact set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd

from tl_knowledge.door import public
from tl_knowledge.drawing import PagePart, Table, heading, html_page, markup, provenance_footer
from tl_knowledge.models.hook_names import Module, unit_word
from tl_knowledge.results.statistics import interval_text
from tl_knowledge.runs.metric import PROBABILITY, Metric
from tl_knowledge.runs.roles import PLACES, SIDES
from tl_knowledge.tracing.sets.effects import RoleEffects
from tl_knowledge.tracing.sets.figures import plot_heat_maps, plot_roles, plot_severed
from tl_knowledge.tracing.sets.sides import SideComparison, locate_sides
from tl_knowledge.tracing.sets.units import plot_units
from tl_knowledge.tracing.words import COMPONENT_WORDS
from tl_knowledge.wording import counted

__all__ = ["average_page", "location_table", "peak_table", "total_effect_table"]

_ROLES_NOTE = """Each point is an average over facts: noise on the corrupted tokens makes the model lose the answer; one clean activation is
written back, at a token of that role and in that layer (or window of layers), and {}. A high early
point at the last corrupted token is where the information is looked up, a high late point at the last token is where it is read out."""

_SIDES_NOTE = """<p>The same facts, traced twice: with the subject corrupted and with the relation corrupted. The <i>centre</i> is the mean layer
weighted by the positive part of the average effect; its difference between the sides is paired within facts. Where the relation ends the
prompt, its last token <i>is</i> the last token, so both rows show the same relation line.</p>"""

_SEVERED_NOTE = """The residual state is restored at the last corrupted token while {} at that token stay as in the corrupted run. What severing
takes away, the restored state did through what was severed."""

_SEVERED: dict[Module, str] = {
    "mlp_out": "the outputs of all MLPs",
    "attn_out": "the outputs of all attention layers",
    "resid_pre": "the states entering all blocks",
    "mlp_in": "the inputs of all MLPs",
    "q": "the queries of all heads",
    "k": "the keys of all heads",
    "v": "the values of all heads",
    "z": "the z of all heads",
    "pattern": "the attention patterns of all heads",
    "attn_scores": "the attention scores of all heads",
}


def average_page(average: RoleEffects, compared: SideComparison | None) -> str:
    """Sample, total effects, effects by role, subject against relation, severing, provenance; opens offline.

    Args:
        compared: what `compare_sides` gave, where both sides were traced and there are facts enough for it.
    """
    parts: list[PagePart] = [_intro(average), total_effect_table(average), heading("Where restoring helps"), _roles_note(average.metric)]
    if average.components:
        parts += [plot_roles(average, "ours"), plot_heat_maps(average)]
    parts += [plot_units(average, component) for component in average.unit_components]
    if compared is not None:
        parts += [heading("Subject against relation"), markup(_SIDES_NOTE), _difference_sentence(average, compared.table)]
        parts += [compared.plot(), location_table(average)]
    severed = dict.fromkeys(measure.severed for measure in average.measures if measure.severed)
    if severed and "resid_post" in average.components:
        lines = [" and ".join(_SEVERED[module] for module in together) for together in severed]
        parts += [heading("Severed"), _SEVERED_NOTE.format(" or, as another line, ".join(lines)), plot_severed(average)]
    return html_page("Causal traces of a fact set", [*parts, provenance_footer(average.provenance)])


@public
def total_effect_table(average: RoleEffects) -> Table:
    """Clean and corrupted probability (or other metric) and average total effect of each side."""
    number, what = average.metric.number, " P(answer)" if average.metric == PROBABILITY else ""
    rows = [
        (row["corrupt"], number(row["clean"]), number(row["corrupted"]), _estimate(row, "total_effect"), str(row["facts"]))
        for row in average.total_effects().to_dict(orient="records")
    ]
    return Table(("corrupted", f"clean{what}", f"corrupted{what}", f"average total effect{average.metric.remark} [95%]", "facts"), rows)


@public
def location_table(average: RoleEffects) -> Table:
    """Peak and centre layer of each side and component, and the centres' paired difference."""
    frame = locate_sides(average)
    rows: list[tuple[str, ...]] = []
    for component in average.components:
        for place in PLACES:
            by_side = frame.query("component == @component and place == @place").set_index("side")
            cells = [_peak(by_side.loc[side]) for side in SIDES] + [_centre(by_side.loc[side]) for side in (*SIDES, "difference")]
            rows.append((COMPONENT_WORDS[component], place, *cells))
    header = ("restored", "at the", "subject: peak (share of total)", "relation: peak", "subject: centre [95%]", "relation: centre", "difference")
    return Table(header, rows)


@public
def peak_table(average: RoleEffects) -> Table:
    """Where each side's average effect is largest, by component."""
    peaks = average.top(len(average.to_dataframe())).drop_duplicates(["corrupt", "component"]).to_dict(orient="records")
    rows = [(row["corrupt"], row["component"], row["role"], _where(row), _estimate(row, "effect")) for row in peaks]
    return Table(("corrupted", "restored", "largest at the", "layer", f"average effect{average.metric.remark} [95%]"), rows)


def _roles_note(metric: Metric) -> str:
    return _ROLES_NOTE.format("so much of the answer's probability returns" if metric == PROBABILITY else f"by so much {metric.of_answer()} rises")


def _estimate(row: Mapping[Any, Any], name: str) -> str:
    """An estimate with its interval, as text."""
    return f"{row[name]:.3f}{interval_text(row['low'], row['high'])}"


def _where(row: Mapping[Any, Any]) -> str:
    """The layer, and the head or neuron of components that have them."""
    unit = row.get("unit")
    return str(row["layer"]) if unit is None or pd.isna(unit) else f"{row['layer']}, {unit_word(row['component'])} {unit}"


def _peak(row: pd.Series) -> str:
    return f"layer {row['peak_layer']}: {row['peak_effect']:.2f} ({row['peak_share']:.0%})"


def _centre(row: pd.Series) -> str:
    return f"{row['centre']:.1f} [{row['low']:.1f}, {row['high']:.1f}]"


def _difference_sentence(average: RoleEffects, frame: pd.DataFrame) -> str:
    counts = [
        f"{COMPONENT_WORDS[component]} at the {place}: {int(rows['differs'].sum())} of {counted(len(rows), 'layer')}"
        for component in average.components
        for place in PLACES
        if len(rows := frame.query("component == @component and place == @place"))
    ]
    return (
        f"Layers at which the sides differ (Wilcoxon's signed-rank test, paired over "
        f"{counted(len(average.facts), 'fact')}, p < .05 after Benjamini and "
        f"Hochberg's correction for {counted(len(frame), 'comparison')}): {'; '.join(counts)}."
    )


def _intro(average: RoleEffects) -> PagePart:
    """How many facts of how many relations were traced on which model, one of them, and how many were left out."""
    relations = Counter(fact.relation for fact in average.facts)
    return markup(
        "<p>{{ a.facts | length }} facts of {{ relations }} relations, traced on {{ a.provenance.model }} with {{ samples }} noise samples each, for "
        "example: {{ example.text }}<b>{{ example.target }}</b>.{% if a.skipped %} {{ a.skipped | length }} of {{ a.given }} facts were left out "
        "(the first: {{ reason }}).{% endif %}</p>",
        a=average,
        relations=len(relations),
        samples=len(average.traces[0].corrupted_probability),
        example=average.facts[0],
        reason=next(iter(average.skipped.values()), ""),
    )
