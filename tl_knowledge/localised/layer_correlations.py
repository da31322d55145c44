"""In which layers does tracing tell where an edit works? The correlation of effect and score over the facts, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
from typing_extensions import override

from tl_knowledge.drawing import Line, LinePanel, line_panels
from tl_knowledge.localised.sweep_settings import Outcome, SweepSettings, in_words
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.result import TableResult
from tl_knowledge.wording import counted

__all__ = ["LayerCorrelations"]

SIGNIFICANT = 0.05


@dataclass(frozen=True, eq=False)
class LayerCorrelations(TableResult):
    """The correlation of tracing effect and editing score over facts, in every layer.

    Attributes:
        table: ``layer facts correlation low high p rank_correlation``: Pearson's with its 95% interval and its p, and Spearman's; NaN in a layer
            where effect or score is the same for all facts.
        outcome: which score.
        settings: of the sweep.
        provenance: of the sweep.
    """

    ranked_by: ClassVar[str] = "correlation"
    either_sign: ClassVar[bool] = True
    table: pd.DataFrame
    outcome: Outcome
    settings: SweepSettings
    provenance: Provenance

    @override
    def headline(self) -> str:
        facts = int(self.table["facts"].max())
        return (
            f"{self.settings.method}, {in_words(self.settings.problem)}, {self.outcome}: up to {counted(facts, 'fact')} a "
            f"layer; {self.provenance.model}"
        )

    @override
    def summary(self) -> pd.DataFrame:
        """All layers."""
        return self.to_dataframe()

    def plot(self) -> go.Figure:
        """Pearson's correlation by layer with its interval, filled where p < .05, and Spearman's."""
        frame = self.table
        layers, significant = [int(layer) for layer in frame["layer"]], frame["p"] < SIGNIFICANT
        filled = frozenset(int(layer) for layer in frame.loc[significant, "layer"])
        none = [float("nan")] * len(frame)
        lines = [
            Line("Pearson", layers, frame["correlation"].tolist(), frame["low"].tolist(), frame["high"].tolist(), 0, filled),
            Line("Spearman", layers, frame["rank_correlation"].tolist(), none, none, 1),
        ]
        title = f"Correlation of tracing effect{self.settings.metric.remark} and {self.outcome} score"
        about = (
            f"{self.settings.method}, {in_words(self.settings.problem)}; up to "
            f"{counted(int(frame['facts'].max()), 'fact')} a layer; {self.provenance.model}"
        )
        subtitle = f"{about}; 95% intervals; Pearson's points filled: p < .05, uncorrected"
        return line_panels([LinePanel("", lines)], title=title, subtitle=subtitle, x_axis="layer", y_axis="correlation")
