"""One relation beside its subjects: where each is traced, what is read, and how far the relation is one affine map, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import pandas as pd
import plotly.graph_objects as go
from more_itertools import always_iterable

from tl_knowledge.attention import measure_attention_knockout
from tl_knowledge.door import public
from tl_knowledge.drawing import Line, LinePanel, line_panels
from tl_knowledge.engine.progress import progress_bar
from tl_knowledge.engine.rows import rows_engine
from tl_knowledge.errors import InputError, UnsupportedModelError, check_given
from tl_knowledge.models.hook_names import Component
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.relations import measure_relation_maps
from tl_knowledge.results.provenance import Provenance, provenance_of
from tl_knowledge.results.result import TableResult
from tl_knowledge.results.statistics import scalar_interval
from tl_knowledge.runs.roles import Place
from tl_knowledge.tracing import TraceAverage, trace_facts
from tl_knowledge.wording import counted, relation_words

__all__ = ["RelationReport", "report_relation"]

PANELS = {
    "subject traced": ("Subject corrupted, one module restored", "P(answer) that comes back"),
    "relation traced": ("Relation corrupted, one module restored", "P(answer) that comes back"),
    "attention blocked": ("The last token may not read", "change of P(answer), relative"),
    "relation as a map": ("The relation as one affine map", "share of facts"),
}
TRACED: dict[str, tuple[tuple[Component, Place, str], ...]] = {
    "subject traced": (("mlp_out", "last corrupted token", "MLP, subject's last token"), ("attn_out", "last token", "attention, last token")),
    "relation traced": (("mlp_out", "last token", "MLP, last token"), ("attn_out", "last token", "attention, last token")),
}
MAPPED = {"faithful": "map says what the model says", "constant": "mean object does", "causal": "edit by the map works"}


@dataclass(frozen=True)
class ModuleTest:
    """Attention against MLPs at the last token, mean over layers, one side corrupted: a row of `TraceAverage.compare_modules`."""

    corrupt: str
    difference: float
    low: float
    high: float
    effect_size: float
    p_corrected: float


@dataclass(frozen=True, eq=False)
class RelationReport(TableResult):
    """A relation's findings by layer.

    Attributes:
        table: one row a finding and layer: ``panel what layer value low high facts``, with 95% bootstrap intervals over facts. ``subject traced`` and
            ``relation traced``: average indirect effects with that side corrupted; ``attention blocked``: relative change when the last token may
            not read a span; ``relation as a map``: faithfulness and causality of a map of the state at that layer.
        modules: attention against MLPs at the last token, of each corrupted side.
        missing: panels that this model does not have, with the reason.
        relation: its name, or a template where it has none.
        provenance: how it was computed.
    """

    ranked_by: ClassVar[str] = "value"
    either_sign: ClassVar[bool] = True
    table: pd.DataFrame
    modules: tuple[ModuleTest, ...]
    missing: dict[str, str]
    relation: str
    provenance: Provenance

    def headline(self) -> str:
        """The relation, and what the test of modules says."""
        said = [f"{test.corrupt} {test.effect_size:+.2f} (p {test.p_corrected:.1g})" for test in self.modules]
        return (
            f"{relation_words(self.relation)!r}: effect size of attention against MLPs, last token: {', '.join(said)}; "
            f"{counted(self._facts(), 'fact')}; {self.provenance.model}"
        )

    def plot(self) -> go.Figure:
        """A panel each: traced from the subject, traced from the relation, blocked attention, the relation as a map."""
        panels: list[LinePanel] = []
        styles = {what: style for style, what in enumerate(dict.fromkeys(self.table["what"]))}
        for panel, (title, y_axis) in PANELS.items():
            rows: pd.DataFrame = self.table.loc[self.table["panel"] == panel]
            lines = [_line(rows.loc[rows["what"] == what], str(what), styles[what]) for what in dict.fromkeys(rows["what"])]
            if lines:
                panels.append(LinePanel(f"{title} ({counted(int(rows['facts'].max()), 'fact')})", lines, y_axis=y_axis))
        return line_panels(
            panels,
            title=f"Subject and relation of {relation_words(self.relation)!r}: same place, same form?",
            subtitle=f"{self.headline()}; bands: 95% bootstrap over facts",
            x_axis="layer",
            y_axis="",
            columns=2,
        )

    def _facts(self) -> int:
        return int(self.table.loc[self.table["panel"] == "subject traced", "facts"].max())


@public
def report_relation(
    model: AnyModel,
    facts: Fact | Iterable[Fact],
    *,
    examples: int = 8,
    limit: int | None = None,
    samples: int = 10,
    seed: int = 0,
    progress: bool = True,
) -> RelationReport:
    """Trace a relation's facts from both sides, block what the last token reads, and measure the relation as a map: one figure, by layer.

    The model is left as it was.

    Args:
        facts: of one relation, at least 6 that the model knows.
        examples: facts that the relation's maps are estimated from.
        limit: how many facts are traced, and a map is tried on, at most; from the first.
        samples, seed: of the noise; the seed is that of the maps' draws, too.
        progress: show a progress bar once the work has lasted two seconds.

    Raises:
        InputError: facts of several relations, or fewer than 6 that can be traced.
        TLKnowledgeError: as `trace_facts` and `measure_relation_maps`.

    Example:
        >>> import tl_knowledge as tlk
        >>> facts = tlk.datasets.of_relation(tlk.load_facts(), "P1303")
        >>> report = tlk.report.report_relation("factlm", facts, examples=3, limit=6, samples=1, progress=False)
        >>> sorted(set(report.table["panel"]))
        ['attention blocked', 'relation as a map', 'relation traced', 'subject traced']
    """
    model = as_model(model)
    given = check_given(always_iterable(facts, Fact), "fact")
    relations = list(dict.fromkeys(str(fact.relation) for fact in given))
    if len(relations) > 1:
        raise InputError(
            f"facts of {counted(len(relations), 'relation')} were given ({', '.join(relations[:3])}); a report is of one: see of_relation()."
        )
    missing: dict[str, str] = {}
    with progress_bar(what="relation", unit="part", progress=progress, total=3) as bar:
        maps = _mapped(model, given, examples, limit, seed)
        bar.update()
        average = trace_facts(model, given[:limit], components=("mlp_out", "attn_out"), samples=samples, seed=seed, progress=False)
        compared: pd.DataFrame = average.compare_modules().table.query("layer == -1 and place == 'last token'")
        rows = list(_traced(average))
        bar.update()
        try:
            rows += _blocked(model, average.facts)
        except UnsupportedModelError as error:
            missing["attention blocked"] = str(error)
        bar.update()
    rows += maps
    provenance = provenance_of(model, engine=rows_engine(model), seed=seed, examples=examples, samples=samples, limit=limit)
    names = [field.name for field in fields(ModuleTest)]
    tests = tuple(ModuleTest(**{name: row[name] for name in names}) for row in compared.to_dict("records"))
    return RelationReport(pd.DataFrame(rows), tests, missing, given[0].relation or given[0].template, provenance)


def _traced(average: TraceAverage) -> Iterator[dict[str, Any]]:
    """Average indirect effects of either side's modules where each is usually looked at."""
    for panel, lines in TRACED.items():
        side = "subject" if panel == "subject traced" else "relation"
        for component, place, what in lines:
            effects = average.effects_at(place, side, component)
            yield from _by_layer(panel, what, average.layers, effects.T)


