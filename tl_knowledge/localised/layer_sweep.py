"""What a sweep of layers found: editing success beside tracing effect, and what one tells of the other (Hase et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from typing_extensions import override

from tl_knowledge.drawing import Line, LinePanel, Points, line_panels, scatter
from tl_knowledge.errors import InputError, check_choice
from tl_knowledge.localised.layer_correlations import LayerCorrelations
from tl_knowledge.localised.sweep_settings import OUTCOMES, Outcome, SweepSettings, SweepVariant, in_words
from tl_knowledge.results.correlation import correlate
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.result import TableResult
from tl_knowledge.results.significance import Regression, compare_regressions, rank_correlation
from tl_knowledge.results.statistics import scalar_interval
from tl_knowledge.wording import counted

__all__ = ["LayerSweep"]


@dataclass(frozen=True, eq=False)
class LayerSweep(TableResult):
    """Editing success and tracing effect of every case in every layer.

    Attributes:
        table: ``case_id layer score paraphrase neighbourhood overall tracing_effect fraction_restored``: scores are at most 1 (negative where the
            edit backfired; NaN without such prompts), the tracing effect lies between 0 and 1, and the fraction restored is the same without
            the cap at 1.
        skipped: cases that the problem or the tracing does not apply to, by the reason.
        settings: of the sweep.
        provenance: the model, the versions.
    """

    ranked_by: ClassVar[str] = "score"
    table: pd.DataFrame
    skipped: dict[str, str]
    settings: SweepSettings
    provenance: Provenance

    def regressions(self, *, outcome: Outcome = "rewrite", variant: SweepVariant = "ours") -> Regression:
        """R^2 of a score on the layer, on the tracing effect, on both, and whether tracing adds anything (F-test).

        Args:
            outcome: which score; cases without it are left out.
            variant: ``"ours"``, or ``"hase2023"`` for the fit of Hase et al.'s notebook: an uncapped effect, and a slope for each layer.

        Raises:
            InputError: an unknown word, a column that a sweep of an earlier version lacks, or too few facts.
        """
        frame = self._pairs(outcome, variant).dropna()
        layers = frame["layer"].to_numpy()
        factor = (layers[:, None] == np.unique(layers)[None]).astype(float)
        score, effect = (frame[column].to_numpy(dtype=float) for column in ("score", "effect"))
        return compare_regressions(score, factor, effect[:, None], interactions=variant == "hase2023")

    def correlation_by_layer(self, *, outcome: Outcome = "rewrite", variant: SweepVariant = "ours") -> LayerCorrelations:
        """How tracing effect and score go together over the facts of each layer.

        Args:
            outcome: which score.
            variant: ``"hase2023"`` takes the effect without our cap at 1.

        Raises:
            InputError: as `regressions`.
        """
        rows: list[dict[str, Any]] = []
        for layer, group in self._pairs(outcome, variant).dropna().groupby("layer"):
            effect, score = (group[column].to_numpy(dtype=float) for column in ("effect", "score"))
            found = correlate(effect, score)
            row = {"layer": layer, "facts": found.pairs, "correlation": found.r, "low": found.low, "high": found.high, "p": found.p}
            rows.append(row | {"rank_correlation": rank_correlation(effect.tolist(), score.tolist())})
        if not rows:
            raise InputError(f"no case has a score of outcome={outcome!r}; its kind of prompt is missing from all cases.")
        return LayerCorrelations(pd.DataFrame(rows), outcome, self.settings, self.provenance)

    @override
    def headline(self) -> str:
        cases, layers = self.table["case_id"].nunique(), self.table["layer"].nunique()
        traced = f", tracing effect{self.settings.metric.remark}" if self.settings.metric.remark else ""
        sample = f"{counted(cases, 'fact')} in {counted(layers, 'layer')}"
        return f"{self.settings.method}, {in_words(self.settings.problem)}: {sample}{traced}; {self.provenance.model}"

    @override
    def summary(self) -> pd.DataFrame:
        """One row a layer: the mean scores and tracing effect over the facts."""
        columns = [column for column in (*OUTCOMES.values(), "tracing_effect") if column in self.table]
        return self.table.astype(dict.fromkeys(columns, float)).groupby("layer", as_index=False)[columns].mean()

    def plot(self) -> go.Figure:
        """Lines by layer: the editing score and the tracing effect, each with its interval; the regressions in the subtitle."""
        lines: list[Line] = []
        for style, (column, name) in enumerate((("score", "editing score"), ("tracing_effect", f"tracing effect{self.settings.metric.remark}"))):
            points = [(int(layer), *scalar_interval(group[column])) for layer, group in self.table.groupby("layer")]  # pyright: ignore
            x, mean, low, high = (list(values) for values in zip(*points, strict=True))
            lines.append(Line(name, x, mean, low, high, style=style))
        title = f"Where tracing points and where {self.settings.method} works best ({in_words(self.settings.problem)})"
        return line_panels([LinePanel("", lines)], title=title, subtitle=self._subtitle("rewrite"), x_axis="layer", y_axis="mean over facts")

    def plot_scatter(self, *, outcome: Outcome = "rewrite", variant: SweepVariant = "ours") -> go.Figure:
        """Points, one a fact and layer: the tracing effect against a score, a colour and symbol for each layer.

        Args:
            outcome: which score.
            variant: ``"hase2023"`` takes the effect without our cap at 1.

        Raises:
            InputError: an unknown word, or a column that a sweep of an earlier version lacks.
        """
        frame = self._pairs(outcome, variant).dropna()
        groups = {
            f"layer {layer}": Points(group["effect"].tolist(), group["score"].tolist(), [f"case {case}" for case in group["case_id"]])
            for layer, group in frame.groupby("layer")
        }
        return scatter(
            groups,
            title=f"Tracing effect against {outcome} score: {self.settings.method}, {in_words(self.settings.problem)}",
            subtitle=self._subtitle(outcome, variant),
            x_axis=("tracing effect" if variant == "ours" else "fraction restored") + self.settings.metric.remark,
            y_axis=f"{outcome} score",
        )

    def _subtitle(self, outcome: Outcome, variant: SweepVariant = "ours") -> str:
        sample = f"{counted(self.table['case_id'].nunique(), 'fact')}; {self.provenance.model}"
        try:
            fit = self.regressions(outcome=outcome, variant=variant)
        except InputError:
            return f"{sample}; the score has no R²: it does not vary, or the facts are too few"
        return f"{sample}; R² of the score: layer {fit.first:.3f}, tracing {fit.second:.3f}, both {fit.both:.3f} (F-test of tracing p = {fit.p:.2g})"

    def _pairs(self, outcome: Outcome, variant: SweepVariant) -> pd.DataFrame:
        """``case_id layer score effect``: the columns that were asked for."""
        check_choice("outcome", outcome, Outcome)
        check_choice("variant", variant, SweepVariant)
        wanted = {"case_id": "case_id", "layer": "layer", OUTCOMES[outcome]: "score"}
        wanted["fraction_restored" if variant == "hase2023" else "tracing_effect"] = "effect"
        missing = [column for column in wanted if column not in self.table]
        if missing:
            raise InputError(
                f"this sweep has no column {missing[0]!r}, which outcome={outcome!r}, variant={variant!r} needs; run sweep_layers() again."
            )
        pairs = pd.DataFrame({short: self.table[column] for column, short in wanted.items()})
        return pairs.astype({"score": float, "effect": float})
