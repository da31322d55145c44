"""``tl-knowledge evaluate``: score editing methods on edit cases, beside the unedited model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tl_knowledge.cli.methods import METHOD_NAMES, method_argument, moments_argument
from tl_knowledge.cli.moments import corpus_argument
from tl_knowledge.cli.tables import terminal_table
from tl_knowledge.datasets import load_counterfact, load_edit_cases, load_zsre
from tl_knowledge.drawing import Table, html_page
from tl_knowledge.errors import InputError
from tl_knowledge.evaluation import EditReport, ScoreTable, evaluate, score_table
from tl_knowledge.models.loading import load_model
from tl_knowledge.prompts.facts import EditCase
from tl_knowledge.results.storage import write_text

__all__ = ["evaluate_command"]

TERMINAL_SHOWN = ("S", "ES", "PS", "NS")
ZSRE_SHOWN = ("token_reliability", "token_generality", "token_specificity", "locality")


def evaluate_command(
    method: Annotated[list[str] | None, typer.Option(help=f"Repeatable, default rome: {', '.join(METHOD_NAMES)}.")] = None,
    model: Annotated[str, typer.Option(help="'factlm', a Hugging Face id or a local directory.")] = "factlm",
    dataset: Annotated[str, typer.Option(help="factlm, counterfact or zsre.")] = "factlm",
    source: Annotated[str | None, typer.Option(help="The data set's file, URL or hub id; default the data set's own.")] = None,
    limit: Annotated[int, typer.Option(help="How many cases, from the first.")] = 20,
    layer: Annotated[list[int] | None, typer.Option(help="Repeatable; default the published ones of the model.")] = None,
    setting: Annotated[list[str] | None, typer.Option(help="name=value, for one --method; repeatable.")] = None,
    protocol: Annotated[str, typer.Option(help="single, batch or sequential.")] = "single",
    batch_size: Annotated[int, typer.Option(help="Cases a plan, under single and sequential.")] = 1,
    moments: Annotated[Path | None, typer.Option(help="A file of tl-knowledge moments; default collected from --corpus.")] = None,
    corpus: Annotated[Path | None, typer.Option(help="A text file, one text a line; default FactLM's own corpus.")] = None,
    store: Annotated[Path | None, typer.Option(help="A folder: a killed run goes on (one subfolder a method).")] = None,
    out: Annotated[Path | None, typer.Option(help="Write an HTML page.")] = None,
    table: Annotated[Path | None, typer.Option(help="Write the table: .md, .tex or .csv.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Score editing methods, each case beside the unedited model."""
    names = method or ["rome"]
    if setting and len(names) > 1:
        raise InputError(f"--setting belongs to one method, but {len(names)} were given; run them one by one.")
    if table is not None and table.suffix not in (".md", ".tex", ".csv"):
        raise InputError(f"table {str(table)!r} has no known form; end it in .md, .tex or .csv.")
    cases = _cases(dataset, source, limit)
    loaded = load_model(model)
    methods = [method_argument(loaded, name, layer or [], setting or []) for name in names]
    known = moments_argument(loaded, names, methods, moments, corpus_argument(corpus), progress=not as_json)
    reports: list[EditReport] = []
    for name, each in zip(names, methods, strict=True):
        folder = None if store is None else store / name
        shared: dict[str, Any] = {"protocol": protocol, "batch_size": batch_size, "store": folder, "progress": not as_json}
        reports.append(evaluate(loaded, cases, each, moments=known, **shared))
    found, shown = score_table(*reports, names=tuple(names)), ZSRE_SHOWN if dataset == "zsre" else ()
    if table is not None:
        write_text(table, _written(found, table.suffix, shown))
    if out is not None:
        write_text(out, html_page("Editing methods", _page(found, reports, shown)))
    if as_json:
        scores = {name: {key: vars(score) for key, score in row.items()} for name, row in found.rows.items()}
        typer.echo(json.dumps({"cases": found.cases, "scores": scores, "provenance": [r.provenance.to_dict() for r in reports]}, indent=2))
        return
    console = Console()
    console.print(f"[bold]{found.cases} cases[/] on {found.model}; percent, 95% bootstrap over cases", highlight=False)
    console.print(terminal_table(_text_table(found, shown or TERMINAL_SHOWN)))
    for path in (table, out):
        if path is not None:
            console.print(f"written to {path}", highlight=False, soft_wrap=True)


def _cases(dataset: str, source: str | None, limit: int) -> list[EditCase]:
    if limit < 1:
        raise InputError(f"limit={limit} takes no case; pass at least 1.")
    if dataset == "factlm":
        return load_edit_cases()[:limit]
    loaders = {"counterfact": load_counterfact, "zsre": load_zsre}
    if dataset not in loaders:
        raise InputError(f"data set {dataset!r} has no edit cases; pass factlm, counterfact or zsre.")
    return loaders[dataset](limit=limit) if source is None else loaders[dataset](source, limit=limit)


def _text_table(found: ScoreTable, shown: tuple[str, ...]) -> Table:
    frame = found.to_dataframe(*shown)
    return Table(tuple(map(str, frame.columns)), [tuple(map(str, row)) for row in frame.to_numpy().tolist()])


def _written(found: ScoreTable, suffix: str, shown: tuple[str, ...]) -> str:
    if suffix == ".csv":
        return found.to_dataframe(*shown).to_csv(index=False)
    return (found.to_latex(*shown) if suffix == ".tex" else found.to_markdown(*shown)) + "\n"


def _page(found: ScoreTable, reports: list[EditReport], shown: tuple[str, ...]) -> list[Any]:
    intro = f"<p>{found.cases} cases, {found.model}: means in percent, 95% bootstrap intervals over cases.</p>"
    return [intro, _text_table(found, shown), found.plot(), *(report.plot_by(metric="NS") for report in reports)]
