"""How long a method's edits last: success against the number of edits that are in the model at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pandas as pd
import plotly.graph_objects as go
from typing_extensions import override

from tl_knowledge.door import public
from tl_knowledge.drawing import Line, LinePanel, line_panels
from tl_knowledge.errors import InputError, check_given
from tl_knowledge.evaluation.driver import evaluate
from tl_knowledge.evaluation.report import EditReport, EvaluationSettings
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.prompts.facts import EditCase
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.result import TableResult
from tl_knowledge.runs.edits import AppliedEdit, EditPlanner
from tl_knowledge.runs.key_moments import KeyMoments

__all__ = ["EditGrowth", "measure_growth"]

DRAWN = {"ES": "efficacy", "PS": "paraphrase", "NS": "neighbourhood"}


@dataclass(frozen=True, eq=False)
class EditGrowth(TableResult):
    """Scores by method and number of edits.

    Attributes:
        table: ``method edits score mean low high``, in percent; each row is over all cases that are edited.
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
        """Lines: ES, PS and NS against the number of edits, a line for each method."""
        frame, methods = self.table, list(dict.fromkeys(self.table["method"]))
        panels: list[LinePanel] = []
        for metric, title in DRAWN.items():
            lines: list[Line] = []
            for style, method in enumerate(methods):
                own = frame[(frame["method"] == method) & (frame["score"] == metric)]
                mean, low, high = ((own[name] / 100).tolist() for name in ("mean", "low", "high"))
                lines.append(Line(method, own["edits"].tolist(), mean, low, high, style=4 * style))  # a dash of its own each: lines may coincide
            panels.append(LinePanel(f"{title} ({metric})", lines))
        return line_panels(
            panels,
            title="What is left of the edits as there are more of them",
            subtitle=f"{self.provenance.model}; over all edited cases; bands: 95% bootstrap over cases",
            x_axis="edits in the model",
            y_axis="share of prompts",
            percent=True,
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
    progress: bool = True,
) -> EditGrowth:
    """Evaluate methods on growing numbers of edits that are in the model at once.

    Args:
        methods: by the name they get in the figure.
        sizes: how many of the cases, each a run of its own.
        protocol, batch_size: as `evaluate`.

    Raises:
        DataError: no case or no method.
        InputError: no size, or more than there are cases.
    """
    model = as_model(model)
    given = check_given(cases, "case", "pass at least one, for example load_edit_cases()[:200]")
    named = check_given(methods.items(), "method", "pass at least one, by name: {'MEMIT': MEMIT(...)}")
    if not sizes or min(sizes) < 1 or max(sizes) > len(given):
        raise InputError(f"sizes {list(sizes)} do not fit {len(given)} cases; pass numbers between 1 and that.")
    reports: dict[tuple[str, int], EditReport] = {
        (name, size): evaluate(model, given[:size], method, moments=moments, protocol=protocol, batch_size=batch_size, progress=progress)
        for name, method in named
        for size in sorted(set(sizes))
    }
    rows: list[dict[str, Any]] = [
        {"method": name, "edits": size, "score": score} | vars(report.scores[score])
        for (name, size), report in reports.items()
        for score in ("S", *DRAWN)
    ]
    settings = {name: reports[name, min(sizes)].settings for name, _ in named}
    return EditGrowth(pd.DataFrame(rows), settings, next(iter(reports.values())).provenance)
