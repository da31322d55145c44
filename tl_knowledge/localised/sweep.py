"""Does localisation inform editing (Hase et al. 2023)? Edit every layer, trace every layer, and regress one on the other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from more_itertools import always_iterable

from tl_knowledge.arrays import FloatArray
from tl_knowledge.door import public
from tl_knowledge.editing import FineTune, KeyMoments, Objective, PlannedEdit, plan_edit
from tl_knowledge.engine.progress import progress_bar
from tl_knowledge.engine.rows import rows_engine
from tl_knowledge.errors import ComponentError, DataError, InputError, TargetError, check_choice, check_given
from tl_knowledge.localised.layer_sweep import LayerSweep
from tl_knowledge.localised.problems import EditingProblem, editing_problem
from tl_knowledge.localised.success import CaseReader
from tl_knowledge.localised.sweep_settings import OUTCOMES, SweepSettings, SweepVariant
from tl_knowledge.models.checks import check_layers
from tl_knowledge.models.description import weight_fingerprint
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel, layer_count, prepends_bos
from tl_knowledge.prompts.facts import EditCase, Fact, case_values
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.results.digest import digest, values_of
from tl_knowledge.results.packing import plain
from tl_knowledge.results.provenance import Provenance, provenance_of
from tl_knowledge.results.run_folder import RunFolder
from tl_knowledge.runs.arguments import drawn_noise
from tl_knowledge.runs.corruption import Noise
from tl_knowledge.runs.edits import EditPlanner
from tl_knowledge.runs.metric import PROBABILITY, Against, AnyMetric
from tl_knowledge.runs.metric_arguments import resolve_metric
from tl_knowledge.runs.parts import Runner, run_parts
from tl_knowledge.runs.windows import window_layers
from tl_knowledge.tracing import trace

__all__ = ["layers_around", "sweep_layers"]

MethodAt = Callable[[int, Objective], EditPlanner[PlannedEdit]]

COLUMNS = ("case_id", "layer", *OUTCOMES.values(), "tracing_effect", "fraction_restored")
MOST_EFFECT = 1.0


@public
def layers_around(model: AnyModel, layer: int, *, window: int = 5) -> tuple[int, ...]:
    """The layers that are edited together around a layer, cut off at the model's ends, as Hase et al. edit five.

    Raises:
        ComponentError: no such layer, or a window smaller than 1.

    Example:
        >>> import tl_knowledge as tlk
        >>> tlk.localised.layers_around("factlm", 4), tlk.localised.layers_around("factlm", 1)
        ((2, 3, 4, 5, 6), (0, 1, 2, 3))
    """
    model = as_model(model)
    check_layers(model, [layer])
    if window < 1:
        raise ComponentError(f"window={window} holds no layer; pass at least 1.")
    first, last = window_layers(layer, window, layer_count(model), "meng2022_code")
    return tuple(range(first, last + 1))


@public
def sweep_layers(
    model: AnyModel,
    cases: EditCase | Iterable[EditCase],
    method_at: MethodAt,
    *,
    problem: EditingProblem = "error_injection",
    moments: KeyMoments | None = None,
    noise: Noise | float | str | None = None,
    samples: int = 10,
    window: int = 5,
    layers: int | Iterable[int] | None = None,
    seed: int = 0,
    variant: SweepVariant = "ours",
    metric: AnyMetric = "probability",
    against: Against = None,
    store: str | os.PathLike[str] | None = None,
    runner: Runner = "local",
    workers: int = 2,
    progress: bool = True,
) -> LayerSweep:
    """Edit each case in each layer, and trace it.

    A layer's tracing effect is the largest normalised indirect effect of its MLP over the tokens, ``(p_restored - p_corrupted) / (p_clean -
    p_corrupted)``, clipped to [0, 1] (``fraction_restored``: at least 0). A score is the part of the way that the target's probability went:
    ``(p' - p) / (1 - p)``, for erasure ``(p - p') / p``; under forcing both are read on the corrupted prompts. `hase_scores` has the others.
    Probabilities are of the whole target, the product over its tokens.

    Args:
        method_at: the method for a layer and objective: ``lambda layer, objective: ROME(layer=layer, objective=objective)``, or one of several
            layers, ``lambda layer, objective: MEMIT(layers=layers_around(model, layer), objective=objective)``.
        problem: which of the five.
        noise, samples: of the corruption.
        window: layers restored together (Hase et al. 2023: 5).
        seed: of noise that has no seed of its own.
        variant: ``"ours"``, or ``"hase2023"`` for the program's objectives, noise, tracing effects and scores.
        metric, against: what tracing effects are measured in, as in `tl_knowledge.trace`: the share that comes back of the probability or its
            logarithm is of the whole target, of every other metric of its first token. Editing scores are of probabilities.
        store: a folder; a sweep that was killed goes on from it, a case at a time.
        runner, workers: ``"ray"`` shares the cases out among Ray actors with one model each; pass the model's name then.

    Raises:
        DataError: no case, none that the problem and the tracing apply to, or a folder of another sweep.
        InputError: an unknown problem or variant, a metric that is not the program's or cannot be stored, or what the method refuses.
        CorruptionError: what is no noise, or belongs to one prompt.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> moments = tlk.collect_key_moments(model, tlk.load_corpus(), layers=[2, 6], progress=False)
        >>> rome = lambda layer, objective: tlk.ROME(layer=layer, objective=objective, contexts=())
        >>> sweep = tlk.localised.sweep_layers(model, tlk.load_edit_cases()[:3], rome, moments=moments, layers=[2, 6], progress=False)
        >>> list(sweep.table.columns)
        ['case_id', 'layer', 'score', 'paraphrase', 'neighbourhood', 'overall', 'tracing_effect', 'fraction_restored']
        >>> len(sweep.table)
        6
    """
    source, model = model, as_model(model)
    check_choice("problem", problem, EditingProblem)
    drawn_noise(noise)  # refuses what is none
    given = check_given(always_iterable(cases, EditCase), "case", "pass at least one, for example load_edit_cases()[:30]")
    edited = check_layers(model, None if layers is None else tuple(always_iterable(layers)))
    planned = [method_at(layer, Objective(variant=variant)) for layer in edited]
    _check_objectives(planned)
    measured = resolve_metric(model, metric, against)
    measured.check_storable(store)
    if variant != "ours" and measured != PROBABILITY:
        raise InputError(f"variant={variant!r} measures probabilities, not metric={measured}; pass variant='ours' with it.")
    settings = SweepSettings(_name(planned), problem, edited, noise, samples, window, seed, variant, measured)
    provenance = provenance_of(model, engine=rows_engine(model), seed=seed, settings=settings)
    check_choice("runner", runner, Runner)
    with ExitStack() as stack:
        key = _run_key(model, given, planned, moments, settings)
        folder = None if store is None else stack.enter_context(closing(RunFolder(store, key, "sweep_layers()")))
        swept = {} if folder is None else dict(_finished(folder, given, settings))
        bar = stack.enter_context(progress_bar(what="trace and edit", unit="case", progress=progress, total=len(given), initial=len(swept)))

        def finished(number: int, part: LayerSweep) -> None:
            swept[number] = part
            bar.update(1)
            if folder is not None:
                part.save(folder.part(number))

        missing = {number: (case, _case_name(case, number)) for number, case in enumerate(given) if number not in swept}
        job = _SweepJob(method_at, moments, settings, provenance)
        run_parts(source if runner == "ray" else model, job, missing, finished, runner=runner, workers=workers)
    parts = [swept[number] for number in range(len(given))]
    tables, skipped = [part.table for part in parts if len(part.table)], {name: why for part in parts for name, why in part.skipped.items()}
    if not tables:
        raise DataError(f"no case is left of {len(given)}: {next(iter(skipped.values()))}")
    return LayerSweep(pd.concat(tables, ignore_index=True), skipped, settings, provenance)


@dataclass(frozen=True)
class _SweepJob:
    """What is done to every case of a sweep, in this process or another."""

    method_at: MethodAt
    moments: KeyMoments | None
    settings: SweepSettings
    provenance: Provenance
    accepts: Mapping[str, bool] = field(default_factory=dict[str, bool])

    def on(self, model: HookedModel) -> Callable[[tuple[EditCase, str]], LayerSweep]:
        """What traces and edits a case in every layer."""
        return lambda part: _case_sweep(model, *part, self.method_at, self.moments, self.settings, self.provenance)


def _case_sweep(
    model: HookedModel, case: EditCase, name: str, method_at: MethodAt, moments: KeyMoments | None, settings: SweepSettings, provenance: Provenance
) -> LayerSweep:
    """One case's rows, or why it has none."""
    try:
        rows, skipped = [{"case_id": name} | row for row in _case_rows(model, case, method_at, moments, settings)], {}
    except TargetError as error:
        rows, skipped = [], {name: str(error)}
    return LayerSweep(pd.DataFrame(rows, columns=list(COLUMNS)), skipped, settings, provenance)


