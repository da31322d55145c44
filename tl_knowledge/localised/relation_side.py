"""Knowledge edited from the entity's side and from the relation's (Wei et al. 2024, tables 1 and 2), with the row that those tables lack."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import pandas as pd
import plotly.graph_objects as go
from more_itertools import always_iterable
from typing_extensions import override

from tl_knowledge.datasets import RELATION_SIDE_TEMPLATES, relation_side_cases
from tl_knowledge.door import public
from tl_knowledge.drawing import grouped_bars
from tl_knowledge.editing import ROME, EditMethod, KeyMoments, method_for_model
from tl_knowledge.errors import InputError, check_choice
from tl_knowledge.evaluation import OtherCase, evaluate
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.prompts.facts import EditCase, Relation
from tl_knowledge.results.packing import plain
from tl_knowledge.results.provenance import Provenance, provenance_of
from tl_knowledge.results.result import TableResult
from tl_knowledge.results.statistics import scalar_interval
from tl_knowledge.results.writable import check_writable_folder
from tl_knowledge.wording import counted

__all__ = ["EditedSide", "RelationSideSettings", "RelationSides", "measure_relation_side"]

EditedSide: TypeAlias = Literal["entity", "relation", "relation's last token (ours)"]
"""What is edited: the fact's own prompt; the prompt that asks for the relation; or the fact's prompt, with the key of the relation's last token,
which is no experiment of Wei et al. but one of ours."""

VARIANTS: Mapping[str, Mapping[str, str]] = {
    "ft": {"entity": "meng2022_code", "relation": "meng2022_code"},
    "kn": {"entity": "meng2022_code", "relation": "meng2022_code"},
    "rome": {"entity": "meng2022_code", "relation": "wei2024"},
    "memit": {"entity": "ours", "relation": "wei2024"},
}
"""By method and edited side: which variant is Wei et al.'s program."""

READ = {
    "entity_ES": "entity reliability",
    "entity_PS": "entity generality",
    "relation_ES": "relation reliability",
    "relation_PS": "relation generality",
}


@dataclass(frozen=True)
class RelationSideSettings:
    """What was edited, and how.

    Attributes:
        methods: their names.
        templates: the wordings of the relation's side.
        method_settings: by method and side, its settings as plain data.
    """

    methods: tuple[str, ...]
    templates: tuple[str, ...]
    method_settings: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, eq=False)
class RelationSides(TableResult):
    """What edits from either side do to both.

    Attributes:
        table: one row a method, edited side and case: ``method edited case_id relation``, and in percent ``entity_ES entity_PS relation_ES
            relation_PS`` after the edit, and before it (``base_entity_ES`` ...).
        settings: the methods and wordings.
        provenance: the model, the versions.
    """

    ranked_by: ClassVar[str] = "relation_ES"
    table: pd.DataFrame
    settings: RelationSideSettings
    provenance: Provenance

    @override
    def headline(self) -> str:
        return f"{', '.join(self.settings.methods)} from both sides on {counted(self.table['case_id'].nunique(), 'case')}; {self.provenance.model}"

    @override
    def summary(self) -> pd.DataFrame:
        """Wei et al.'s tables: one row for the unedited model, and one a method and edited side; means in percent with 95% bootstrap intervals.

        Reliability and generality are what the tables' program counts: the new object (or the relation's name) is likelier than the old one (or
        than "None"), on the edited prompt and on its paraphrases.
        """
        rows = [{"method": method, "edited": edited} | _in_text(scores) for (method, edited), scores in self._means().items()]
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """Bars: the four scores of the unedited model and of every edit."""
        return grouped_bars(
            list(READ.values()),
            {
                method if not edited else f"{method}, edited: {edited}": [(mean / 100, low / 100, high / 100) for mean, low, high in scores.values()]
                for (method, edited), scores in self._means().items()
            },
            title="Edited from the entity's and from the relation's side: the new answer is likelier than the old one",
            subtitle=f"{self.headline()}; 95% bootstrap over cases",
            group_axis="what is read",
            value_axis="share of prompts",
        )

    def _means(self) -> dict[tuple[str, str], dict[str, tuple[float, float, float]]]:
        """By method and edited side, each score's mean and interval; the unedited model first."""
        first = self.table.drop_duplicates("case_id")
        means = {("unedited", ""): {score: _interval(first["base_" + score]) for score in READ}}
        for keys, group in self.table.groupby(["method", "edited"], sort=False):
            method, edited = map(str, keys)  # pyright: ignore[reportArgumentType]
            means[method, edited] = {score: _interval(group[score]) for score in READ}
        return means


