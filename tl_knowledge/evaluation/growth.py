"""How long a method's edits last: success against the number of edits that are in the model at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pandas as pd
import plotly.graph_objects as go
from more_itertools import always_iterable
from typing_extensions import override

from tl_knowledge.door import public
from tl_knowledge.drawing import Line, LinePanel, line_panels
from tl_knowledge.errors import InputError, check_choice, check_given
from tl_knowledge.evaluation.driver import check_cases, stored_report
from tl_knowledge.evaluation.measures import EditMeasure
from tl_knowledge.evaluation.report import EditReport, EvaluationSettings
from tl_knowledge.evaluation.run import EvaluationRun, Measured
from tl_knowledge.evaluation.run_key import evaluation_settings, joint_key, run_key
from tl_knowledge.evaluation.scores import case_scores
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import EditCase
from tl_knowledge.results.kept import forget_kept
from tl_knowledge.results.provenance import Provenance, provenance_of
from tl_knowledge.results.result import TableResult
from tl_knowledge.results.run_folder import RunFolder
from tl_knowledge.runs.edits import AppliedEdit, EditPlanner
from tl_knowledge.runs.key_moments import KeyMoments
from tl_knowledge.runs.parts import Runner, run_on_ray
from tl_knowledge.wording import counted

__all__ = ["EditGrowth", "measure_growth"]

DRAWN = {"S": "harmonic mean", "ES": "efficacy", "PS": "paraphrase", "NS": "neighbourhood", "RS": "consistency", "GE": "fluency"}
COUNTED = ("S", "ES", "PS", "NS")
GE_AXIS = "hundredths of a bit"
ALWAYS = frozenset(case_scores({}, {}))


@dataclass(frozen=True, eq=False)
class EditGrowth(TableResult):
    """Scores by method and number of edits.

    Attributes:
        table: ``method edits score mean low high``, in percent (GE: hundredths of a bit); each row is over all cases that are edited. Scores
            are S, ES, PS, NS and those of the measures.
        settings: by the method's name in the table.
        provenance: the model, the versions.
    """

    ranked_by: ClassVar[str] = "mean"
    table: pd.DataFrame
    settings: dict[str, EvaluationSettings]
    provenance: Provenance

    @override
    def headline(self) -> str:
        sizes = ", ".join(str(size) for size in sorted(set(self.table["edits"])))
        return f"{', '.join(self.settings)} with {sizes} edits at once; {self.provenance.model}"

    @override
    def summary(self) -> pd.DataFrame:
        """One row a method and number of edits, one column a score: the means."""
        wide = self.table.pivot(index=["method", "edits"], columns="score", values="mean")[list(dict.fromkeys(self.table["score"]))]
        return wide.reset_index().rename_axis(columns=None)

    def plot(self) -> go.Figure:
        """Lines against the number of edits, on a logarithmic axis: S, ES, PS and NS, with GE and RS where they were measured; one a method."""
        frame, methods = self.table, list(dict.fromkeys(self.table["method"]))
        panels: list[LinePanel] = []
        for metric in [metric for metric in DRAWN if metric in set(frame["score"])]:
            scale = 1 if metric == "GE" else 100
            lines: list[Line] = []
            for style, method in enumerate(methods):
                own = frame[(frame["method"] == method) & (frame["score"] == metric)]
                mean, low, high = ((own[name] / scale).tolist() for name in ("mean", "low", "high"))
                lines.append(Line(method, own["edits"].tolist(), mean, low, high, style=4 * style))  # a dash of its own each: lines may coincide
            panels.append(LinePanel(f"{DRAWN[metric]} ({metric})", lines, GE_AXIS if metric == "GE" else ""))
        return line_panels(
            panels,
            title="What is left of the edits as there are more of them",
            subtitle=f"{self.provenance.model}; over all edited cases; bands: 95% bootstrap over cases",
            x_axis="edits in the model",
            y_axis="share of prompts",
            columns=min(len(panels), 3) if len(panels) != 4 else 2,
            percent=True,
            log_x=True,
        )


@public
def measure_growth(
    model: AnyModel,
    cases: Iterable[EditCase],
    methods: Mapping[str, EditPlanner[AppliedEdit]],
    sizes: Sequence[int],
    *,
    moments: KeyMoments | None = None,
    protocol: Literal["batch", "sequential"] = "sequential",
    batch_size: int = 1,
    measures: EditMeasure | Sequence[EditMeasure] = (),
    store: str | os.PathLike[str] | None = None,
    runner: Runner = "local",
    workers: int = 2,
    progress: bool = True,
) -> EditGrowth:
    """Evaluate methods on growing numbers of edits that are in the model at once.

    The numbers are those of `evaluate` on the first so many cases. With ``protocol="sequential"`` the edits of a size go on from those of the one
    before, so all sizes together plan hardly more edits than the largest alone.

    Args:
        methods: by the name they get in the figure.
        sizes: how many of the cases.
        protocol, batch_size, measures: as `evaluate`.
        store: a folder; a run that was killed goes on from it, one size of one method at a time, and with the values that were optimised.
        runner, workers: ``"ray"`` shares the methods out among Ray actors with one model each, and with ``protocol="batch"`` their sizes, too; pass
            the model's name then. What is optimised on the way to a part is not kept there.

    Raises:
        DataError: no case or no method, or a folder of another run.
        InputError: no size, or more than there are cases.

    Example:
        >>> import tl_knowledge as tlk
        >>> methods = {"FT": tlk.FineTune.for_model("factlm")}
        >>> growth = tlk.evaluation.measure_growth("factlm", tlk.load_edit_cases()[:2], methods, [1, 2], progress=False)
        >>> list(growth.summary().columns)
        ['method', 'edits', 'S', 'ES', 'PS', 'NS']
    """
    source, model = model, as_model(model)
    given = check_given(cases, "case", "pass at least one, for example load_edit_cases()[:200]")
    named = dict(check_given(methods.items(), "method", "pass at least one, by name: {'MEMIT': MEMIT(...)}"))
    if not sizes or min(sizes) < 1 or max(sizes) > len(given):
        raise InputError(f"sizes {list(sizes)} do not fit {counted(len(given), 'case')}; pass numbers between 1 and that.")
    growing, own_measures, used = sorted(set(sizes)), tuple(always_iterable(measures, EditMeasure)), given[: max(sizes)]
    check_cases(model, used, protocol, batch_size, *named.values())
    check_choice("runner", runner, Runner)
    if moments is not None:
        moments.check(model)
    settings = {name: evaluation_settings(method, protocol, batch_size, own_measures) for name, method in named.items()}
    job = _GrowthJob(named, moments, settings, own_measures, used, growing, progress and runner == "local")
    with ExitStack() as stack:
        folder = None
        if store is not None:
            folder = stack.enter_context(closing(RunFolder(store, job.key(model), "measure_growth()")))
        reports = _Reports(job, model, folder)
        if runner == "ray":
            reports.compute_on_ray(source, workers)
        else:
            reports.compute()
    rows: list[dict[str, Any]] = [
        {"method": name, "edits": size, "score": score} | vars(reports.there[name, size].scores[score])
        for name in named
        for size in growing
        for score in (*COUNTED, *(metric for metric in reports.there[name, size].metrics if metric not in ALWAYS))
    ]
    smallest = {name: reports.there[name, growing[0]] for name in named}
    return EditGrowth(pd.DataFrame(rows), {name: report.settings for name, report in smallest.items()}, next(iter(smallest.values())).provenance)


@dataclass(frozen=True)
class _GrowthJob:
    """What is done with every method, in this process or another: a part is a method's name and the sizes that are wanted of it."""

    methods: Mapping[str, EditPlanner[AppliedEdit]]
    moments: KeyMoments | None
    settings: Mapping[str, EvaluationSettings]
    measures: tuple[EditMeasure, ...]
    cases: Sequence[EditCase]
    sizes: Sequence[int]
    progress: bool
    accepts: Mapping[str, bool] = field(default_factory=dict[str, bool])

    def on(self, model: HookedModel) -> Callable[[tuple[str, Sequence[int]]], list[Measured]]:
        """What computes a part."""
        return lambda part: list(self.measured(model, *part))

    def measured(self, model: HookedModel, name: str, wanted: Sequence[int], keep: Path | None = None, keep_as: str = "") -> Generator[Measured]:
        """A method's rows by size, of the sizes that are wanted."""
        run = EvaluationRun(model, self.methods[name], self.moments, self.settings[name], self.measures, self.progress, keep, keep_as)
        if run.settings.protocol == "sequential":
            yield from run.checkpoints(self.cases, self.sizes, wanted)
            return
        for size in wanted:
            yield size, replace(run, settings=self.settings_of(name, size), keep_as=f"{keep_as}{size}-").rows(self.cases[:size], 0)

    def settings_of(self, name: str, size: int) -> EvaluationSettings:
        """Of one size."""
        own = self.settings[name]
        return replace(own, batch_size=size) if own.protocol == "batch" else own

    def key(self, model: HookedModel) -> dict[str, Any]:
        """What decides the numbers, as a `RunFolder` keeps it."""
        keys = {name: run_key(model, self.cases, method, self.moments, self.settings[name], self.measures) for name, method in self.methods.items()}
        return joint_key(keys, {"sizes": list(self.sizes)})


