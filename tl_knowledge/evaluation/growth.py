"""How long a method's edits last: success against the number of edits that are in the model at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import plotly.graph_objects as go

from tl_knowledge.drawing import Line, LinePanel, line_panels
from tl_knowledge.errors import InputError
from tl_knowledge.evaluation.evaluate import PlansEdits, evaluate
from tl_knowledge.evaluation.report import EditReport
from tl_knowledge.facts import EditCase
from tl_knowledge.model import HookedModel

__all__ = ["EditGrowth", "measure_growth"]

DRAWN = {"ES": "efficacy", "PS": "paraphrase", "NS": "neighbourhood"}


@dataclass(frozen=True, eq=False)
class EditGrowth:
    """Reports by number of edits.

    Attributes:
        reports: by method and number of edits; each is over all edited cases.
    """

    reports: Mapping[str, Mapping[int, EditReport]]

    def to_dataframe(self) -> pd.DataFrame:
        """One row a method, number of edits and score: mean and interval, in percent."""
        rows: list[dict[str, Any]] = []
        for method, reports in self.reports.items():
            for edits, report in reports.items():
                scores = report.scores
                rows += [{"method": method, "edits": edits, "score": name} | vars(scores[name]) for name in ("S", *DRAWN)]
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """Lines: ES, PS and NS against the number of edits, a line for each method."""
        frame = self.to_dataframe()
        panels: list[LinePanel] = []
        for metric, title in DRAWN.items():
            lines: list[Line] = []
            for style, method in enumerate(self.reports):
                own = frame[(frame["method"] == method) & (frame["score"] == metric)]
                mean, low, high = ((own[name] / 100).tolist() for name in ("mean", "low", "high"))
                lines.append(Line(method, own["edits"].tolist(), mean, low, high, style=4 * style))  # a dash of its own each: lines may coincide
            panels.append(LinePanel(f"{title} ({metric})", lines))
        any_report = next(iter(next(iter(self.reports.values())).values()))
        return line_panels(
            panels,
            title="What is left of the edits as more are made",
            subtitle=f"{any_report.provenance.model}; over all edited cases; bands: 95% bootstrap over cases",
            x_axis="edits in the model",
            y_axis="share of prompts",
            percent=True,
        )


def measure_growth(
    model: HookedModel,
    cases: Sequence[EditCase],
    methods: Mapping[str, PlansEdits],
    sizes: Sequence[int],
    *,
    moments: Any = None,
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
        InputError: no size, or more than there are cases.
    """
    if not sizes or min(sizes) < 1 or max(sizes) > len(cases):
        raise InputError(f"sizes {list(sizes)} do not fit {len(cases)} cases; pass numbers between 1 and that.")
    shared: dict[str, Any] = {"moments": moments, "protocol": protocol, "batch_size": batch_size, "progress": progress}
    return EditGrowth(
        {name: {size: evaluate(model, cases[:size], method, **shared) for size in sorted(set(sizes))} for name, method in methods.items()}
    )
