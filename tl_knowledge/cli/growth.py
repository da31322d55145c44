"""``tl-knowledge growth``: how long a method's edits last as there are more of them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

import tl_knowledge as tlk
from tl_knowledge.cli import options
from tl_knowledge.cli.arguments import cases_argument
from tl_knowledge.cli.loading import loads_model
from tl_knowledge.cli.results import show_result
from tl_knowledge.cli.scoring import editors_argument, method_names
from tl_knowledge.cli.words import PROTOCOLS
from tl_knowledge.errors import InputError

__all__ = ["growth_command"]

CASES = 20


@loads_model
def growth_command(
    method: options.Methods = None,
    model: options.Model = "factlm",
    dataset: options.EditSet = "factlm",
    source: options.Source = None,
    size: Annotated[list[int] | None, typer.Option(min=1, help="A number of edits; repeatable, default 1, 10, 100, ... and --limit.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help=f"How many cases, from the first; default the largest --size, or {CASES}.")] = None,
    layer: options.EditLayers = None,
    setting: options.Settings = None,
    protocol: Annotated[str, options.choice("protocol", PROTOCOLS[1:], ": edits follow each other, or are planned together")] = "sequential",
    batch_size: Annotated[int, typer.Option(min=1, help="Cases a plan, under sequential.")] = 1,
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
    """Score methods with growing numbers of edits in the model at once.

    The cases are the first so many of the data set, and each size is measured on all of its own.
    """
    names, most = method_names(method, setting), limit or max(size or [CASES])
    if size and max(size) > most:
        raise InputError(f"--size {max(size)} is more than the {most} cases of --limit; raise --limit, or drop it.")
    cases = cases_argument(dataset, source, most)
    given: dict[str, Any] = {"layer": layer, "setting": setting, "moments": moments, "corpus": corpus, "runner": runner, "workers": workers}
    editors = editors_argument(model, names, **given, progress=progress and not as_json)
    sizes = size or sorted({10**power for power in range(len(str(len(cases)))) if 10**power <= len(cases)} | {len(cases)})
    shared: dict[str, Any] = editors.running | {"moments": editors.moments, "protocol": protocol, "batch_size": batch_size, "store": store}
    growth = tlk.evaluation.measure_growth(editors.asked, cases, editors.methods, sizes, **shared)
    measured = list(dict.fromkeys(growth.table["score"]))
    title, shown = "What is left of edits as there are more", dict[str, Any](out=out, table=table, as_json=as_json, scores=measured)
    show_result(growth, growth.summary(), title=title, figures=lambda: [growth.plot()], form=".1f", **shown)