@public
def measure_relation_side(
    model: AnyModel,
    cases: EditCase | Iterable[EditCase],
    *,
    relations: Iterable[Relation],
    methods: str | Sequence[str] = ("ft", "kn", "rome", "memit"),
    templates: Iterable[str] = RELATION_SIDE_TEMPLATES,
    moments: KeyMoments | None = None,
    store: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> RelationSides:
    """Edit each case from the entity's side and from the relation's as Wei et al.'s program does, and read both sides after either.

    The relation's side asks for the *name of the relation* between the subject and the new object (`relation_side_cases`); ROME and MEMIT still
    edit the subject's last token there. Beside it stands an experiment of ours: ROME on the entity's prompt, at the relation's last token.
    Settings are those published for the model, under the variant that is the program.

    Args:
        cases: from the entity's side, for example `load_counterfact`.
        relations: for the relations' names, for example `load_relations`.
        methods: of ``"ft"``, ``"kn"``, ``"rome"`` and ``"memit"``.
        templates: wordings of the relation's side; the first is edited.
        moments: of the model's keys, for ROME and MEMIT.
        store: a folder; a run that was killed goes on from it, twenty cases at a time.

    Raises:
        DataError: no case, a relation without a name, or a folder of another run.
        InputError: an unknown method, cases that are given twice, nothing published for the model, or no moments.

    Example:
        >>> import tl_knowledge as tlk
        >>> model, cases = tlk.load_model("factlm"), tlk.load_edit_cases(limit=2)
        >>> sides = tlk.localised.measure_relation_side(model, cases, relations=tlk.datasets.load_relations(), methods="ft", progress=False)
        >>> list(sides.summary()["edited"])
        ['', 'entity', 'relation']
    """
    if store is not None:
        check_writable_folder(store)
    model, names, wordings = as_model(model), tuple(always_iterable(methods)), tuple(templates)
    for name in names:
        check_choice("method", name, VARIANTS)
    of_entity = list(always_iterable(cases, EditCase))
    of_relation = relation_side_cases(of_entity, relations, templates=wordings)
    if len(set(of_entity)) < len(of_entity):
        raise InputError("a case is given twice; pass each once.")
    to_relation, to_entity = dict(zip(of_entity, of_relation, strict=True)), dict(zip(of_relation, of_entity, strict=True))
    tables: list[pd.DataFrame] = []
    used: dict[str, Any] = {}
    for name, edited, method in _edits(model, names):
        from_relation = edited == "relation"
        measure = OtherCase("entity", to_entity.__getitem__) if from_relation else OtherCase("relation", to_relation.__getitem__)
        folder = None if store is None else Path(store) / f"{name}-{edited.split(' ')[0].removesuffix(chr(39) + 's')}{'-token' * (' ' in edited)}"
        report = evaluate(
            model, of_relation if from_relation else of_entity, method, moments=moments, measures=measure, store=folder, progress=progress
        )
        tables.append(_both_sides(report.table, "relation" if from_relation else "entity").assign(method=name, edited=edited))
        used[f"{name}, {edited}"] = {"class": report.method} | plain(method)
    columns = ["method", "edited", "case_id", "relation", *READ, *(f"base_{score}" for score in READ)]
    settings = RelationSideSettings(names, wordings, used)
    table = pd.DataFrame(pd.concat(tables, ignore_index=True), columns=columns)
    return RelationSides(table, settings, provenance_of(model, engine="teacher forcing", seed=0, settings=settings))


def _edits(model: AnyModel, names: Sequence[str]) -> list[tuple[str, EditedSide, EditMethod]]:
    """Every method on every side."""
    edits: list[tuple[str, EditedSide, EditMethod]] = []
    for name in names:
        for edited in ("entity", "relation"):
            edits.append((name, edited, method_for_model(model, name, variant=VARIANTS[name][edited])))
        if name == "rome":
            edits.append((name, "relation's last token (ours)", replace(ROME.for_model(model), at="relation")))
    return edits


def _both_sides(table: pd.DataFrame, edited: str) -> pd.DataFrame:
    """A report's table with the edited side's scores under that side's name."""
    own = {f"{prefix}{score}": f"{prefix}{edited}_{score}" for prefix in ("", "base_") for score in ("ES", "PS")}
    return table.rename(columns=own)


def _in_text(scores: Mapping[str, tuple[float, float, float]]) -> dict[str, str]:
    return {READ[score]: f"{mean:.1f} [{low:.1f}, {high:.1f}]" for score, (mean, low, high) in scores.items()}


def _interval(scores: pd.Series) -> tuple[float, float, float]:
    """A mean and its interval; NaN where no case has the score, as without paraphrases."""
    there = scores.dropna()
    return scalar_interval(there) if len(there) else (float("nan"), float("nan"), float("nan"))
