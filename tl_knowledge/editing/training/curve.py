"""How a training went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import plotly.graph_objects as go
from typing_extensions import override

from tl_knowledge.drawing import Line, LinePanel, line_panels
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.result import TableResult
from tl_knowledge.wording import counted

__all__ = ["CURVE_COLUMNS", "TrainingCurve"]

CURVE_COLUMNS = ("step", "split", "edit_loss", "kl", "loss", "success")
_DRAWN = {"edit_loss": "edit loss", "kl": "KL", "success": "success"}
_UNITS = {"edit_loss": "nats a token", "kl": "nats", "success": "share of edits"}


@dataclass(frozen=True, eq=False)
class TrainingCurve(TableResult):
    """Losses by step: of the training since the last validation (mean over its steps), and of the validation.

    Attributes:
        table: ``step split edit_loss kl loss success``; ``split`` is ``"training"`` or ``"validation"``. ``edit_loss`` is in nats a token, ``kl``
            (drift on unrelated text; of SERAC the error of what is in scope) in nats, ``loss`` the weighted sum that is trained on, and
            ``success`` the share of edits after which every token of the target is the likeliest one.
        method: what was trained.
        provenance: the model, the versions.
    """

    ranked_by: ClassVar[str] = "success"
    table: pd.DataFrame
    method: str
    provenance: Provenance

    @property
    def best(self) -> dict[str, Any]:
        """The row of the smallest validation loss, whose networks are kept; empty where no validation was."""
        rows = [row for row in self.table.to_dict(orient="records") if row["split"] == "validation"]
        return min(rows, key=lambda row: row["loss"], default={})

    @override
    def headline(self) -> str:
        """The method, how long it was trained, and what the best validation was."""
        best, where = self.best, f"; {self.provenance.model}"
        if not best:
            return f"{self.method}, trained elsewhere{where}"
        trained = f"{self.method} trained for {counted(int(self.table['step'].max()), 'step')}, best at {best['step']}"
        return f"{trained}: success {best['success']:.0%}, KL {best['kl']:.3g}{where}"

    def plot(self) -> go.Figure:
        """Lines: edit loss, KL and success by step, of the training and of the validation."""
        panels: list[LinePanel] = []
        for column, title in _DRAWN.items():
            lines: list[Line] = []
            for style, split in enumerate(("training", "validation")):
                own = self.table[self.table["split"] == split]
                values = own[column].tolist()
                lines.append(Line(split, own["step"].tolist(), values, values, values, style=style))
            panels.append(LinePanel(title, lines, _UNITS[column]))
        return line_panels(panels, title=f"How {self.method} was trained", subtitle=self.headline(), x_axis="step", y_axis="")
