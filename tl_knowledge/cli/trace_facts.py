"""``tl-knowledge trace-facts``: trace a fact set, print the averages, write a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tl_knowledge as tlk
from tl_knowledge.cli import options
from tl_knowledge.cli.arguments import facts_argument, noise_argument, subject_noise, window_argument, words_argument
from tl_knowledge.cli.loading import loads_model, model_or_name
from tl_knowledge.cli.printing import print_json, print_line, print_table, print_written, write_file
from tl_knowledge.cli.words import MEMORY_BUDGET, SIDES
from tl_knowledge.errors import ComponentError, InputError
from tl_knowledge.models.hook_names import COMPONENTS
from tl_knowledge.runs.metric import PROBABILITY
from tl_knowledge.wording import counted

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["trace_facts_command"]

DEFAULT_COMPONENTS = COMPONENTS[:3]


@loads_model
def trace_facts_command(
    model: options.Model = "factlm",
    dataset: options.FactSet = "factlm",
    source: options.Source = None,
    relation: options.Relations = None,
    limit: Annotated[int | None, typer.Option(min=1, help="A random sample of so many facts, drawn with --seed.")] = None,
    corrupt: options.Corrupt = None,
    component: Annotated[list[str] | None, options.choice("component", COMPONENTS, "; repeatable, default the first three", ComponentError)] = None,
    sever: options.Sever = None,
    layer: options.Layers = None,
    window: options.Window = "auto",
    samples: options.Samples = 10,
    noise: options.Noise = "3sd",
    seed: options.Seed = 0,
    variant: options.Variant = "ours",
    metric: options.Metric = "probability",
    against: options.Against = None,
    known_only: Annotated[bool, typer.Option("--known-only/--all", help="Leave out facts that the model does not predict.")] = True,
    store: options.Store = None,
    runner: options.Runner = "local",
    workers: options.Workers = 2,
    memory_budget: options.MemoryBudget = MEMORY_BUDGET,
    progress: options.Progress = True,
    out: options.Page = None,
    table: Annotated[Path | None, typer.Option(help="Write the averages as CSV.", callback=options.writable)] = None,
    as_json: options.AsJson = False,
) -> None:
    """Trace a fact set from both sides, and average by token role.

    The sides are the subject and the relation: which of them is corrupted.
    """
    shared: dict[str, Any] = {
        "noise": noise_argument(noise),
        "corrupt": words_argument(corrupt, SIDES),
        "components": words_argument(component, DEFAULT_COMPONENTS),
        "sever": words_argument(sever, ()),
        "layers": layer or None,
        "window": window_argument(window),
        "samples": samples,
        "seed": seed,
        "variant": variant,
        "metric": metric,
        "against": against or None,
        "known_only": known_only,
        "store": store,
        "runner": runner,
        "workers": workers,
        "memory_budget": memory_budget,
        "progress": progress and not as_json,
    }
    facts = facts_argument(dataset, source, relation)
    drawn, loaded = facts if limit is None else tlk.sample_facts(facts, limit, seed=seed), model_or_name(model, runner)
    if runner == "ray" and noise.endswith("subject-sd"):
        raise InputError("--noise in sd of the subjects needs the model at hand; pass the number with --runner ray.")
    if runner == "local":
        shared["noise"] = subject_noise(shared["noise"], loaded, [fact.subject for fact in facts])
    average = tlk.trace_facts(loaded, drawn, **shared)
    if out is not None:
        write_file(out, average.to_html())
    if table is not None:
        write_file(table, _as_table(average).to_csv(index=False))
    if as_json:
        print_json(_as_data(average))
    else:
        _print(average, out)


def _as_table(average: tlk.TraceAverage) -> pd.DataFrame:
    """The averages; what they are in is a column of its own, unless it is the probability."""
    averages = average.to_dataframe()
    return averages if average.metric == PROBABILITY else averages.assign(metric=average.metric.name)


def _as_data(average: tlk.TraceAverage) -> dict[str, Any]:
    """Everything a program needs, as plain data."""
    averages = average.to_dataframe()
    return {
        "facts": len(average.facts),
        "given": average.given,
        "skipped": average.skipped,
        "metric": average.metric.name,
        "total_effects": average.total_effects().to_dict(orient="records"),
        "averages": averages.astype(object).where(averages.notna(), None).to_dict(orient="records"),
        "sides": average.compare_sides().table.to_dict(orient="records") if average.comparable else [],
        "provenance": average.provenance.to_dict(),
    }


def _print(average: tlk.TraceAverage, out: Path | None) -> None:
    tracing, table = tlk.tracing, tlk.drawing.Table
    left_out = f", {len(average.skipped)} of {average.given} left out" if average.skipped else ""
    print_line((counted(len(average.facts), "fact"), "bold"), f" on {average.provenance.model}{left_out}")
    print_table(tracing.total_effect_table(average))
    print_table(tracing.peak_table(average))
    if len(average.sides) == 2 and average.components:
        located = tracing.location_table(average)
        columns = [0, 1, *range(4, 7)]  # the peaks stand in the table above
        print_table(table([located.header[i] for i in columns], [[row[i] for i in columns] for row in located.rows]))
    print_written(out)