def _blocked(model: HookedModel, facts: Sequence[Fact]) -> list[dict[str, Any]]:
    frame = measure_attention_knockout(model, facts, at=("subject", "relation"), progress=False).to_dataframe()
    named = {"panel": "attention blocked", "what": [f"{span} tokens" for span in frame["blocked"]]}
    return frame.rename(columns={"change": "value"}).assign(**named).drop(columns="blocked").to_dict("records")


def _mapped(model: HookedModel, facts: Sequence[Fact], examples: int, limit: int | None, seed: int) -> list[dict[str, Any]]:
    table = measure_relation_maps(model, facts, examples=examples, limit=limit, seed=seed, progress=False).table
    layers = sorted(set(table["layer"]))
    rows: list[dict[str, Any]] = []
    for score, what in MAPPED.items():
        values = [table.loc[table["layer"] == layer, score].dropna().to_numpy() for layer in layers]
        rows += _by_layer("relation as a map", what, layers, values)
    return rows


def _by_layer(panel: str, what: str, layers: Sequence[int], values: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """A finding's mean and interval over facts at every layer that has one."""
    for layer, of_facts in zip(layers, values, strict=True):
        if len(of_facts):
            mean, low, high = scalar_interval(of_facts)
            yield {"panel": panel, "what": what, "layer": layer, "value": mean, "low": low, "high": high, "facts": len(of_facts)}


def _line(rows: pd.DataFrame, name: str, style: int) -> Line:
    layers, values, low, high = (rows[column].tolist() for column in ("layer", "value", "low", "high"))
    return Line(name, layers, values, low, high, style)
