"""``tl-knowledge evaluate``: score editing methods on edit cases, beside the unedited model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

import tl_knowledge as tlk
from tl_knowledge.cli import options
from tl_knowledge.cli.arguments import corpus_argument
from tl_knowledge.cli.loading import loads_model, model_argument
from tl_knowledge.cli.methods import moments_argument, named_methods
from tl_knowledge.cli.printing import print_json, print_line, print_table, print_written, write_file
from tl_knowledge.cli.words import EDIT_SETS, INTERVALS, PROTOCOLS
from tl_knowledge.errors import DataError, InputError, check_choice

__all__ = ["evaluate_command"]

TERMINAL_SCORES = ("S", "ES", "PS", "NS")
ZSRE_SCORES = ("token_reliability", "token_generality", "token_specificity", "locality")
TABLE_SUFFIXES = (".md", ".tex", ".csv")


@loads_model
def evaluate_command(
    method: options.Methods = None,
    model: options.Model = "factlm",
    dataset: Annotated[str, options.choice("dataset", EDIT_SETS, error=DataError)] = "factlm",
    source: options.Source = None,
    limit: Annotated[int, typer.Option(min=1, help="How many cases, from the first.")] = 20,
    layer: options.EditLayers = None,
    setting: options.Settings = None,
    protocol: Annotated[str, options.choice("protocol", PROTOCOLS)] = "single",
    batch_size: Annotated[int, typer.Option(min=1, help="Cases a plan, under single and sequential.")] = 1,
    interval: Annotated[str, options.choice("interval", INTERVALS, ": 95% bootstrap over cases, or 1.96 sd / sqrt(n)")] = "ours",
    moments: options.Moments = None,
    corpus: options.Corpus = None,
    store: options.Store = None,
    progress: options.Progress = True,
    out: options.Page = None,
    table: Annotated[Path | None, typer.Option(help="Write the table: .md, .tex or .csv.", callback=options.writable)] = None,
    as_json: options.AsJson = False,
) -> None:
    """Score editing methods, each case beside the unedited model."""
    names = list(dict.fromkeys(method or ["rome"]))
    if setting and len(names) > 1:
        raise InputError(f"--setting belongs to one method, but {len(names)} were given; write settings beside the name, as in rome:clamp=3.")
    if table is not None:
        check_choice("ending of the table", table.suffix, TABLE_SUFFIXES)
    corpus_name, cases, bar = corpus_argument(corpus, model), _cases(dataset, source, limit), progress and not as_json
    loaded = model_argument(model)
    methods = named_methods(loaded, names, layer, setting)
    shared: dict[str, Any] = {"protocol": protocol, "batch_size": batch_size, "progress": bar}
    shared["moments"] = moments_argument(loaded, list(methods.values()), moments, corpus_name, progress=bar)
    folders = {name: None if store is None else store / re.sub(r"[^a-z0-9+]+", "-", name) for name in names}
    reports = [tlk.evaluate(loaded, cases, each, store=folders[name], **shared) for name, each in methods.items()]
    scores, columns = tlk.score_table(*reports, names=tuple(names), interval=interval), ZSRE_SCORES if dataset == "zsre" else ()
    if table is not None:
        write_file(table, _written(scores, table.suffix, columns))
    if out is not None:
        write_file(out, tlk.drawing.html_page("Editing methods", _page(scores, reports, columns)))
    if as_json:
        print_json(_as_data(scores, reports))
        return
    print_line((f"{scores.cases} cases", "bold"), f" on {scores.model}; percent, {scores.interval_words}")
    print_table(_text_table(scores, columns or TERMINAL_SCORES))
    print_written(table, "table")
    print_written(out)


def _cases(dataset: str, source: str | None, limit: int) -> list[tlk.EditCase]:
    if dataset == "factlm":
        if source is not None:
            raise DataError(f"data set 'factlm' is bundled and takes no source, but got {source!r}; drop it.")
        return tlk.load_edit_cases()[:limit]
    load = {"counterfact": tlk.datasets.load_counterfact, "zsre": tlk.datasets.load_zsre}[dataset]
    return load(limit=limit) if source is None else load(source, limit=limit)


def _as_data(scores: tlk.evaluation.ScoreTable, reports: list[tlk.EditReport]) -> dict[str, Any]:
    """Everything a program needs, as plain data."""
    rows = {name: {key: vars(score) for key, score in row.items()} for name, row in scores.rows.items()}
    return {"cases": scores.cases, "interval": scores.interval, "scores": rows, "provenance": [report.provenance.to_dict() for report in reports]}


def _text_table(scores: tlk.evaluation.ScoreTable, columns: tuple[str, ...]) -> tlk.drawing.Table:
    frame = scores.summary(*columns)
    return tlk.drawing.Table(tuple(map(str, frame.columns)), [tuple(map(str, row)) for row in frame.to_numpy().tolist()])


def _written(scores: tlk.evaluation.ScoreTable, suffix: str, columns: tuple[str, ...]) -> str:
    if suffix == ".csv":
        return scores.to_dataframe(*columns).to_csv(index=False)
    return (scores.to_latex(*columns) if suffix == ".tex" else scores.to_markdown(*columns)) + "\n"


def _page(scores: tlk.evaluation.ScoreTable, reports: list[tlk.EditReport], columns: tuple[str, ...]) -> list[Any]:
    intro = f"{scores.cases} cases, {scores.model}: means in percent; intervals: {scores.interval_words}."
    return [intro, _text_table(scores, columns), scores.plot(), *(report.plot_by(metric="NS", interval=scores.interval) for report in reports)]