def _case_rows(model: HookedModel, case: EditCase, method_at: MethodAt, moments: KeyMoments | None, settings: SweepSettings) -> list[dict[str, Any]]:
    """One case's row for each layer.

    Raises:
        TargetError: the problem or the tracing does not apply to it.
    """
    fact, objective = editing_problem(model, case, settings.problem, noise=settings.noise, seed=settings.seed, variant=settings.variant)
    effects = _tracing_effects(model, case.fact, settings)
    reader = CaseReader(model, case, fact, objective, settings.variant)
    before = reader.read()
    rows: list[dict[str, Any]] = []
    for layer, effect in zip(settings.layers, effects, strict=True):
        edit = plan_edit(model, fact, method_at(layer, objective), moments=moments, progress=False)
        with edit.applied(model):
            scores = reader.scores(before)
        row = {"layer": layer, "tracing_effect": min(effect, MOST_EFFECT), "fraction_restored": effect}
        rows.append(row | {column: scores[outcome] for outcome, column in OUTCOMES.items()})
    return rows


def _tracing_effects(model: HookedModel, fact: Fact, settings: SweepSettings) -> list[float]:
    """Each layer's largest normalised effect, at least 0.

    Raises:
        TargetError: the corruption does not lower the metric (of ``"hase2023"``: does not change it).
    """
    ours = settings.variant == "ours"
    traced = trace(
        model,
        Prompt.from_fact(model, fact),
        settings.noise,
        component="mlp_out",
        window=settings.window,
        samples=settings.samples,
        seed=settings.seed,
        layers=settings.layers,
        multi_token=settings.metric.whole_answer,
        metric=settings.metric,
        variant="ours" if ours else "meng2022_code",
        progress=False,
    )
    total = float(traced.total_effect.mean())
    what = f"P({fact.target!r})" if settings.metric == PROBABILITY else settings.metric.of_answer(fact.target)
    if total == 0 or (ours and total < 0):
        raise TargetError(f"the corruption does not lower {what} after {fact.text!r}; there is no effect to normalise.")
    largest: FloatArray = traced.mean_effect.nan_to_num(nan=-1.0).amax(1).double().numpy() / abs(total)
    return np.maximum(largest, 0).tolist()


