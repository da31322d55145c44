"""``tl-knowledge categories``: which facts are harder to edit."""

from __future__ import annotations

from typing import Annotated, Any

import typer

import tl_knowledge as tlk
from tl_knowledge.cli import options
from tl_knowledge.cli.arguments import cases_argument
from tl_knowledge.cli.loading import loads_model
from tl_knowledge.cli.results import show_result
from tl_knowledge.cli.scoring import editors_argument, method_names

__all__ = ["categories_command"]


@loads_model
def categories_command(
    method: options.Methods = None,
    model: options.Model = "factlm",
    dataset: options.EditSet = "factlm",
    source: options.Source = None,
    limit: Annotated[int, typer.Option(min=1, help="How many cases, from the first.")] = 40,
    layer: options.EditLayers = None,
    setting: options.Settings = None,
    interval: options.Interval = "ours",
    moments: options.Moments = None,
    corpus: options.Corpus = None,
    store: options.Store = None,
    runner: options.Runner = "local",
    workers: options.Workers = 2,
    progress: options.Progress = True,
    out: options.Page = None,
    table: options.TableFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Score editing methods by relation: which facts are harder?"""
    names, cases = method_names(method, setting), cases_argument(dataset, source, limit)
    given: dict[str, Any] = {"layer": layer, "setting": setting, "moments": moments, "corpus": corpus, "runner": runner, "workers": workers}
    editors = editors_argument(model, names, **given, progress=progress and not as_json)
    reports = editors.reports(cases, store)
    scores: Any = tlk.evaluation.compare_categories(*reports, names=tuple(names), interval=interval)  # pyright: ignore[reportArgumentType]
    title, shown = "Which facts are harder to edit", dict[str, Any](out=out, table=table, as_json=as_json, scores=("S", "ES", "PS", "NS"))
    show_result(scores, scores.summary(), title=title, figures=lambda: [scores.plot(), scores.plot_scatter()], form=".1f", **shown)
