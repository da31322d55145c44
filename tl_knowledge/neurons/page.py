"""The neurons of a fact set on one page: how many, where, how far shared, and what scaling them does."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import plotly.graph_objects as go

from tl_knowledge.drawing import Table, html_page
from tl_knowledge.neurons.effects import NeuronEffects
from tl_knowledge.neurons.located import LocatedNeurons
from tl_knowledge.neurons.words import place_words

__all__ = ["effects_table", "neurons_page", "statistics_table"]


def neurons_page(located: LocatedNeurons, effects: Sequence[NeuronEffects] = ()) -> str:
    """A self-contained page of located neurons, and of what scaling them does."""
    parts: list[str | Table | go.Figure] = [_intro(located), "<h2>How many, and how alike</h2>", _STATISTICS, statistics_table(located)]
    parts += ["<h2>Where they are</h2>", located.plot()]
    if len(located.relations) > 1:
        parts += ["<h2>How far they are shared</h2>", located.plot_overlap()]
    if effects:
        parts += ["<h2>What scaling them does</h2>", _EFFECTS, effects_table(effects), *(found.plot() for found in effects)]
    made = located.provenance
    versions = ", ".join(f"{name} {number}" for name, number in made.versions.items())
    footer = f"<footer>{html.escape(made.model)}, {made.backend}, {made.dtype}; {html.escape(versions)}</footer>"
    return html_page("Knowledge neurons", [*parts, footer])


def statistics_table(located: LocatedNeurons) -> Table:
    """`LocatedNeurons.statistics` as text."""
    frame = located.statistics()
    rows = [
        (
            str(row["relation"]),
            str(row["groups"]),
            f"{row['KN']:.1f}{_interval(row['KN_low'], row['KN_high'], '.1f')}",
            f"{row['tau']:.2f}",
            f"{row['R1^2']:.2f}{_interval(row['R1^2_low'], row['R1^2_high'], '.2f')}",
        )
        for row in frame.to_dict(orient="records")
    ]
    return Table(("relation", "facts", "|KN| [95%]", "tau", "R1^2 [95%]"), rows)


def effects_table(effects: Sequence[NeuronEffects]) -> Table:
    """`NeuronEffects.summary` of every factor as text; without p for fewer facts than a test needs."""
    rows: list[tuple[str, ...]] = []
    for found in effects:
        for row in found.summary().to_dict(orient="records"):
            p = "" if math.isnan(row["p_own_differs"]) else f"{row['p_own_differs']:.2g}"
            change = f"{row['change']:+.2%}{_interval(row['low'], row['high'], '+.2%')}"
            rows.append((f"x {found.factor:g}", row["what"], change, str(row["facts"]), p))
    return Table(("neurons", "measured", "change of P(answer) [95%]", "facts", "p: own fact differs"), rows)


def _interval(low: float, high: float, form: str) -> str:
    return "" if math.isnan(low) else f" [{low:{form}}, {high:{form}}]"


_STATISTICS = (
    "<p class='note'>|KN|: refined neurons a fact; tau: the share of a fact's prompts that must have a neuron; R1^2: how much of the prompts' "
    "scores is one common pattern (0 none, 1 all). Means over facts with 95% bootstrap intervals.</p>"
)
_EFFECTS = (
    "<p class='note'>Each fact's neurons are scaled where they were attributed. Own fact: the fact in a wording that was not attributed. "
    "Random control: as many other neurons of the same layers. Unrelated facts: facts of other relations. p: Wilcoxon, paired over "
    "facts, corrected.</p>"
)


def _intro(located: LocatedNeurons) -> str:
    settings, scoring = located.settings, located.settings.attribution
    empty = sum(not len(neurons) for neurons in located.sets)
    without = f", {empty} of them without neurons" if empty else ""
    place = html.escape(place_words(scoring.at))
    return (
        f"<p>{len(located.sets)} facts of {len(located.relations)} relations{without}. Integrated gradients at {place} ({scoring.variant}, "
        f"{scoring.steps} steps); neurons above {settings.threshold:g} ({settings.kind}) in more than {settings.shared_by:g} of a "
        "fact's prompts.</p>"
    )
