"""One circuit for a set of facts, in one run that can be killed and go on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from more_itertools import always_iterable, chunked

from tl_knowledge.circuits.assemble import LADDER
from tl_knowledge.circuits.sets.circuit import FactSetCircuit
from tl_knowledge.circuits.sets.findings import rank_nodes
from tl_knowledge.circuits.sets.jobs import NeedJob, ShareJob
from tl_knowledge.circuits.sets.measure import Places, role_values
from tl_knowledge.circuits.sets.parts import Chunk, NeedPart, SharePart, read_part, run_key
from tl_knowledge.circuits.sets.settings import FactSetSettings, RoleNode
from tl_knowledge.circuits.settings import Rank
from tl_knowledge.door import public
from tl_knowledge.engine.progress import progress_bar
from tl_knowledge.engine.rows import MEMORY_BUDGET, rows_engine
from tl_knowledge.errors import ComponentError, DataError, InputError, check_choice, check_given
from tl_knowledge.models.checks import check_has
from tl_knowledge.models.description import weight_fingerprint
from tl_knowledge.models.hook_names import NodeComponent
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.results.provenance import provenance_of
from tl_knowledge.results.run_folder import RunFolder
from tl_knowledge.runs.arguments import drawn_noise
from tl_knowledge.runs.corruption import Noise
from tl_knowledge.runs.metric import Against, AnyMetric
from tl_knowledge.runs.metric_arguments import resolve_metric
from tl_knowledge.runs.parts import PartJob, Runner, run_parts
from tl_knowledge.runs.roles import Side
from tl_knowledge.wording import counted

__all__ = ["from_facts"]

FACTS_PER_PART = 16
ABOUT_FACTS = ["index", "subject", "template", "target", "relation", "clean_probability", "corrupted_probability", "total_effect"]


@public
def from_facts(
    model: AnyModel,
    facts: Fact | Iterable[Fact],
    noise: Noise | float | str | None = None,
    *,
    corrupt: Side = "subject",
    components: NodeComponent | Sequence[NodeComponent] = ("mlp_out", "attn_out"),
    limit: int = 20,
    rank: Rank = "need",
    metric: AnyMetric = "probability",
    against: Against = None,
    samples: int = 10,
    seed: int = 0,
    known_only: bool = True,
    store: str | os.PathLike[str] | None = None,
    runner: Runner = "local",
    workers: int = 2,
    facts_per_part: int = FACTS_PER_PART,
    memory_budget: float = MEMORY_BUDGET,
    progress: bool = True,
) -> FactSetCircuit:
    """One circuit for all facts of a set, whose nodes are a component, a layer and a token's role; every fact is measured on it.

    Args:
        model: a model, or its name or directory.
        facts: what the circuit is for. Those that cannot be asked, that the model does not know, or that corruption leaves as they are, are left
            out; the result's ``skipped`` says why.
        noise: how embeddings are corrupted, as in `trace_facts`.
        corrupt: ``"subject"`` or ``"relation"``; the nodes' roles are those of this side (`tl_knowledge.runs.roles`).
        components: what can be a node: ``"mlp_out"`` and ``"attn_out"``, or ``"resid_post"`` alone.
        limit: how many nodes, at most; what the first 1, 2, 5, ... explain is measured, too.
        rank: by the mean over facts of what is lost without a site (``"need"``), of what it restores alone (``"effect"``), or by the larger of
            both (``"either"``). The tokens of a role add up; nodes that are not above 0 stay out, because they argue against the answers.
        metric: what effects are measured in, as in `tl_knowledge.trace`; a function's run cannot be stored. Facts in which the corruption raises
            another metric than the probability are left out: shares of their total effect would have the wrong sign.
        against: the other answer or answers of a logit difference, the same for all facts; a fact whose answer is one of them is left out.
        samples: noise draws a fact.
        seed: of the set, where the noise has none of its own; each fact's noise comes from it and the fact's text.
        known_only: leave out facts whose target is not what the clean run predicts.
        store: a folder for finished parts; a run that was stopped goes on from there, and ends with the same bytes.
        runner, workers: ``"ray"`` shares the facts out among Ray actors with one model each; pass the model's name then. Ray that runs already is
            used for both passes over the facts; else each pass starts it.
        facts_per_part: facts that are computed and stored together.
        memory_budget: bytes that the runs' activations may take.
        progress: show a progress bar with rate and time left.

    Raises:
        DataError: no fact, none that could be measured, or a store of another run.
        ModelError, ComponentError, CorruptionError: an argument that does not fit.
        NumericalError: probabilities that are not finite.

    Example:
        >>> import tl_knowledge as tlk
        >>> circuit = tlk.circuits.from_facts("factlm", tlk.load_facts("factlm")[:4], samples=2, limit=5, progress=False)
        >>> len(circuit.nodes), circuit.nodes[0].name
        (5, 'MLP 2 at the last subject token')
    """
    source, model = model, as_model(model)
    check_choice("runner", runner, Runner)
    given = check_given(always_iterable(facts, Fact), "fact")
    if facts_per_part < 1:
        raise InputError(f"facts_per_part={facts_per_part} makes no part; pass at least 1.")
    drawn = drawn_noise(noise).seeded(seed)
    parts = tuple(dict.fromkeys(always_iterable(components)))
    scaled = drawn.with_seed(None).resolve(model)
    measured = resolve_metric(model, metric, against)
    measured.check_storable(store)
    settings = FactSetSettings(corrupt, parts, limit, rank, measured, scaled, samples, drawn.seed or 0, known_only)
    check_has(model, settings.components)
    chunks = [list(chunk) for chunk in chunked(enumerate(given), facts_per_part)]
    with ExitStack() as stack:
        key = run_key(model, given, facts_per_part, settings)
        folder = None if store is None else stack.enter_context(closing(RunFolder(store, key, "from_facts()")))
        execution = _Execution(source if runner == "ray" else model, runner, workers, memory_budget, progress)
        return _Run(model, settings, chunks, folder, execution).compute()


@dataclass(frozen=True, eq=False)
class _Execution:
    """Who computes, and with what."""

    source: AnyModel
    runner: Runner
    workers: int
    memory_budget: float
    progress: bool


@dataclass(frozen=True, eq=False)
class _Run:
    """One call of `from_facts`: a part of needs for each chunk of facts, then a part of shares for each."""

    model: HookedModel
    settings: FactSetSettings
    chunks: Sequence[Chunk]
    folder: RunFolder | None
    execution: _Execution

    def compute(self) -> FactSetCircuit:
        """The whole."""
        weights = weight_fingerprint(self.model)
        finished = set[int]() if self.folder is None else set(self.folder.finished())
        if finished and max(finished) >= 2 * len(self.chunks):
            raise DataError(f"the store holds part {max(finished)}, which a run of {2 * len(self.chunks)} parts does not have; take it out.")
        needs = self._needs(finished, weights)
        rows = [row for part in needs for row in part.rows]
        skipped = {index: reason for part in needs for index, reason in part.skipped.items()}
        if not rows:
            reason = next(iter(skipped.values()))
            raise DataError(f"none of the {counted(len(skipped), 'fact')} could be measured (the first: {reason}); pass facts that the model knows.")
        places = {int(row["index"]): _places(row) for row in rows}
        need, effect = (self._by_role(rows, places, name) for name in ("need", "effect"))
        nodes = rank_nodes(need, effect, self.settings)
        if not nodes:
            raise ComponentError(f"no site has a {self.settings.rank} above 0 on average; pass other components, or other facts.")
        return FactSetCircuit(
            nodes=nodes,
            need=need,
            effect=effect,
            facts=pd.DataFrame([{name: row[name] for name in ABOUT_FACTS} for row in rows]),
            places=tuple(places.values()),
            growth=pd.concat([part.table for part in self._shares(finished, weights, nodes, places) if len(part.table)], ignore_index=True),
            given=sum(map(len, self.chunks)),
            skipped=skipped,
            settings=self.settings,
            provenance=provenance_of(self.model, engine=rows_engine(self.model), seed=self.settings.seed, settings=self.settings),
        )

    def _needs(self, finished: set[int], weights: str) -> list[NeedPart]:
        """The first kind of part, of every chunk."""
        chunks = dict(enumerate(self.chunks))
        job = NeedJob(self.settings, weights, self.execution.memory_budget)
        return self._parts(
            "what each fact needs", job, chunks, finished, lambda folder, n: read_part(folder, n, NeedPart, chunks[n], self.settings, weights)
        )

    def _shares(self, finished: set[int], weights: str, nodes: tuple[RoleNode, ...], places: dict[int, Places]) -> list[SharePart]:
        """The second kind of part, of every chunk."""
        steps = [count for count in LADDER if count < len(nodes)] + [len(nodes)]
        job = ShareJob(self.settings, weights, self.execution.memory_budget, nodes, steps, places)
        chunks = {n: [(index, fact) for index, fact in chunk if index in places] for n, chunk in enumerate(self.chunks, start=len(self.chunks))}

        def stored(folder: RunFolder, number: int) -> SharePart:
            return read_part(folder, number, SharePart, [index for index, _ in chunks[number]], nodes, self.settings, weights)

        return self._parts("what the circuit explains", job, chunks, finished, stored)

    def _parts(
        self, what: str, job: PartJob[Any, Any], chunks: Mapping[int, Chunk], finished: set[int], stored: Callable[[RunFolder, int], Any]
    ) -> list[Any]:
        """A part of every chunk: what the folder has is read, the rest computed and put into it."""
        run, folder = self.execution, self.folder
        there = {} if folder is None else {number: stored(folder, number) for number in chunks if number in finished}
        with progress_bar(what=what, unit="fact", progress=run.progress, total=sum(map(len, chunks.values()))) as bar:
            bar.update(sum(len(chunks[number]) for number in there))

            def keep(number: int, part: Any) -> None:
                if folder is not None:
                    part.save(folder.part(number))
                there[number] = part
                bar.update(len(chunks[number]))

            missing = {number: chunk for number, chunk in chunks.items() if number not in there}
            run_parts(run.source, job, missing, keep, runner=run.runner, workers=run.workers)
        return [there[number] for number in chunks]

    def _by_role(self, rows: Sequence[dict[str, Any]], places: dict[int, Places], name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        """``[fact component layer role]``; NaN for what was not measured."""
        count = len(self.settings.components)
        if name == "effect" and self.settings.rank == "need":
            return np.full_like(self._by_role(rows, places, "need"), np.nan)
        return np.stack([role_values(row[name], places[int(row["index"])], count) for row in rows])


def _places(row: dict[str, Any]) -> Places:
    return Places(tuple(map(int, row["subject_positions"])), tuple(map(int, row["relation_positions"])), int(row["length"]))
