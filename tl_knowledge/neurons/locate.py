"""Locate the neurons of many facts, or of any groups of prompts that should share theirs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from more_itertools import always_iterable, chunked, constrained_batches

from tl_knowledge.door import public
from tl_knowledge.engine.prefix import prefix_engine
from tl_knowledge.engine.progress import progress_bar
from tl_knowledge.engine.rows import MEMORY_BUDGET
from tl_knowledge.errors import DataError, check_choice, check_given
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.neurons.attribution import attribute_neurons
from tl_knowledge.neurons.groups import PromptGroup, fact_groups
from tl_knowledge.neurons.located import LocatedNeurons
from tl_knowledge.neurons.neuron_set import NeuronSet
from tl_knowledge.neurons.result import NeuronAttribution
from tl_knowledge.neurons.selection import CoarseCounts, adapted_sharing, coarse_neurons
from tl_knowledge.neurons.settings import Adaptation, AttributionSettings, AttributionVariant, LocationSettings, ThresholdKind
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.results.packing import plain
from tl_knowledge.results.provenance import Provenance, provenance_of
from tl_knowledge.results.run_folder import RunFolder
from tl_knowledge.runs.metric import Against, AnyMetric
from tl_knowledge.runs.metric_arguments import resolve_metric
from tl_knowledge.runs.parts import Runner, run_parts

__all__ = ["as_groups", "attributed_groups", "locate_neurons"]

PROMPTS_AT_ONCE = 64
GROUPS_PER_PART = 100


@public
def locate_neurons(
    model: AnyModel,
    groups: Fact | PromptGroup | Iterable[Fact] | Iterable[PromptGroup],
    *,
    threshold: float = 0.2,
    kind: ThresholdKind = "max",
    shared_by: float = 0.5,
    adapt: Adaptation = "no",
    mean_count: tuple[float, float] = (2.0, 5.0),
    variant: AttributionVariant = "ours",
    at: str = "last",
    steps: int = 20,
    multi_token: bool = False,
    metric: AnyMetric = "probability",
    against: Against = None,
    memory_budget: float = MEMORY_BUDGET,
    store: str | os.PathLike[str] | None = None,
    runner: Runner = "local",
    workers: int = 2,
    progress: bool = True,
) -> LocatedNeurons:
    """Attribute every group's prompts and keep the neurons that they share.

    Args:
        groups: facts (their own wording and paraphrases are a group), or groups of prompts.
        threshold, kind, shared_by: as `select_neurons`.
        adapt: whether ``shared_by`` moves by 0.05 until the count lies in ``mean_count``.
        variant: whose attribution (as `attribute_neurons`) and whose refinement (as `select_neurons`).
        at, steps, multi_token, metric, against, memory_budget: as `attribute_neurons`; a function's run cannot be stored.
        store: a folder; a run that was killed goes on from it, a hundred groups at a time, also with another ``shared_by`` or ``adapt``.
        runner, workers: ``"ray"`` shares the groups out among Ray actors with one model each; pass the model's name then.

    Raises:
        DataError: no group, a fact without paraphrases, or a folder of another run.
        InputError: as `attribute_neurons` and `select_neurons`.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> located = tlk.locate_neurons(model, tlk.load_facts()[:4], steps=5, progress=False)
        >>> len(located.sets), list(located.statistics().columns[:4])
        (4, ['relation', 'groups', 'prompts', 'KN'])
    """
    source, model = model, as_model(model, masked=True, encoder_decoder=True)
    measured = resolve_metric(model, metric, against, multi_token=multi_token)
    measured.check_storable(store)
    scoring = AttributionSettings(variant=variant, at=at, steps=steps, multi_token=multi_token, metric=measured)
    settings = LocationSettings(scoring, threshold, kind, shared_by, adapt, (mean_count[0], mean_count[1]))
    members = as_groups(model, groups)
    run = _Run(model, settings, provenance_of(model, engine=prefix_engine(model), has_bos=members[0].prompts[0].has_bos, settings=settings))
    check_choice("runner", runner, Runner)
    parts = list(chunked(members, GROUPS_PER_PART))
    total = sum(len(group.prompts) for group in members)
    with ExitStack() as stack:
        bar = stack.enter_context(progress_bar(what="locate neurons", unit="prompt", total=total, progress=progress))
        folder = None if store is None else stack.enter_context(closing(RunFolder(store, run.key(members), "locate_neurons()")))
        there = {} if folder is None else _finished(folder, parts)
        bar.update(sum(len(group.prompts) for number in there for group in parts[number]))

        def finished(number: int, part: LocatedNeurons) -> None:
            there[number] = part
            if folder is not None:
                part.save(folder.part(number))
            if runner == "ray":
                bar.update(sum(len(group.prompts) for group in parts[number]))

        job = _LocationJob(settings, run.provenance, memory_budget, bar.update if runner == "local" else _nothing)
        missing = {number: part for number, part in enumerate(parts) if number not in there}
        run_parts(source if runner == "ray" else model, job, missing, finished, runner=runner, workers=workers)
    located = [there[number] for number in range(len(parts))]
    coarse = tuple(counts for part in located for counts in part.coarse)
    return run.refined(pd.concat([part.table for part in located], ignore_index=True), coarse)


def _nothing(count: int) -> None:
    """Another process has no bar to move."""


@dataclass(frozen=True)
class _LocationJob:
    """What is done to every part of the groups, in this process or another."""

    settings: LocationSettings
    provenance: Provenance
    memory_budget: float
    advance: Callable[[int], object]
    accepts: Mapping[str, bool] = field(default_factory=lambda: {"masked": True, "encoder_decoder": True})

    def on(self, model: HookedModel) -> Callable[[Sequence[PromptGroup]], LocatedNeurons]:
        """What locates the neurons of some groups."""
        run = _Run(model, self.settings, self.provenance)
        return lambda groups: run.located(groups, self.memory_budget, self.advance)


@dataclass(frozen=True)
class _Run:
    """One location: scores groups, and refines what all of them have."""

    model: HookedModel
    settings: LocationSettings
    provenance: Provenance

    def key(self, groups: Sequence[PromptGroup]) -> dict[str, Any]:
        """What decides the coarse sets, as a `RunFolder` keeps it; with another share or adaptation the stored run goes on."""
        at = self.settings.attribution.at
        prompts = [[(p.tokens.tolist(), p.answer, p.span(at).last, p.last.last) for p in group.prompts] for group in groups]
        asked = [[group.relation, group.name, some] for group, some in zip(groups, prompts, strict=True)]
        settings = plain(self.settings)
        return {
            "groups": hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16],
            "weights": self.provenance.weights,
            "settings": settings["attribution"] | {name: settings[name] for name in ("threshold", "kind")},
        }

    def located(self, groups: Sequence[PromptGroup], memory_budget: float, advance: Callable[[int], object]) -> LocatedNeurons:
        """Some of the groups, scored, and refined by themselves."""
        rows: list[dict[str, object]] = []
        coarse: list[CoarseCounts] = []
        settings = self.settings
        for group, scores in attributed_groups(self.model, groups, settings.attribution, memory_budget):
            sets = coarse_neurons(scores, threshold=settings.threshold, kind=settings.kind)
            coarse.append(CoarseCounts.of(sets))
            rows.append(_row(group, scores))
            advance(len(group.prompts))
        return self.refined(pd.DataFrame(rows), tuple(coarse))

    def refined(self, table: pd.DataFrame, coarse: tuple[CoarseCounts, ...]) -> LocatedNeurons:
        """Each group's refined neurons, and the share they were refined with; anew where the table has them already."""
        sets, shares = _refined(list(table["relation"]), coarse, self.settings)
        table = table.drop(columns=["neurons", "share"], errors="ignore")
        table.insert(3, "neurons", [len(neurons) for neurons in sets])
        table.insert(4, "share", shares)
        return LocatedNeurons(table, tuple(sets), self.settings, self.provenance, coarse)


