"""How often an interchange makes the model say the source's answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import plotly.graph_objects as go

from tl_knowledge.drawing import Line, LinePanel, grouped_bars, line_panels
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.results.provenance import Provenance, provenance_of
from tl_knowledge.results.result import TableResult
from tl_knowledge.results.statistics import interval_text, largest_rows, scalar_interval, share_interval
from tl_knowledge.subspaces.trials import Basis, Outcome, Trials, outcome
from tl_knowledge.wording import counted

__all__ = ["SubspaceScores", "interchange_rows", "subspace_scores", "with_intervals"]

NAMES = {
    "learned": "learned",
    "means": "answers' means",
    "variance": "most variance",
    "random": "random",
    "whole": "whole state",
}
"""What each subspace is shown as, in order."""


@dataclass(frozen=True, eq=False)
class SubspaceScores(TableResult):
    """Interchanges in a learned subspace and in others, on pairs that it was not trained on.

    Attributes:
        table: one row a layer, subspace and pair: ``layer subspace base source target says``, and

            - ``said``: 1 where the interchanged run says the source's answer (interchange accuracy: Geiger et al. 2024);
            - ``effect``: by how much the interchange raises the logit of the source's answer over that of the base's.

            Subspaces are ``learned``, ``random``, ``variance`` (principal components of the states), ``means`` (of the answers' mean states), all
            of as many dimensions, and ``whole``, the whole state.
        component: whose states are exchanged.
        at: at the last token of which span.
        dims: dimensions of the subspaces.
        left_out: pairs that could not be used, by reason.
        provenance: how it was computed.
    """

    ranked_by: ClassVar[str] = "effect"
    table: pd.DataFrame
    component: str
    at: str
    dims: int
    left_out: dict[str, int]
    provenance: Provenance

    def headline(self) -> str:
        """Where, how many, how often, of which model."""
        frame = self.by_layer()
        best = largest_rows(frame.loc[frame["subspace"] == "learned"], 1, "said").iloc[0]
        return (
            f"{self.component} at {self.at!r}, {counted(self.dims, 'dim')}; {counted(int(best['pairs']), 'pair')}: "
            f"source's answer said in {best['said']:.0%}"
            f"{interval_text(best['said_low'], best['said_high'], '.0%')} at layer {int(best['layer'])}; {self.provenance.model}"
        )

    def by_layer(self) -> pd.DataFrame:
        """One row a layer and subspace: ``pairs``; ``said`` with Wilson's 95% interval; ``effect`` with a bootstrap's over pairs, in logits."""
        return with_intervals(self.table, ["layer", "subspace"])

    def summary(self) -> pd.DataFrame:
        """`by_layer`."""
        return self.by_layer()

    def plot(self) -> go.Figure:
        """How often the source's answer is said, by subspace; by layer where there are several."""
        frame = self.by_layer()
        layers = sorted(frame["layer"].unique().tolist())
        names = [name for name in NAMES if name in set(frame["subspace"])]
        pairs = int(frame["pairs"].iloc[0])
        title = f"Does a subspace of {self.dims} dimension{'s' * (self.dims > 1)} carry the answer?"
        subtitle = f"{self.component} at {self.at!r}, {counted(pairs, 'held-out pair')}, Wilson 95%; {self.provenance.model}"
        if len(layers) == 1:
            rows, subtitle = frame.set_index("subspace").loc[names], f"layer {layers[0]}, {subtitle}"
            bars = [(float(row["said"]), float(row["said_low"]), float(row["said_high"])) for row in rows.to_dict("records")]
            about = {"title": title, "subtitle": subtitle, "group_axis": "subspace", "value_axis": "says the source's answer"}
            return grouped_bars([NAMES[name] for name in names], {"interchanged": bars}, **about)
        said, effect = (
            [_line(frame.loc[frame["subspace"] == name], NAMES[name], column, [*NAMES].index(name)) for name in names]
            for column in ("said", "effect")
        )
        panels = [LinePanel("interchange accuracy", said), LinePanel("source's answer over the base's", effect, "effect (logits)")]
        subtitle = subtitle.replace("Wilson 95%", "95% intervals")
        return line_panels(panels, title=title, subtitle=subtitle, x_axis="layer", y_axis="says the source's answer", percent=True)


def _line(rows: pd.DataFrame, name: str, column: str, style: int) -> Line:
    layers, values, low, high = (rows[each].tolist() for each in ("layer", column, f"{column}_low", f"{column}_high"))
    return Line(name, layers, values, low, high, style=style)


def with_intervals(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Means of pairs with their 95% intervals: Wilson's of ``said``, a bootstrap's over pairs of ``effect``."""
    rows: list[dict[str, Any]] = []
    for key, group in table.groupby(list(by), sort=False):
        low, high = share_interval(int(group["said"].sum()), len(group))
        effect, effect_low, effect_high = scalar_interval(group["effect"])
        found = {"said": float(group["said"].mean()), "said_low": low, "said_high": high}
        rows.append(
            dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True))
            | {"pairs": len(group)}
            | found
            | {"effect": effect, "effect_low": effect_low, "effect_high": effect_high}
        )
    return pd.DataFrame(rows)


def subspace_scores(model: HookedModel, trials: Trials, basis: Basis, controls: Mapping[str, Basis], seed: int) -> SubspaceScores:
    """Interchanges in a learned subspace, in others and of the whole state."""
    before, site = outcome(model, trials, None, put=False), trials.site
    rows: list[dict[str, Any]] = []
    for name, each in ({"learned": basis} | dict(controls) | {"whole": None}).items():
        rows += interchange_rows(model, trials, {"layer": site.layer, "subspace": name}, before, outcome(model, trials, each))
    provenance = provenance_of(model, engine="one forward a subspace", seed=seed, component=site.component, at=site.at)
    return SubspaceScores(pd.DataFrame(rows), site.component, site.at, int(basis.shape[1]), trials.left_out, provenance)


def interchange_rows(model: HookedModel, trials: Trials, about: Mapping[str, Any], before: Outcome, after: Outcome) -> list[dict[str, Any]]:
    """One row a pair: what was said with a part of the source in the base's run."""
    rows: list[dict[str, Any]] = []
    effects = (after.difference - before.difference).tolist()
    for i, (base, source) in enumerate(trials.pairs):
        texts = {"base": base.text, "source": source.text, "target": _word(model, source.target_token), "says": _word(model, int(after.says[i]))}
        rows.append(dict(about) | texts | {"said": int(after.said[i]), "effect": effects[i]})
    return rows


def _word(model: HookedModel, token: int) -> str:
    return str(model.tokenizer.decode([token])) if model.tokenizer else str(token)
