"""Runs of the corrupted prompt with values written at some nodes, and values read at others: many in one growing batch.

A run is born where it first differs from a run that is known: the corrupted one, the clean one, or one that the caller has made known
(`known_run`). Before that it *is* that run (see `tl_knowledge.engine.rows`), and later its modules are run only where they can differ from it
(`tl_knowledge.runs.reach`). What a node would have been is read before anything is written there, so one run that restores one node and holds all
others tells what reaches each of them directly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from more_itertools import chunked

from tl_knowledge.engine.layouts import laid_out_weights, layout_room
from tl_knowledge.engine.progress import progress_bar, progress_shown
from tl_knowledge.engine.rows import budget_rows, growing_rows_refusal, row_bytes, rows_engine
from tl_knowledge.errors import NumericalError
from tl_knowledge.models.protocol import layer_count
from tl_knowledge.runs.bases import Base, Value, bases_of
from tl_knowledge.runs.contrast import Contrast
from tl_knowledge.runs.intervention_batch import Intervention, InterventionBatch
from tl_knowledge.runs.nodes import Node

__all__ = ["Intervention", "Outcomes", "Value", "intervene", "known_run", "measure_nodes"]


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What interventions gave.

    Attributes:
        score: ``[run sample]``: the contrast's metric; NaN in runs that are not scored.
        readings: ``[sample ...]`` by run and node.
        engine: ``"rows"``, or ``"loop"`` with the reason why the model refuses growing rows.
    """

    score: Float[torch.Tensor, "run sample"]
    readings: dict[tuple[int, Node], torch.Tensor]
    engine: str


def intervene(contrast: Contrast, interventions: Sequence[Intervention], memory_budget: float, known: Iterable[Base] = ()) -> Outcomes:
    """Run all interventions, as many at a time as the memory budget (bytes) allows; one after the other where rows cannot grow.

    A progress bar is shown where the caller further up lets it (`show_progress`).

    Args:
        known: runs, besides the clean and the corrupted one, that those which hold all that is held there may be copies of up to some layer.

    Raises:
        NumericalError: a score that is not finite.
    """
    model, samples = contrast.model, contrast.samples
    refusal = growing_rows_refusal(model)
    scores = contrast.corrupted_score.new_full((len(interventions), samples), float("nan"))
    readings: dict[tuple[int, Node], torch.Tensor] = {}
    length, answers = contrast.tokens.shape[1], len(contrast.answer_positions)
    fitting = budget_rows(model, length, answers, memory_budget - layout_room(model, memory_budget))
    size = 1 if refusal else max(1, fitting // samples)
    bases = [*bases_of(contrast), *known]
    started = {k: _start(one, bases, layer_count(model)) for k, one in enumerate(interventions)}
    bar = progress_bar(what="interventions", unit="run", progress=progress_shown(), total=len(started), leave=False)
    left = memory_budget - size * samples * row_bytes(model, length, answers)
    with bar, laid_out_weights(model, left if len(started) > size else 0.0):  # one forward copies as much by itself
        for scored in (False, True):
            order = sorted((k for k in started if interventions[k].scored == scored), key=lambda k: started[k][1])
            for chunk in chunked(order, size):
                batch = InterventionBatch(contrast, {k: interventions[k] for k in chunk}, started, readings)
                given = batch.run_whole() if refusal else batch.run()
                if given is not None:
                    scores[chunk] = given
                bar.update(len(chunk))
    if not bool(scores[[k for k in started if interventions[k].scored]].isfinite().all()):
        raise NumericalError("path interventions gave a score that is not finite; load the model in float32, or lower the noise.")
    return Outcomes(scores, readings, rows_engine(model))


def known_run(contrast: Contrast, one: Intervention, memory_budget: float) -> tuple[Outcomes, list[Base]]:
    """One run, and itself as what others are copies of; none where rows cannot grow."""
    if growing_rows_refusal(contrast.model):
        return intervene(contrast, [one], memory_budget), []
    readings: dict[tuple[int, Node], torch.Tensor] = {}
    batch = InterventionBatch(contrast, {0: one}, {0: _start(one, bases_of(contrast), layer_count(contrast.model))}, readings)
    recorded = batch.recording()
    score = batch.run()
    assert score is not None
    if not bool(score.isfinite().all()):
        raise NumericalError("a path intervention gave a score that is not finite; load the model in float32, or lower the noise.")
    values: dict[Node, Value] = {node: value for (_, node), value in readings.items()}
    return Outcomes(score, readings, rows_engine(contrast.model)), [Base(recorded, one.writes, values=values)]


def measure_nodes(contrast: Contrast, nodes: Sequence[Node], memory_budget: float) -> Float[torch.Tensor, "node sample"]:
    """Each node's effect, in the contrast's metric."""
    runs = [Intervention({node: "clean"}) for node in nodes]
    return intervene(contrast, runs, memory_budget).score - contrast.corrupted_score


def _start(one: Intervention, bases: Sequence[Base], n_layers: int) -> tuple[Base, int]:
    """The known run that an intervention is a copy of for longest, and the last layer whose output it shares with it."""
    able = [base for base in bases if base.carries(one.writes, one.reads)]
    born = [base.born_at(one.writes, one.reads, n_layers) for base in able]
    return able[born.index(max(born))], max(born)