def _finished(folder: RunFolder, parts: Sequence[Sequence[PromptGroup]]) -> dict[int, LocatedNeurons]:
    """The parts that are there, read before anything is computed.

    Raises:
        DataError: a damaged part, or one that has other groups than its place in the run.
    """
    found: dict[int, LocatedNeurons] = {}
    for number in folder.finished():
        part = LocatedNeurons.load(folder.part(number))
        groups = parts[number] if number < len(parts) else ()
        there = list(zip(part.table["relation"], part.table["name"], part.table["prompts"], strict=True))
        if there != [(group.relation, group.name, len(group.prompts)) for group in groups]:
            raise DataError(f"{str(folder.part(number))!r} has other groups than its place in the run; delete it to have it computed again.")
        found[number] = part
    return found


def as_groups(model: HookedModel, groups: Fact | PromptGroup | Iterable[Fact] | Iterable[PromptGroup]) -> list[PromptGroup]:
    """Groups as they are, and a group for each fact.

    Raises:
        DataError: nothing was given, or a fact without paraphrases.
    """
    given = check_given(always_iterable(groups, (Fact, PromptGroup)), "fact or group")
    return [group for each in given for group in (fact_groups(model, each) if isinstance(each, Fact) else [each])]


def attributed_groups(
    model: HookedModel, groups: Sequence[PromptGroup], scoring: AttributionSettings, memory_budget: float
) -> Iterator[tuple[PromptGroup, NeuronAttribution]]:
    """Every group with its scores; some groups a forward, so that short prompts fill it and all scores are never held together."""
    for bundle in constrained_batches(groups, PROMPTS_AT_ONCE, get_len=lambda group: len(group.prompts), strict=False):
        prompts = [prompt for group in bundle for prompt in group.prompts]
        together = attribute_neurons(
            model,
            prompts,
            variant=scoring.variant,
            at=scoring.at,
            steps=scoring.steps,
            multi_token=scoring.multi_token,
            metric=scoring.metric,
            memory_budget=memory_budget,
            progress=False,
        )
        first = 0
        for group in bundle:
            yield group, together.of_prompts(range(first, first + len(group.prompts)))
            first += len(group.prompts)


def _row(group: PromptGroup, scores: NeuronAttribution) -> dict[str, object]:
    probability = float(scores.clean_probability.double().mean())
    return {
        "relation": group.relation,
        "name": group.name,
        "prompts": len(group.prompts),
        "r1_squared": scores.r1_squared,
        "probability": probability,
    }


def _refined(relations: Sequence[str], coarse: Sequence[CoarseCounts], settings: LocationSettings) -> tuple[list[NeuronSet], list[float]]:
    """Each group's refined neurons and the share they were refined with."""
    adapt, mean_count = settings.adapt, None if settings.adapt == "no" else settings.mean_count
    keys = [i if adapt == "group" else relations[i] if adapt == "relation" else None for i in range(len(relations))]
    by_key: dict[object, list[int]] = {}
    for i, key in enumerate(keys):
        by_key.setdefault(key, []).append(i)
    sets: dict[int, NeuronSet] = {}
    shares: dict[int, float] = {}
    for members in by_key.values():
        refined, share = adapted_sharing([coarse[i] for i in members], settings.shared_by, mean_count, settings.attribution.variant)
        sets |= dict(zip(members, refined, strict=True))
        shares |= dict.fromkeys(members, share)
    return [sets[i] for i in range(len(keys))], [shares[i] for i in range(len(keys))]
