"""``tl-knowledge evaluate``: score editing methods on edit cases, beside the unedited model."""

from __future__ import annotations

from typing import Annotated, Any

import typer

import tl_knowledge as tlk
from tl_knowledge.cli import options
from tl_knowledge.cli.arguments import cases_argument
from tl_knowledge.cli.loading import loads_model
from tl_knowledge.cli.measures import measures_argument
from tl_knowledge.cli.scoring import editors_argument, method_names, show_scores
from tl_knowledge.cli.words import PROTOCOLS

__all__ = ["evaluate_command"]

TERMINAL_SCORES = ("S", "ES", "PS", "NS")
ZSRE_SCORES = ("token_reliability", "token_generality", "token_specificity", "locality")


@loads_model
def evaluate_command(
    method: options.Methods = None,
    model: options.Model = "factlm",
    dataset: options.EvaluatedSet = "factlm",
    source: options.Source = None,
    limit: Annotated[int, typer.Option(min=1, help="How many cases, from the first.")] = 20,
    layer: options.EditLayers = None,
    setting: options.Settings = None,
    protocol: Annotated[str, options.choice("protocol", PROTOCOLS)] = "single",
    batch_size: Annotated[int, typer.Option(min=1, help="Cases a plan, under single and sequential.")] = 1,
    measures: options.Measures = None,
    interval: options.Interval = "ours",
    moments: options.Moments = None,
    corpus: options.Corpus = None,
    store: options.Store = None,
    runner: options.Runner = "local",
    workers: options.Workers = 2,
    progress: options.Progress = True,
    out: options.Page = None,
    table: options.ScoreFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Score editing methods, each case beside the unedited model; with --measures also what else the edits moved."""
    names, follows = method_names(method, setting), "portability" in (measures or ())
    asked = measures_argument(measures, cases_argument(dataset, source, limit, alternative=follows), dataset, source)
    given: dict[str, Any] = {"layer": layer, "setting": setting, "moments": moments, "corpus": corpus, "runner": runner, "workers": workers}
    editors = editors_argument(model, names, **given, progress=progress and not as_json)
    reports = editors.reports(asked.cases, store, protocol=protocol, batch_size=batch_size, measures=asked.measures)
    scores = tlk.score_table(*reports, names=tuple(names), interval=interval)  # pyright: ignore[reportArgumentType]

    def figures() -> list[Any]:
        moved = [scores.plot_moved()] if asked.measures else []
        return [scores.plot(), *moved, *(report.plot_by(metric="NS", interval=scores.interval) for report in reports)]

    of_edits = ZSRE_SCORES if dataset == "zsre" else TERMINAL_SCORES if asked.columns else ()
    columns = scores.measured(*of_edits, *asked.columns) if of_edits else ()
    shown = dict[str, Any](out=out, table=table, as_json=as_json)
    show_scores(scores, reports, columns, title="Editing methods", figures=figures, in_terminal=TERMINAL_SCORES, **shown)