class _Reports:
    """Every method's report of each size: what a folder has is read, the rest computed and put into it.

    Attributes:
        there: by method and size.
    """

    def __init__(self, job: _GrowthJob, model: HookedModel, folder: RunFolder | None) -> None:
        self.job, self.model, self.folder = job, model, folder
        self.numbers = {key: number for number, key in enumerate((name, size) for name in job.methods for size in job.sizes)}
        # Asked before anything is edited: the sizes are reported while edits are in the model.
        self.provenance = {key: self._provenance(*key) for key in self.numbers}
        done = set[int]() if folder is None else set(folder.finished())
        self.there: dict[tuple[str, int], EditReport] = {}
        for (name, size), number in self.numbers.items():
            if folder is not None and number in done:
                self.there[name, size] = stored_report(folder, number, job.cases[:size])

    def compute(self) -> None:
        """The missing ones, here; each is kept as soon as it is there."""
        for number, name in enumerate(self.job.methods):
            missing = self._missing(name)
            if not missing:
                continue
            keep, keep_as = None if self.folder is None else self.folder.directory, f"{number}-"
            with closing(self.job.measured(self.model, name, missing, keep, keep_as)) as measured:
                for size, rows in measured:
                    self._finished(name, size, rows)
            if keep is not None:
                forget_kept(keep, keep_as)

    def compute_on_ray(self, source: AnyModel, workers: int) -> None:
        """The missing ones, on Ray actors: sizes that go on from each other are one part."""
        together = {name: self._missing(name) for name in self.job.methods}
        parts = [(name, sizes) for name, sizes in together.items() if sizes]
        if next(iter(self.job.settings.values())).protocol == "batch":
            parts = [(name, [size]) for name, sizes in parts for size in sizes]

        def finished(number: int, measured: list[Measured]) -> None:
            for size, rows in measured:
                self._finished(parts[number][0], size, rows)

        if parts:
            run_on_ray(source, self.job, dict(enumerate(parts)), finished, workers)

    def _missing(self, name: str) -> list[int]:
        return [size for size in self.job.sizes if (name, size) not in self.there]

    def _provenance(self, name: str, size: int) -> Provenance:
        seed = int(getattr(self.job.methods[name], "seed", 0))
        return provenance_of(self.model, engine="teacher forcing", seed=seed, settings=self.job.settings_of(name, size))

    def _finished(self, name: str, size: int, rows: list[dict[str, Any]]) -> None:
        key = name, size
        self.there[key] = EditReport(pd.DataFrame(rows), self.job.settings_of(name, size), self.provenance[key])
        if self.folder is not None:
            self.there[key].save(self.folder.part(self.numbers[key]))