def _check_objectives(planned: Iterable[EditPlanner[PlannedEdit]]) -> None:
    """Refuse what would not do as the program does.

    Raises:
        InputError: fine-tuning under the program's objective, which it does not know.
    """
    for method in planned:
        if isinstance(method, FineTune) and method.objective.variant != "ours":
            raise InputError(
                "fine-tuning does not know the program's objectives; pass FineTune(objective=dataclasses.replace(objective, variant='ours')), "
                "which leaves effects and scores the program's."
            )


def _name(planned: Sequence[EditPlanner[PlannedEdit]]) -> str:
    """The method's name, with the most layers that it edits together where they are several."""
    most = max(len(tuple(always_iterable(getattr(method, "layers", getattr(method, "layer", None))))) for method in planned)
    return type(planned[0]).__name__ + (f", {most} layers" if most > 1 else "")


def _case_name(case: EditCase, number: int) -> str:
    return case.case_id or str(number)


def _run_key(
    model: HookedModel, cases: Sequence[EditCase], planned: Sequence[EditPlanner[PlannedEdit]], moments: KeyMoments | None, settings: SweepSettings
) -> dict[str, Any]:
    """All that decides a sweep's numbers, as a `RunFolder` keeps it; moments count for methods that need them, and for those that do not say."""
    wanted = moments is not None and any(getattr(method, "needs_moments", True) for method in planned)
    return {
        "cases": digest([case_values(case) for case in cases]),
        "weights": weight_fingerprint(model),
        "has_bos": prepends_bos(model),
        "moments": [moments.corpus, moments.tokens] if wanted and moments is not None else None,
        "settings": plain(settings) | {"methods": digest([values_of(method) for method in planned])},
    }


def _finished(folder: RunFolder, cases: Sequence[EditCase], settings: SweepSettings) -> Mapping[int, LayerSweep]:
    """The cases that are there, read before anything is computed.

    Raises:
        DataError: a damaged part, or one that has another case than its place in the sweep.
    """
    parts: dict[int, LayerSweep] = {}
    for number in folder.finished():
        part = LayerSweep.load(folder.part(number))
        there = {*part.table["case_id"], *part.skipped}
        if number >= len(cases) or there != {_case_name(cases[number], number)} or part.settings != settings:
            raise DataError(
                f"{str(folder.part(number))!r} has another case or other settings than its place in the sweep; delete it to have it again."
            )
        parts[number] = part
    return parts
