"""How long a method's edits last: success against the number of edits that are in the model at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import pandas as pd
import plotly.graph_objects as go

from tl_knowledge.drawing import Line, LinePanel, line_panels
from tl_knowledge.errors import InputError
from tl_knowledge.evaluation.driver import PlansEdits, evaluate
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import EditCase
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.table import TableResult

__all__ = ["EditGrowth", "measure_growth"]

DRAWN = {"ES": "efficacy", "PS": "paraphrase", "NS": "neighbourhood"}


@dataclass(frozen=True, eq=False)
class EditGrowth(TableResult):
    """Scores by method and number of edits.

    Attributes:
        table: ``method edits score mean low high``, in percent; each row is over all cases that are edited.
        provenance: of the first run; the methods' settings are in ``settings["methods"]``.
    """

    ranked_by: ClassVar[str] = "mean"
    table: pd.DataFrame
    provenance: Provenance

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
            title="What is left of the edits as more are made",
            subtitle=f"{self.provenance.model}; over all edited cases; bands: 95% bootstrap over cases",
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
        InputError: no method, no size, or more than there are cases.
    """
    if not methods:
        raise InputError("no method was given; pass at least one, by name: {'MEMIT': MEMIT(...)}.")
    if not sizes or min(sizes) < 1 or max(sizes) > len(cases):
        raise InputError(f"sizes {list(sizes)} do not fit {len(cases)} cases; pass numbers between 1 and that.")
    shared: dict[str, Any] = {"moments": moments, "protocol": protocol, "batch_size": batch_size, "progress": progress}
    rows: list[dict[str, Any]] = []
    settings: dict[str, Any] = {}
    for name, method in methods.items():
        for size in sorted(set(sizes)):
            report = evaluate(model, cases[:size], method, **shared)
            settings.setdefault(name, report.provenance)
            rows += [{"method": name, "edits": size, "score": score} | vars(report.scores[score]) for score in ("S", *DRAWN)]
    first: Provenance = next(iter(settings.values()))
    return EditGrowth(pd.DataFrame(rows), replace(first, settings={"methods": {name: made.settings for name, made in settings.items()}}))
