"""Attention against MLPs: which of the two carries what is known of a subject, and of a relation? (Wei et al. 2024, RQ1, as a test)

Both modules are restored at the same token of the same facts, so that each fact is its own control.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from typing_extensions import override

from tl_knowledge.arrays import FloatArray
from tl_knowledge.drawing import Line, LinePanel, line_panels
from tl_knowledge.errors import ComponentError
from tl_knowledge.models.hook_names import Module
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.result import TableResult
from tl_knowledge.results.significance import rank_biserial
from tl_knowledge.runs.roles import PLACES, last_corrupted
from tl_knowledge.tracing.sets.effects import RoleEffects
from tl_knowledge.tracing.sets.estimates import paired_estimates, paired_tests
from tl_knowledge.tracing.sets.figures import effect_axis, sample_words
from tl_knowledge.tracing.sets.settings import Survey

__all__ = ["ModuleComparison", "compare_modules"]

MODULES: tuple[Module, Module] = ("attn_out", "mlp_out")
WORDS = {"attn_out": "attention", "mlp_out": "MLPs"}
ALL_LAYERS = -1


@dataclass(frozen=True, eq=False)
class ModuleComparison(TableResult):
    """Attention against MLPs, paired over facts.

    Attributes:
        table: one row a corrupted side, place and layer, and one of their mean over layers (``layer`` -1): ``corrupt place window layer attn_out
            attn_out_low attn_out_high mlp_out mlp_out_low mlp_out_high difference low high effect_size p p_corrected differs facts``. Effects,
            their 95% bootstrap intervals and that of their difference, attention minus MLPs, are in the metric. ``effect_size`` is the rank
            correlation of matched pairs, 1 where attention has the larger effect in every fact, -1 where MLPs have; ``p`` is Wilcoxon's signed-rank
            test over facts, corrected over all rows (Benjamini and Hochberg); ``differs`` is ``p_corrected < 0.05``.
        settings: of the traces.
        sample: how many facts and noise samples, and of which model, in words.
    """

    ranked_by: ClassVar[str] = "effect_size"
    either_sign: ClassVar[bool] = True
    table: pd.DataFrame
    settings: Survey
    sample: str
    provenance: Provenance

    @override
    def headline(self) -> str:
        """Which module has the larger mean effect on each side, at the last token."""
        rows = self.table.query("layer == @ALL_LAYERS and place == 'last token'").to_dict("records")
        said = [f"{row['corrupt']} {row['difference']:+.3f} (effect size {row['effect_size']:+.2f})" for row in rows]
        return f"attention minus MLPs at the last token: {', '.join(said)}{self.settings.metric.remark}; {self.sample}"

    def plot(self) -> go.Figure:
        """Both modules by layer, a panel for each side and place; filled points differ after correction for many comparisons."""
        layers: pd.DataFrame = self.table.query("layer != @ALL_LAYERS")
        panels: list[LinePanel] = []
        for side, place in dict.fromkeys(zip(layers["corrupt"], layers["place"], strict=True)):
            rows: pd.DataFrame = layers.loc[(layers["corrupt"] == side) & (layers["place"] == place)]
            different = frozenset(int(x) for x in rows[rows["differs"]]["layer"])
            lines = [_line(rows, name, style, different) for style, name in enumerate(MODULES)]
            token = last_corrupted(side) if place == PLACES[0] else place
            panels.append(LinePanel(f"{side} corrupted: restored at the {token}", lines))
        return line_panels(
            panels,
            title="Attention against MLPs: which of them carries it?",
            subtitle=f"filled points: the two differ (Wilcoxon, paired over facts, p < .05 after Benjamini-Hochberg); {self.sample}; bands 95%",
            x_axis="layer",
            y_axis=effect_axis(self.settings.metric),
            columns=len(PLACES),
        )


def compare_modules(average: RoleEffects) -> ModuleComparison:
    """Paired difference, attention minus MLPs, for every corrupted side, place and layer, and for the mean over layers.

    Raises:
        ComponentError: one of the two was not traced, or they were restored in windows of different lengths.
        InputError: fewer than 6 facts.
    """
    missing = [module for module in MODULES if module not in average.components]
    if missing:
        raise ComponentError(f"{missing[0]!r} was not traced; trace components=('mlp_out', 'attn_out') to compare the modules.")
    tables: list[pd.DataFrame] = []
    columns: list[tuple[FloatArray, FloatArray]] = []
    for side in average.sides:
        windows = {average.of(side, module)[0].window for module in MODULES}
        if len(windows) > 1:
            raise ComponentError(f"the modules were restored in windows of {sorted(windows)} layers; trace both with one window= to compare them.")
        for place in PLACES:
            attention, mlps = (_with_mean(average.effects_at(place, side, module)) for module in MODULES)
            where = {"corrupt": side, "place": place, "window": windows.copy().pop(), "layer": [*average.layers, ALL_LAYERS]}
            tables.append(pd.DataFrame(where | paired_estimates(attention, mlps, MODULES) | {"effect_size": rank_biserial(attention - mlps)}))
            columns.append((attention, mlps))
    return ModuleComparison(paired_tests(tables, columns), average.settings, sample_words(average), average.provenance)


def _with_mean(effects: FloatArray) -> FloatArray:
    """Effects ``[fact layer]`` with their mean over layers as one more column."""
    return np.concatenate([effects, effects.mean(1, keepdims=True)], axis=1)


def _line(rows: pd.DataFrame, module: Module, style: int, different: frozenset[int]) -> Line:
    mean, low, high = (rows[column].tolist() for column in (module, f"{module}_low", f"{module}_high"))
    return Line(WORDS[module], rows["layer"].tolist(), mean, low, high, style, different)
