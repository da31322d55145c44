"""How many layers to edit, and which (Meng et al. 2023, appendix B): one method over ranges of layers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar

import pandas as pd
import plotly.graph_objects as go
from more_itertools import always_iterable
from typing_extensions import override

from tl_knowledge.door import public
from tl_knowledge.drawing import Line, LinePanel, line_panels
from tl_knowledge.engine.progress import progress_bar
from tl_knowledge.errors import InputError, check_given
from tl_knowledge.evaluation.driver import check_cases, evaluate, stored_report
from tl_knowledge.evaluation.measures import EditMeasure
from tl_knowledge.evaluation.report import EditReport, EvaluationProtocol, EvaluationSettings
from tl_knowledge.evaluation.run_key import evaluation_settings, joint_key, run_key
from tl_knowledge.models.checks import check_layers
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import EditCase
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.result import TableResult
from tl_knowledge.results.run_folder import RunFolder
from tl_knowledge.runs.edits import AppliedEdit, EditPlanner
from tl_knowledge.runs.key_moments import KeyMoments
from tl_knowledge.wording import counted

__all__ = ["LayerRangeScores", "sweep_layer_ranges"]

DRAWN = {"S": "harmonic mean", "ES": "efficacy", "PS": "paraphrase", "NS": "neighbourhood"}


@dataclass(frozen=True, eq=False)
class LayerRangeScores(TableResult):
    """Scores by the layers that were edited.

    Attributes:
        table: ``layers first last count score mean low high``, in percent; ``layers`` as text, ``count`` how many.
        settings: of the first range.
        cases: how many were edited.
        provenance: the model, the versions.
    """

    ranked_by: ClassVar[str] = "mean"
    table: pd.DataFrame
    settings: EvaluationSettings
    cases: int
    provenance: Provenance

    @override
    def headline(self) -> str:
        ranges = counted(self.table["layers"].nunique(), "range")
        return f"{self.settings.method} over {ranges} of layers, {counted(self.cases, 'case')}; {self.provenance.model}"

    @override
    def summary(self) -> pd.DataFrame:
        """One row a range, one column a score: the means, in the order of the ranges."""
        wide = self.table.pivot(index="layers", columns="score", values="mean")[list(dict.fromkeys(self.table["score"]))]
        return wide.loc[list(dict.fromkeys(self.table["layers"]))].reset_index().rename_axis(columns=None)

    def plot(self) -> go.Figure:
        """Lines: S, ES, PS and NS against the last edited layer, a line for each number of layers."""
        panels: list[LinePanel] = []
        for metric, title in DRAWN.items():
            lines: list[Line] = []
            for style, count in enumerate(sorted(set(self.table["count"]))):
                own: pd.DataFrame = self.table.loc[(self.table["count"] == count) & (self.table["score"] == metric)]
                own = own.sort_values("last")
                mean, low, high = ((own[name] / 100).tolist() for name in ("mean", "low", "high"))
                lines.append(Line(f"{count} layer{'s' * (count > 1)}", own["last"].tolist(), mean, low, high, style))
            panels.append(LinePanel(f"{title} ({metric})", lines))
        return line_panels(
            panels,
            title=f"{self.settings.method}: which layers are edited",
            subtitle=f"{counted(self.cases, 'case')}; {self.provenance.model}; bands: 95% bootstrap over cases",
            x_axis="last edited layer",
            y_axis="share of prompts",
            columns=2,
            percent=True,
        )


@public
def sweep_layer_ranges(
    model: AnyModel,
    cases: EditCase | Iterable[EditCase],
    method: EditPlanner[AppliedEdit],
    ranges: Sequence[Sequence[int]],
    *,
    moments: KeyMoments | None = None,
    protocol: EvaluationProtocol = "batch",
    batch_size: int = 1,
    measures: EditMeasure | Sequence[EditMeasure] = (),
    store: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> LayerRangeScores:
    """Evaluate one method with other layers each time.

    Args:
        method: settings with ``layers``, for example `MEMIT`; all else of them stays.
        ranges: the layers of each evaluation.
        moments: of all these layers.
        protocol, batch_size, measures: as `evaluate`.
        store: a folder; a run that was killed goes on from it, one range at a time.

    Raises:
        DataError: no case, or a folder of another run.
        InputError: no range, one twice, or a method without ``layers``.
        ComponentError: a layer that the model does not have.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> moments = tlk.collect_key_moments(model, tlk.load_corpus(), layers=[2, 3], progress=False)
        >>> cases, method = tlk.load_edit_cases()[:2], tlk.MEMIT.for_model(model)
        >>> sweep = tlk.evaluation.sweep_layer_ranges(model, cases, method, [(2,), (2, 3)], moments=moments, progress=False)
        >>> list(sweep.summary()["layers"])
        ['2', '2-3']
    """
    model = as_model(model)
    given = check_given(always_iterable(cases, EditCase), "case", "pass at least one, for example load_edit_cases()[:200]")
    methods = _methods(method, [check_layers(model, layers) for layers in ranges])
    check_cases(model, given, protocol, batch_size, *methods.values())
    own_measures, together = tuple(always_iterable(measures, EditMeasure)), len(given) if protocol == "batch" else batch_size
    keys: dict[str, Any] = {}
    for name, own in methods.items():
        keys[name] = run_key(model, given, own, moments, evaluation_settings(own, protocol, together, own_measures), own_measures)
    more: dict[str, Any] = {"moments": moments, "protocol": protocol, "batch_size": batch_size, "measures": own_measures, "progress": progress}
    with ExitStack() as stack:
        folder = None
        if store is not None:
            folder = stack.enter_context(closing(RunFolder(store, joint_key(keys, {}), "sweep_layer_ranges()")))
        reports = _reports(model, given, list(methods.values()), more, folder)
    rows: list[dict[str, Any]] = []
    for layers, report in zip((tuple(layers) for layers in ranges), reports, strict=True):
        where = {"layers": layer_words(layers), "first": min(layers), "last": max(layers), "count": len(layers)}
        scores = report.scores
        rows += [where | {"score": metric} | scores[metric].numbers for metric in scores]
    return LayerRangeScores(pd.DataFrame(rows), reports[0].settings, len(given), reports[0].provenance)


def layer_words(layers: Sequence[int]) -> str:
    """Layers as text.

    Example:
        >>> layer_words((3, 4, 5)), layer_words((3,)), layer_words((3, 7))
        ('3-5', '3', '3, 7')
    """
    if len(layers) > 1 and list(layers) == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}-{layers[-1]}"
    return ", ".join(map(str, layers))


def _methods(method: EditPlanner[AppliedEdit], ranges: Sequence[tuple[int, ...]]) -> dict[str, EditPlanner[AppliedEdit]]:
    """The method with each range's layers, by them as text."""
    words = [layer_words(layers) for layers in ranges]
    if not ranges or len(set(words)) != len(words) or not all(ranges):
        raise InputError(
            f"ranges {[list(layers) for layers in ranges]} hold no range, or one twice; pass at least one range of layers, and each once."
        )
    if not is_dataclass(method) or isinstance(method, type) or "layers" not in {field.name for field in fields(method)}:
        raise InputError(f"{type(method).__name__} has no setting layers to sweep; pass a method of several layers, such as MEMIT.")
    return {name: replace(method, layers=layers) for name, layers in zip(words, ranges, strict=True)}  # pyright: ignore[reportReturnType]


def _reports(
    model: HookedModel, cases: Sequence[EditCase], methods: Sequence[EditPlanner[AppliedEdit]], more: dict[str, Any], folder: RunFolder | None
) -> list[EditReport]:
    """One report a range; what a folder has is read, the rest computed and put into it.

    Args:
        more: further arguments of `evaluate`.
    """
    reports: list[EditReport] = []
    for number, method in enumerate(progress_bar(methods, what="ranges of layers", unit="range", progress=more["progress"])):
        if folder is not None and number in folder.finished():
            reports.append(stored_report(folder, number, cases))
            continue
        reports.append(evaluate(model, cases, method, **more))
        if folder is not None:
            reports[-1].save(folder.part(number))
    return reports
