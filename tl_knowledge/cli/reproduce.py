"""``tl-knowledge reproduce``: make a published table or figure again, rehearse it, or say what it would take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tl_knowledge as tlk
from tl_knowledge.cli import options
from tl_knowledge.cli.loading import loads_model, model_argument, quiet_libraries
from tl_knowledge.cli.printing import print_json, print_line, print_table, print_written, write_file
from tl_knowledge.errors import InputError, check_choice
from tl_knowledge.models.bundled import is_bundled

if TYPE_CHECKING:
    from tl_knowledge.published import Experiment, Rehearsal, Reproduction

__all__ = ["reproduce_command"]

TABLE_SUFFIXES = (".csv", ".md")
PAGE, TABLE = "page.html", "table.csv"  # in the store


@loads_model
def reproduce_command(
    name: Annotated[str | None, typer.Argument(help="An experiment; --list shows them.")] = None,
    list_all: Annotated[bool, typer.Option("--list", help="Show every experiment.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Say what it would take: data, memory and, with --rehearse, hours.")] = False,
    rehearse: Annotated[bool, typer.Option("--rehearse", help="Random weights of the model's shape, a few cases, nothing fetched.")] = False,
    model: Annotated[str | None, typer.Option(help=f"{options.MODEL_HELP}; default the paper's.", autocompletion=options.bundled_names)] = None,
    source: options.Source = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Facts or edits; default the paper's number, 3 in a rehearsal.")] = None,
    depth: Annotated[int | None, typer.Option(min=1, help="Layers of a rehearsal, where memory is short; default all.")] = None,
    corpus: options.Corpus = None,
    store: options.Store = None,
    runner: options.Runner = "local",
    workers: options.Workers = 2,
    progress: options.Progress = True,
    out: options.Page = None,
    table: Annotated[Path | None, typer.Option(help="Write the table: .csv or .md.", callback=options.writable)] = None,
    as_json: options.AsJson = False,
) -> None:
    """Make a published table or figure again: the paper's numbers beside ours.

    With --store, page.html and table.csv are written into that folder, and a run that was killed goes on from it.
    """
    if list_all:
        _show_list(as_json)
        return
    if name is None:
        raise InputError("no experiment was given; pass its name, or --list to see them all.")
    if table is not None:
        check_choice("ending of the table", table.suffix, TABLE_SUFFIXES)
    asked = tlk.published.published_experiment(name)
    bar = progress and not as_json
    if plan or rehearse:
        _show_plan(asked, model, limit, depth, plan=plan, rehearse=rehearse, progress=bar, as_json=as_json)
        return
    if depth is not None:
        raise InputError("--depth cuts the random model of a rehearsal; pass --rehearse, or drop it.")
    page = out or (None if store is None else store / PAGE)
    loaded = model or asked.model
    made = tlk.published.reproduce(
        loaded if runner == "ray" else model_argument(loaded, prepend_bos=None if is_bundled(model) else asked.prepend_bos),
        asked.name,
        source=source,
        limit=limit,
        corpus=corpus or "wikipedia",
        store=None if store is None else store / "parts",
        page=page,
        runner=runner,  # pyright: ignore[reportArgumentType]
        workers=workers,
        progress=bar,
    )
    for path in [table, *([] if store is None else [store / TABLE])]:
        if path is not None:
            write_file(path, made.table.to_csv(index=False) if path.suffix == ".csv" else made.table.to_markdown(index=False) + "\n")
    _show(made, as_json)
    print_written(None if as_json else page)


def _show_list(as_json: bool) -> None:
    experiments = list(tlk.published.EXPERIMENTS.values())
    if as_json:
        rows = [{"name": e.name, "title": e.title, "source": e.source, "models": list(e.cases), "data": e.data.name} for e in experiments]
        print_json({"experiments": rows})
        return
    cells = [(e.name, e.source, ", ".join(e.cases), e.title) for e in experiments]
    print_table(tlk.drawing.Table(("experiment", "published in", "models", "shows"), cells))


def _show_plan(
    asked: Experiment, model: str | None, limit: int | None, depth: int | None, *, plan: bool, rehearse: bool, progress: bool, as_json: bool
) -> None:
    quiet_libraries()
    pace: Rehearsal | None = None
    if rehearse:
        shape = None if model is None or is_bundled(model) else str(model).rsplit("/", maxsplit=1)[-1].lower()
        cases = 2 if plan else limit or 3
        pace = tlk.published.rehearse(asked.name, shape=shape, layers=depth, limit=cases, progress=progress)
    planned = tlk.published.plan_reproduction(asked.name, shape=model, limit=limit, pace=pace) if plan else None
    if as_json:
        data: dict[str, Any] = {} if planned is None else {"plan": dict(planned.table.itertuples(index=False)), "hours": planned.hours}
        if pace is not None:
            data |= {"rehearsal": pace.table.to_dict(orient="records"), "peak_memory": pace.peak_memory, "layers": pace.layers, "cases": pace.cases}
        print_json(data)
        return
    if pace is not None:
        print_line((pace.headline(), "bold"))
        cells = [(str(step), f"{seconds:.1f}", f"{each:.2f}") for step, seconds, each in pace.table.itertuples(index=False)]
        print_table(tlk.drawing.Table(("step", "seconds", "seconds a case"), cells))
    if planned is not None:
        print_table(tlk.drawing.Table((asked.name, ""), [tuple(map(str, row)) for row in planned.table.itertuples(index=False)]))


def _show(made: Reproduction, as_json: bool) -> None:
    if as_json:
        rows = made.table.to_dict(orient="records")
        settings = made.settings
        said = {"differs": list(settings.differs), "without": settings.without, "notes": list(made.notes)}
        said |= {"compared_with": settings.compared_with, "cases": settings.cases}
        print_json({"rows": rows} | said | {"provenance": made.provenance.to_dict()})
        return
    print_line((made.headline(), "bold"))
    print_table(made.as_text())
    for line in (*made.settings.differs, *made.notes):
        print_line(f"- {line}")
