"""Estimate the maps of relations, and try them on other facts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
from more_itertools import always_iterable

from tl_knowledge.door import public
from tl_knowledge.engine.prefix import prefix_engine
from tl_knowledge.engine.progress import progress_bar, show_progress
from tl_knowledge.engine.rows import MEMORY_BUDGET
from tl_knowledge.errors import InputError, check_given
from tl_knowledge.models.checks import check_layers
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.relations.draws import check_counts, draw_facts
from tl_knowledge.relations.estimate import check_map, mappable_layers
from tl_knowledge.relations.fit import fit_maps
from tl_knowledge.relations.scores import RelationMapScores, check_measured
from tl_knowledge.relations.settings import EXAMPLES
from tl_knowledge.relations.trials import Trial, try_maps
from tl_knowledge.results.provenance import provenance_of

__all__ = ["measure_relation_maps"]


@public
def measure_relation_maps(
    model: AnyModel,
    facts: Fact | Iterable[Fact],
    *,
    examples: int = EXAMPLES,
    layers: Sequence[int] | None = None,
    beta: float | None = None,
    rank: int | None = None,
    separator: str = ".\n",
    limit: int | None = None,
    known_only: bool = True,
    seed: int = 0,
    memory_budget: float = MEMORY_BUDGET,
    progress: bool = True,
) -> RelationMapScores:
    """Faithfulness and causality of every relation's map, at every layer (Hernandez et al. 2024, section 3.4).

    Of each relation some facts are drawn that the model knows; the map is estimated from them, and tried on the others, which are asked after
    the same examples in the same template (the most common one among the relation's facts). All layers' maps of a relation are held at once, a few
    times: ``d_model`` squared numbers each; pass ``layers=`` for a large model.

    Args:
        facts: of any number of relations.
        examples: how many facts a map is estimated from.
        layers: whose output is mapped; ``None`` is all but the last.
        beta: as in `estimate_relation`; ``None`` chooses it for each relation and layer, on the facts of the map.
        rank: the same, of the inverse.
        separator: between the statements.
        limit: how many facts of each relation a map is tried on, at most.
        known_only: estimate maps from facts that the model knows, and try them on facts whose target it says after the examples, as published.
        seed: of the draws: which facts are examples, and to which other object a fact is edited.
        memory_budget: bytes that the runs' activations may take.
        progress: show a progress bar of work that takes more than two seconds.

    Raises:
        DataError: no relation has enough facts.
        InputError: fewer than 2 examples, a limit below 1, or a beta that is not above 0.
        ComponentError: a layer that the model does not have, or a rank above its width.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> facts = tlk.datasets.of_relation(tlk.load_facts(), "P1303")
        >>> scores = tlk.relations.measure_relation_maps(model, facts, examples=5, layers=[4], limit=5, progress=False)
        >>> len(scores.table)
        5
    """
    model = as_model(model)
    given = check_given(always_iterable(facts, Fact), "fact")
    check_counts(examples, limit)
    check_map(model, beta, rank)
    at = mappable_layers(model) if layers is None else check_layers(model, layers)
    rows: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    names = list(dict.fromkeys(str(fact.relation) for fact in given))
    with show_progress(progress):
        for name in progress_bar(names, what="relations", unit="relation", progress=progress):
            some = [fact for fact in given if str(fact.relation) == name]
            try:
                drawn, rest = draw_facts(model, some, examples, separator, seed, known_only)
                fit = fit_maps(model, drawn, at, separator, memory_budget)
            except InputError as error:
                left_out[name] = str(error)
                continue
            swept, held_out = fit.strengths() if beta is None else fit.strengths([beta])
            ranks = [rank] * len(at) if rank is not None else fit.ranks(memory_budget)
            trial = Trial(fit, drawn, rest[:limit], swept, ranks, separator, seed, memory_budget)
            rows += _with_choice(name, at, trial, held_out, fit.best_layer(swept))
    check_measured(rows, left_out)
    provenance = provenance_of(
        model, engine=prefix_engine(model), seed=seed, examples=examples, beta=beta, rank=rank, separator=separator, known_only=known_only
    )
    return RelationMapScores(pd.DataFrame(rows), left_out, examples, provenance)


def _with_choice(name: str, layers: Sequence[int], trial: Trial, held_out: Sequence[float], best: int) -> list[dict[str, Any]]:
    """The trial's rows with what was chosen for their layer before them."""
    place = {layer: k for k, layer in enumerate(layers)}
    rows: list[dict[str, Any]] = []
    for row in try_maps(trial):
        k = place[row["layer"]]
        chosen = {"chosen": k == best, "beta": trial.betas[k], "rank": trial.ranks[k], "held_out": held_out[k]}
        rows.append({"relation": name, "layer": row["layer"]} | chosen | row)
    return rows
