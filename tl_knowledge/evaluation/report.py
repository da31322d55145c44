"""Scores of an editing method over many cases, with intervals, beside the unedited model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pyarrow as pa

from tl_knowledge.drawing import grouped_bars
from tl_knowledge.evaluation.scores import METRICS
from tl_knowledge.provenance import Provenance
from tl_knowledge.statistics import largest_rows, mean_interval, paired_p_values, scalar_interval
from tl_knowledge.storage import read_table, write_table

__all__ = ["EditReport", "Score"]

DRAWN = ("S", "ES", "PS", "NS")


@dataclass(frozen=True)
class Score:
    """A mean over cases, in percent, with its 95% bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class EditReport:
    """One row a case.

    Attributes:
        table: ``case_id subject relation target_new`` and every metric after the edit, and before it (``base_ES`` ...).
        method: the method's name.
        provenance: the model, the method's settings, the protocol.
    """

    table: pd.DataFrame
    method: str
    provenance: Provenance

    @property
    def scores(self) -> dict[str, Score]:
        """Every metric's mean over cases, and ``S``, the harmonic mean of ES, PS and NS."""
        return self._scores("")

    @property
    def base(self) -> dict[str, Score]:
        """The same of the unedited model."""
        return self._scores("base_")

    def to_dataframe(self) -> pd.DataFrame:
        """One row a case."""
        return self.table.copy()

    def top(self, k: int = 10) -> pd.DataFrame:
        """The k cases of the largest efficacy magnitude."""
        return largest_rows(self.table, k, "EM")

    def summary(self) -> pd.DataFrame:
        """One row each for the method and the unedited model: means, in percent, with their intervals as text."""
        rows: list[dict[str, str]] = []
        for name, found in (("unedited", self.base), (self.method, self.scores)):
            rows.append({"model": name} | {key: f"{s.mean:.1f} [{s.low:.1f}, {s.high:.1f}]" for key, s in found.items()})
        return pd.DataFrame(rows)

    def to_markdown(self) -> str:
        """`summary` as a Markdown table."""
        frame = self.summary()
        lines = ["| " + " | ".join(map(str, row)) + " |" for row in [frame.columns.tolist(), *frame.to_numpy().tolist()]]
        return "\n".join([lines[0], "|" + "---|" * len(frame.columns), *lines[1:]])

    def compare(self, other: EditReport) -> pd.DataFrame:
        """Difference of two methods on the same cases, with its interval and a paired test (Wilcoxon, corrected for the metrics).

        Raises:
            InputError: fewer than 6 cases in common.
        """
        both = self.table.merge(other.table, on="case_id", suffixes=("", "_other"))
        first, second = (both[[metric + suffix for metric in METRICS]].to_numpy() for suffix in ("", "_other"))
        _, corrected = paired_p_values(first, second)
        rows: list[dict[str, object]] = []
        for k, metric in enumerate(METRICS):
            mean, low, high = scalar_interval(first[:, k] - second[:, k])
            rows.append({"metric": metric, "difference": mean, "low": low, "high": high, "p": float(corrected[k])})
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """Bars: S, ES, PS and NS of the unedited and the edited model."""
        bars = {
            name: [(s.mean / 100, s.low / 100, s.high / 100) for s in (found[key] for key in DRAWN)]
            for name, found in (("unedited", self.base), (self.method, self.scores))
        }
        return grouped_bars(
            ["S", "efficacy (ES)", "paraphrase (PS)", "neighbourhood (NS)"],
            bars,
            title=f"{self.method}: the new object is the likelier (ES, PS); the true one still is (NS)",
            subtitle=f"{len(self.table)} cases; {self.provenance.model}; 95% bootstrap over cases",
            group_axis="score",
            value_axis="share of prompts",
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to one ``.parquet`` file; returns the path."""
        table = pa.Table.from_pylist(self.table.to_dict(orient="records"))
        return write_table(path, "EditReport", table, {"method": self.method, "provenance": self.provenance.to_dict()})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> EditReport:
        """Read what `save` wrote.

        Raises:
            DataError: not such a file.
        """
        table, fields = read_table(path, "EditReport")
        return cls(pd.DataFrame(table.to_pylist()), fields["method"], Provenance(**fields["provenance"]))

    def _scores(self, prefix: str) -> dict[str, Score]:
        found = {metric: _score(self.table[prefix + metric].to_numpy(dtype=float)) for metric in METRICS}
        return {"S": _harmonic(self.table[[prefix + metric for metric in ("ES", "PS", "NS")]].to_numpy(dtype=float))} | found


def _score(values: np.ndarray) -> Score:
    rows = [np.array([x]) if np.isfinite(x) else np.zeros(0) for x in values]
    mean, low, high = mean_interval(rows)
    return Score(float(mean), float(low), float(high))


def _harmonic(values: np.ndarray) -> Score:
    """Harmonic mean of three columns' means; the interval is that of resampled cases."""

    def of(rows: np.ndarray) -> np.ndarray:
        means = np.nanmean(rows, axis=-2)
        with np.errstate(divide="ignore"):
            return np.asarray(3 / (1 / np.maximum(means, 1e-12)).sum(-1))

    if np.isnan(values).all(axis=0).any():
        return Score(float("nan"), float("nan"), float("nan"))
    drawn = np.random.default_rng(0).integers(0, len(values), (2000, len(values)))
    low, high = np.nanquantile(of(values[drawn]), [0.025, 0.975]) if len(values) > 1 else (float("nan"), float("nan"))
    return Score(float(of(values)), float(low), float(high))
