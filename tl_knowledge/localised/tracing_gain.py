"""What tracing adds to the layer in telling where edits work: problems by methods (Hase et al. 2023, figure 5 and table 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from typing_extensions import override

from tl_knowledge.door import public
from tl_knowledge.drawing import grouped_bars
from tl_knowledge.errors import InputError, check_choice, check_given
from tl_knowledge.localised.layer_sweep import LayerSweep
from tl_knowledge.localised.sweep_settings import OUTCOMES, Outcome, SweepVariant, in_words
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.result import TableResult
from tl_knowledge.wording import counted

__all__ = ["TracingGain", "compare_sweeps"]

NOTHING = float("nan")
SIGNIFICANT = 0.05


@dataclass(frozen=True, eq=False)
class TracingGain(TableResult):
    """R^2 of editing scores on the layer and on the tracing effect, for several problems and methods.

    Attributes:
        table: ``problem method outcome facts layer tracing both gain f p``: R^2 on the layer, on the tracing effect and on both, the gain of both
            over the layer, and the F-test that there is none; NaN where a score is the same everywhere, or missing.
        variant: how layer and tracing were put together.
        provenance: of the first sweep.
    """

    ranked_by: ClassVar[str] = "gain"
    table: pd.DataFrame
    variant: SweepVariant
    provenance: Provenance

    @override
    def headline(self) -> str:
        problems, methods = self.table["problem"].nunique(), self.table["method"].nunique()
        return f"gain of tracing over the layer: {counted(problems, 'problem')}, {counted(methods, 'method')}; {self.provenance.model}"

    @override
    def summary(self) -> pd.DataFrame:
        """The rewrite scores' rows."""
        return self.table.query("outcome == 'rewrite'").reset_index(drop=True)

    def plot(self, *, outcome: Outcome = "rewrite") -> go.Figure:
        """Bars: the gain in R^2, a group for each problem, a bar for each method.

        Raises:
            InputError: an unknown outcome.
        """
        check_choice("outcome", outcome, Outcome)
        rows = self.table.query("outcome == @outcome").to_dict("records")
        problems, methods = (list(dict.fromkeys(str(row[column]) for row in rows)) for column in ("problem", "method"))
        gains = {(row["problem"], row["method"]): float(row["gain"]) for row in rows}
        bars = {method: [(gains.get((problem, method), NOTHING), NOTHING, NOTHING) for problem in problems] for method in methods}
        both = "a slope in each layer" if self.variant == "hase2023" else "one slope"
        tested = [row["p"] for row in rows if np.isfinite(row["p"])]
        found = f"{sum(p < SIGNIFICANT for p in tested)} of {len(tested)} gains have p < .05 (F-test, uncorrected)"
        return grouped_bars(
            [in_words(problem) for problem in problems],
            bars,
            title=f"What tracing adds to the layer in telling the {outcome} score",
            subtitle=f"{counted(max(row['facts'] for row in rows), 'fact')} at most; {self.provenance.model}; on the tracing effect, {both}; {found}",
            group_axis="problem",
            value_axis="R² of layer and tracing, less R² of the layer",
        )


@public
def compare_sweeps(*sweeps: LayerSweep, names: tuple[str, ...] = (), variant: SweepVariant = "ours") -> TracingGain:
    """Regress the scores of several sweeps, of one model, on the layer and on the tracing effect, and put them side by side.

    Args:
        sweeps: what `sweep_layers` returned for other problems and methods.
        names: the methods' names, one for each sweep; their own when none are given.
        variant: of the regressions, as in `LayerSweep.regressions`.

    Raises:
        DataError: no sweep.
        InputError: an unknown variant, sweeps of several models, or two of the same problem and method.

    Example:
        >>> import tl_knowledge as tlk
        >>> model, cases = tlk.load_model("factlm"), tlk.load_edit_cases()[:3]
        >>> def tuned(layer, objective): return tlk.FineTune(layer=layer, objective=objective, steps=3)
        >>> def swept(problem): return tlk.localised.sweep_layers(model, cases, tuned, problem=problem, layers=[2, 6], samples=2, progress=False)
        >>> tlk.localised.compare_sweeps(swept("error_injection"), swept("fact_erasure"))
        <TracingGain: gain of tracing over the layer: 2 problems, 1 method; factlm>
    """
    check_choice("variant", variant, SweepVariant)
    given = check_given(sweeps, "sweep", "pass what sweep_layers() returned")
    labels = names or tuple(f"{sweep.settings.method}{sweep.settings.metric.remark}" for sweep in given)
    if len(labels) != len(given):
        raise InputError(f"{counted(len(given), 'sweep')} cannot go by the names {labels}; pass names=, one for each sweep.")
    models = list(dict.fromkeys(sweep.provenance.model for sweep in given))
    if len(models) > 1:
        raise InputError(f"the sweeps are of the models {', '.join(models)}; compare those of one.")
    _refuse_twins(given, labels)
    rows = [_row(sweep, label, outcome, variant) for sweep, label in zip(given, labels, strict=True) for outcome in OUTCOMES]
    return TracingGain(pd.DataFrame(rows), variant, given[0].provenance)


def _refuse_twins(sweeps: Sequence[LayerSweep], labels: Sequence[str]) -> None:
    """Refuse two sweeps that would be one bar.

    Raises:
        InputError: two of the same problem and name.
    """
    seen: set[tuple[str, str]] = set()
    for sweep, label in zip(sweeps, labels, strict=True):
        bar = (sweep.settings.problem, label)
        if bar in seen:
            raise InputError(f"two sweeps are of {label!r} and {in_words(bar[0])}; give them different names=, one for each sweep.")
        seen.add(bar)


def _row(sweep: LayerSweep, label: str, outcome: Outcome, variant: SweepVariant) -> dict[str, Any]:
    """One sweep's regressions of one outcome; NaN where there is nothing to regress."""
    row = {"problem": sweep.settings.problem, "method": label, "outcome": outcome, "facts": sweep.table["case_id"].nunique()}
    try:
        fit = sweep.regressions(outcome=outcome, variant=variant)
    except InputError:
        return row | dict.fromkeys(("layer", "tracing", "both", "gain", "f", "p"), NOTHING)
    return row | {"layer": fit.first, "tracing": fit.second, "both": fit.both, "gain": fit.both - fit.first, "f": fit.f, "p": fit.p}
