"""``tl-knowledge perspectives``: edits from the entity's and from the relation's side, both sides read after either."""

from __future__ import annotations

from typing import Annotated, Any

import typer

import tl_knowledge as tlk
from tl_knowledge.cli import options
from tl_knowledge.cli.arguments import cases_argument
from tl_knowledge.cli.loading import loads_model
from tl_knowledge.cli.results import show_result
from tl_knowledge.cli.scoring import editors_argument
from tl_knowledge.cli.words import RELATION_SIDE_METHODS

__all__ = ["perspectives_command"]


@loads_model
def perspectives_command(
    method: Annotated[list[str] | None, options.choice("method", RELATION_SIDE_METHODS, "; repeatable, default rome")] = None,
    model: options.Model = "factlm",
    dataset: options.EditSet = "factlm",
    source: options.Source = None,
    limit: Annotated[int, typer.Option(min=1, help="How many cases, from the first.")] = 20,
    template: Annotated[
        list[str] | None,
        typer.Option(help="A wording of the relation's side, as in '{} and [object] are related by'; repeatable, the first is edited."),
    ] = None,
    moments: options.Moments = None,
    corpus: options.Corpus = None,
    store: options.Store = None,
    progress: options.Progress = True,
    out: options.Page = None,
    table: options.TableFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Edit from the entity's side and from the relation's, and read both sides after either.

    The entity's side asks for the object, the relation's side for the relation's name between subject and object (Wei et al. 2024). Percent with 95%
    bootstrap intervals over cases, beside the unedited model.
    """
    names, cases, bar = method or ["rome"], cases_argument(dataset, source, limit), progress and not as_json
    relations = tlk.datasets.load_relations()
    wordings: dict[str, Any] = {"templates": tuple(template)} if template else {}
    tlk.datasets.relation_side_cases(cases, relations, **wordings)  # refuses a wording or a relation before a model is loaded
    given: dict[str, Any] = {"layer": None, "setting": None, "moments": moments, "corpus": corpus, "runner": "local", "workers": 1}
    editors = editors_argument(model, names, **given, progress=bar)
    sides = tlk.localised.measure_relation_side(
        editors.model, cases, relations=relations, methods=names, moments=editors.moments, store=store, progress=bar, **wordings
    )
    title, shown = "The entity's side and the relation's", dict[str, Any](out=out, table=table, as_json=as_json)
    show_result(
        sides,
        sides.summary(),
        title=title,
        figures=lambda: [sides.plot()],
        form=".1f",
        scores=("entity_ES", "entity_PS", "relation_ES", "relation_PS"),
        **shown,
    )
