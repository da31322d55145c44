"""The neurons of a fact set on one page: how many, where, how far shared, and what scaling them does."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tl_knowledge.door import public
from tl_knowledge.drawing import PagePart, Table, heading, html_page, note, provenance_footer
from tl_knowledge.neurons.effects import NeuronEffects
from tl_knowledge.neurons.located import LocatedNeurons
from tl_knowledge.neurons.words import place_words
from tl_knowledge.results.statistics import interval_text
from tl_knowledge.wording import counted, relation_words

__all__ = ["effects_table", "neurons_page", "statistics_table"]


@public
def neurons_page(located: LocatedNeurons, effects: Sequence[NeuronEffects] = ()) -> str:
    """A self-contained page of located neurons, and of what scaling them does."""
    parts: list[PagePart] = [_intro(located), heading("How many, and how alike"), note(_STATISTICS), statistics_table(located)]
    parts += [heading("Where they are"), located.plot()]
    if len(located.relations) > 1:
        parts += [heading("How far they are shared"), located.plot_overlap()]
    if effects:
        parts += [heading("What scaling them does"), note(_EFFECTS), effects_table(effects), *(measured.plot() for measured in effects)]
    return html_page("Knowledge neurons", [*parts, provenance_footer(located.provenance)])


@public
def statistics_table(located: LocatedNeurons) -> Table:
    """`LocatedNeurons.statistics` as text."""
    frame = located.statistics()
    rows = [
        (
            relation_words(row["relation"]),
            str(row["groups"]),
            f"{row['KN']:.1f}{interval_text(row['KN_low'], row['KN_high'], '.1f')}",
            f"{row['tau']:.2f}",
            f"{row['R1^2']:.2f}{interval_text(row['R1^2_low'], row['R1^2_high'], '.2f')}",
        )
        for row in frame.to_dict(orient="records")
    ]
    return Table(("relation", "facts", "|KN| [95%]", "tau", "R1^2 [95%]"), rows)


@public
def effects_table(effects: Sequence[NeuronEffects]) -> Table:
    """`NeuronEffects.summary` of every factor as text; without p for fewer facts than a test needs."""
    rows: list[tuple[str, ...]] = []
    for measured in effects:
        for row in measured.summary().to_dict(orient="records"):
            p = "" if math.isnan(row["p_own_differs"]) else f"{row['p_own_differs']:.2g}"
            change = f"{row['change']:+.2%}{interval_text(row['low'], row['high'], '+.2%')}"
            rows.append((f"x {measured.factor:g}", row["what"], change, str(row["facts"]), p))
    return Table(("neurons", "measured", "change of P(answer) [95%]", "facts", "p: own fact differs"), rows)


_STATISTICS = (
    "|KN|: refined neurons a fact; tau: the share of a fact's prompts that must have a neuron; R1^2: how much of the prompts' "
    "scores is one common pattern (0 none, 1 all). Means over facts with 95% bootstrap intervals."
)
_EFFECTS = (
    "Each fact's neurons are scaled where they were attributed. Own fact: the fact in a wording that was not attributed. "
    "Random control: as many other neurons of the same layers. Unrelated facts: facts of other relations. p: Wilcoxon, paired over "
    "facts, corrected."
)


def _intro(located: LocatedNeurons) -> str:
    settings, scoring = located.settings, located.settings.attribution
    empty = sum(not len(neurons) for neurons in located.sets)
    without = f", {empty} of them without neurons" if empty else ""
    return (
        f"{counted(len(located.sets), 'fact')} of {counted(len(located.relations), 'relation')}{without}. Integrated "
        f"gradients at {place_words(scoring.at)} "
        f"({scoring.variant}, {counted(scoring.steps, 'step')}){scoring.metric.remark}; "
        f"neurons above {settings.threshold:g} ({settings.kind}) in more than "
        f"{settings.shared_by:g} of a fact's prompts."
    )
