"""How long a method's edits last: success against the number of edits that are in the model at once."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import pandas as pd
import plotly.graph_objects as go
from more_itertools import always_iterable
from typing_extensions import override

from tl_knowledge.door import public
from tl_knowledge.drawing import Line, LinePanel, line_panels
from tl_knowledge.errors import InputError, check_given
from tl_knowledge.evaluation.driver import check_cases, stored_report
from tl_knowledge.evaluation.measures import EditMeasure
from tl_knowledge.evaluation.report import EditReport, EvaluationSettings
from tl_knowledge.evaluation.run import EvaluationRun, Measured
from tl_knowledge.evaluation.run_key import evaluation_settings, joint_key, run_key
from tl_knowledge.evaluation.scores import case_scores
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.prompts.facts import EditCase
from tl_knowledge.results.kept import forget_kept
from tl_knowledge.results.provenance import Provenance, provenance_of
from tl_knowledge.results.result import TableResult
from tl_knowledge.results.run_folder import RunFolder
from tl_knowledge.runs.edits import AppliedEdit, EditPlanner
from tl_knowledge.runs.key_moments import KeyMoments

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
        return self.table.pivot(index=["method", "edits"], columns="score", values="mean").reset_index().rename_axis(columns=None)

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

    Raises:
        DataError: no case or no method, or a folder of another run.
        InputError: no size, or more than there are cases.

    Example:
        >>> import tl_knowledge as tlk
        >>> methods = {"FT": tlk.FineTune(layer=0, steps=2)}
        >>> growth = tlk.evaluation.measure_growth("factlm", tlk.load_edit_cases()[:2], methods, [1, 2], progress=False)
        >>> list(growth.summary().columns)
        ['method', 'edits', 'ES', 'NS', 'PS', 'S']
    """
    model = as_model(model)
    given = check_given(cases, "case", "pass at least one, for example load_edit_cases()[:200]")
    named = dict(check_given(methods.items(), "method", "pass at least one, by name: {'MEMIT': MEMIT(...)}"))
    if not sizes or min(sizes) < 1 or max(sizes) > len(given):
        raise InputError(f"sizes {list(sizes)} do not fit {len(given)} cases; pass numbers between 1 and that.")
    growing, own_measures, used = sorted(set(sizes)), tuple(always_iterable(measures, EditMeasure)), given[: max(sizes)]
    check_cases(model, used, protocol, batch_size, *named.values())
    if moments is not None:
        moments.check(model)
    runs = {
        name: EvaluationRun(model, method, moments, evaluation_settings(method, protocol, batch_size, own_measures), own_measures, progress)
        for name, method in named.items()
    }
    with ExitStack() as stack:
        folder = None
        if store is not None:
            folder = stack.enter_context(closing(RunFolder(store, _key(runs, used, growing), "measure_growth()")))
        reports = {name: _reports(run, used, growing, folder, i * len(growing)) for i, (name, run) in enumerate(runs.items())}
    rows: list[dict[str, Any]] = [
        {"method": name, "edits": size, "score": score} | vars(report.scores[score])
        for name, of_method in reports.items()
        for size, report in of_method.items()
        for score in (*COUNTED, *(metric for metric in report.metrics if metric not in ALWAYS))
    ]
    settings = {name: of_method[min(sizes)].settings for name, of_method in reports.items()}
    return EditGrowth(pd.DataFrame(rows), settings, next(iter(reports.values()))[min(sizes)].provenance)


def _reports(run: EvaluationRun, cases: Sequence[EditCase], sizes: Sequence[int], folder: RunFolder | None, first: int) -> dict[int, EditReport]:
    """One method's report of each size; what a folder has is read, the rest computed and put into it.

    Args:
        first: the number of the method's first part.
    """
    done = [] if folder is None else [i for i in range(len(sizes)) if first + i in folder.finished()]
    finished = {} if folder is None else {sizes[i]: stored_report(folder, first + i, cases[: sizes[i]]) for i in done}
    reports, number = dict(finished), first // len(sizes)
    if folder is not None:
        run = replace(run, keep=folder.directory, keep_as=f"{number}-")
    with closing(_measured(run, cases, sizes, [size for size in sizes if size not in finished])) as measured:
        for size, rows in measured:
            settings = replace(run.settings, batch_size=size if run.settings.protocol == "batch" else run.settings.batch_size)
            provenance = provenance_of(run.model, engine="teacher forcing", seed=int(getattr(run.method, "seed", 0)), settings=settings)
            reports[size] = EditReport(pd.DataFrame(rows), settings, provenance)
            if folder is not None:
                reports[size].save(folder.part(first + sizes.index(size)))
    if folder is not None:
        forget_kept(folder.directory, run.keep_as)
    return {size: reports[size] for size in sizes}


def _measured(run: EvaluationRun, cases: Sequence[EditCase], sizes: Sequence[int], wanted: Sequence[int]) -> Generator[Measured]:
    """Rows by size, of the sizes that are wanted."""
    if run.settings.protocol == "sequential":
        yield from run.checkpoints(cases, sizes, wanted)
        return
    for size in wanted:
        yield size, replace(run, settings=replace(run.settings, batch_size=size), keep_as=f"{run.keep_as}{size}-").rows(cases[:size], 0)


def _key(runs: Mapping[str, EvaluationRun], cases: Sequence[EditCase], sizes: Sequence[int]) -> dict[str, Any]:
    """What decides the numbers, as a `RunFolder` keeps it."""
    keys = {name: run_key(run.model, cases, run.method, run.moments, run.settings, run.measures) for name, run in runs.items()}
    return joint_key(keys, {"sizes": list(sizes)})
