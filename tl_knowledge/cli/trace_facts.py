"""``tl-knowledge trace-facts``: trace a fact set, print the averages, write a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from tl_knowledge.cli.arguments import noise_argument, window_argument, words_argument
from tl_knowledge.cli.tables import terminal_table
from tl_knowledge.datasets import FACT_SETS, load_facts, of_relation, sample_facts
from tl_knowledge.drawing import Table
from tl_knowledge.results.storage import write_text
from tl_knowledge.tracing import TraceAverage, estimate_text, location_table, total_effect_table, trace_facts

__all__ = ["trace_facts_command"]


def trace_facts_command(
    model: Annotated[str, typer.Option(help="'factlm', a Hugging Face id or a local directory.")] = "factlm",
    dataset: Annotated[str, typer.Option(help=", ".join(FACT_SETS) + ".")] = "factlm",
    source: Annotated[str | None, typer.Option(help="The data set's file, folder, URL or hub id; default the data set's own.")] = None,
    relation: Annotated[list[str] | None, typer.Option(help="Only facts of this relation; repeatable.")] = None,
    limit: Annotated[int | None, typer.Option(help="A random sample of so many facts, drawn with --seed.")] = None,
    corrupt: Annotated[list[str] | None, typer.Option(help="subject or relation; repeatable, default both.")] = None,
    component: Annotated[list[str] | None, typer.Option(help="resid_post, mlp_out or attn_out; repeatable, default all.")] = None,
    sever: Annotated[list[str] | None, typer.Option(help="mlp_out or attn_out; repeatable.")] = None,
    window: Annotated[str, typer.Option(help="Layers restored together, or 'auto'.")] = "auto",
    samples: Annotated[int, typer.Option(help="Noise samples.")] = 10,
    noise: Annotated[str, typer.Option(help="Standard deviation: a number, or for example 3sd (of the embeddings).")] = "3sd",
    seed: Annotated[int, typer.Option(help="Seed of the sample and of the noise.")] = 0,
    all_facts: Annotated[bool, typer.Option("--all", help="Trace also facts that the model does not predict.")] = False,
    store: Annotated[Path | None, typer.Option(help="Folder of finished parts; a stopped run goes on from there.")] = None,
    runner: Annotated[str, typer.Option(help="local or ray.")] = "local",
    workers: Annotated[int, typer.Option(help="Ray actors.")] = 2,
    out: Annotated[Path | None, typer.Option(help="Write an HTML page.")] = None,
    table: Annotated[Path | None, typer.Option(help="Write the averages as CSV.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Trace a fact set from the subject's and the relation's side, and average by token role."""
    facts = load_facts(dataset, source)
    facts = of_relation(facts, *relation) if relation else facts
    average = trace_facts(
        model,
        facts if limit is None else sample_facts(facts, limit, seed=seed),
        noise_argument(noise),
        corrupt=words_argument(corrupt, ("subject", "relation")),
        components=words_argument(component, ("resid_post", "mlp_out", "attn_out")),
        sever=words_argument(sever, ()),
        window=window_argument(window),
        samples=samples,
        seed=seed,
        known_only=not all_facts,
        store=store,
        runner=runner,  # pyright: ignore[reportArgumentType]  # refused there with a list of the known
        workers=workers,
        progress=not as_json,
    )
    if out is not None:
        write_text(out, average.to_html())
    if table is not None:
        write_text(table, average.to_dataframe().to_csv(index=False))
    if as_json:
        typer.echo(json.dumps(_as_data(average), indent=2))
    else:
        _print(average, out)


def _as_data(average: TraceAverage) -> dict[str, Any]:
    """Everything a program needs, as plain data."""
    compared = len(average.sides) == 2 and len(average.facts) >= 6
    return {
        "facts": len(average.facts),
        "asked": average.asked,
        "skipped": average.skipped,
        "total_effects": average.total_effects().to_dict(orient="records"),
        "averages": average.to_dataframe().to_dict(orient="records"),
        "sides": average.compare_sides().to_dict(orient="records") if compared else [],
        "provenance": average.provenance.to_dict(),
    }


def _print(average: TraceAverage, out: Path | None) -> None:
    console = Console()
    left_out = f", {len(average.skipped)} of {average.asked} left out" if average.skipped else ""
    console.print(f"[bold]{len(average.facts)} facts[/] on {escape(average.provenance.model)}{left_out}", highlight=False)
    console.print(terminal_table(total_effect_table(average)))
    peaks = average.top(len(average.to_dataframe())).drop_duplicates(["corrupt", "component"]).to_dict(orient="records")
    rows = [(p["corrupt"], p["component"], p["role"], str(p["layer"]), estimate_text(p, "effect")) for p in peaks]
    console.print(terminal_table(Table(("corrupted", "restored", "largest at the", "layer", "average effect [95%]"), rows)))
    if len(average.sides) == 2:
        located = location_table(average)
        shown = [0, 1, *range(4, 7)]  # the peaks stand in the table above
        console.print(terminal_table(Table([located.header[i] for i in shown], [[row[i] for i in shown] for row in located.rows])))
    if out is not None:
        console.print(f"page written to {out}", highlight=False, soft_wrap=True)
