"""``tl-knowledge neurons``: the knowledge neurons of one fact in several wordings, or of a fact set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.markup import escape

from tl_knowledge.cli.tables import terminal_table
from tl_knowledge.datasets import FACT_SETS, known_facts, load_facts, of_relation, sample_facts
from tl_knowledge.drawing import Table, html_page
from tl_knowledge.engine.batches import answer_probabilities
from tl_knowledge.errors import InputError
from tl_knowledge.models.loading import load_model
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.neurons import (
    LocatedNeurons,
    NeuronAttribution,
    NeuronEffects,
    NeuronSet,
    attribute_neurons,
    effects_table,
    fact_groups,
    locate_neurons,
    measure_neuron_effects,
    neurons_page,
    select_neurons,
    statistics_table,
)
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.results.storage import write_text

__all__ = ["neurons_command"]

CONTROLS = 5


def neurons_command(
    prompts: Annotated[list[str] | None, typer.Argument(help="Wordings of one fact; without any, a fact set is taken.")] = None,
    target: Annotated[str | None, typer.Option(help="The answer to the wordings, with its leading space.")] = None,
    model: Annotated[str, typer.Option(help="'factlm', a Hugging Face id or a local directory.")] = "factlm",
    dataset: Annotated[str, typer.Option(help=", ".join(FACT_SETS) + ".")] = "factlm",
    source: Annotated[str | None, typer.Option(help="The data set's file, folder, URL or hub id; default the data set's own.")] = None,
    relation: Annotated[list[str] | None, typer.Option(help="Only facts of this relation; repeatable.")] = None,
    limit: Annotated[int, typer.Option(help="A random sample of so many known facts, drawn with --seed.")] = 100,
    threshold: Annotated[float, typer.Option(help="Of a prompt's scores; see --kind.")] = 0.2,
    kind: Annotated[str, typer.Option(help="max (a share of the largest score), absolute or quantile.")] = "max",
    shared_by: Annotated[float, typer.Option(help="Keep neurons in more than this share of a fact's prompts.")] = 0.5,
    adapt: Annotated[str, typer.Option(help="no; or move --shared-by until 2 to 5 neurons are left: group (each fact) or relation.")] = "no",
    variant: Annotated[str, typer.Option(help="paper, dai, eleuther or kn_thesis.")] = "ours",
    at: Annotated[str, typer.Option(help="last, or subject: the subject's last token (fact sets only).")] = "last",
    steps: Annotated[int, typer.Option(help="Points of the integral.")] = 20,
    factor: Annotated[list[float] | None, typer.Option(help="Scale the neurons by this; repeatable, default 0 (suppress) and 2 (enhance).")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sample and of the random controls.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write an HTML page.")] = None,
    save: Annotated[Path | None, typer.Option(help="Write the neurons (.json for wordings, .parquet for a fact set).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Locate knowledge neurons, suppress and enhance them."""
    loaded = load_model(model)
    selection: dict[str, Any] = {"threshold": threshold, "kind": kind, "shared_by": shared_by}
    attribution: dict[str, Any] = {"variant": variant, "steps": steps, "progress": not as_json}
    factors = factor or [0.0, 2.0]
    if prompts:
        if target is None:
            raise InputError("no answer was given for the wordings; pass --target with its leading space, as in ' Paris'.")
        asked = [Prompt.from_text(loaded, text, target=target) for text in prompts]
        scores = attribute_neurons(loaded, asked, **attribution)
        neurons = select_neurons(scores, **selection)
        if save is not None:
            neurons.save(save)
        _show_fact(scores, neurons, _scaled(loaded, asked, neurons, factors, seed), out, as_json)
        return
    if target is not None:
        raise InputError("--target belongs to wordings; pass PROMPTS with it, or drop it to take a fact set.")
    facts = load_facts(dataset, source)
    facts = of_relation(facts, *relation) if relation else facts
    facts = sample_facts(known_facts(loaded, facts), limit, seed=seed)
    located = locate_neurons(loaded, fact_groups(loaded, facts, own_wording=False), **selection, adapt=adapt, at=at, **attribution)  # pyright: ignore
    compared = len({fact.relation for fact in facts}) > 1
    effects = [measure_neuron_effects(loaded, facts, factor=x, located=located, seed=seed, progress=not as_json) for x in factors] if compared else []
    if out is not None:
        write_text(out, neurons_page(located, effects))
    if save is not None:
        located.save(save)
    if as_json:
        typer.echo(json.dumps(_as_data(located, effects), indent=2))
    else:
        _print(located, effects, out)


def _scaled(model: HookedModel, asked: list[Prompt], neurons: NeuronSet, factors: list[float], seed: int) -> list[dict[str, Any]]:
    """Every wording's probability clean, with the neurons scaled, and with random neurons scaled (mean over draws)."""
    sets = [neurons, *(neurons.random_control(seed + draw) for draw in range(CONTROLS))] if len(neurons) else []
    columns: dict[str, Any] = {"prompt": [prompt.text for prompt in asked], "clean": answer_probabilities(model, asked).tolist()}
    for x in factors if sets else []:
        own, *random = [answer_probabilities(model, asked, lambda pos, s=s, x=x: s.scale(x, positions=pos)) for s in sets]
        columns |= {f"x {x:g}": own.tolist(), f"random x {x:g}": torch.stack(random).mean(0).tolist()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _show_fact(scores: NeuronAttribution, neurons: NeuronSet, rows: list[dict[str, Any]], out: Path | None, as_json: bool) -> None:
    """Print one fact's neurons and what scaling them does, or write them as a page or JSON."""
    found = [row for row in scores.top(scores.mean_scores.numel()).to_dict(orient="records") if (row["layer"], row["neuron"]) in neurons]
    effects = Table(tuple(rows[0]), [tuple(cell if isinstance(cell, str) else f"{cell:.4f}" for cell in row.values()) for row in rows])
    listed = Table(
        ("layer", "neuron", "mean score", "prompts above 0"),
        [(str(row["layer"]), str(row["neuron"]), f"{row['score']:.4f}", f"{row['positive']} of {len(rows)}") for row in found],
    )
    heading = f"{len(neurons)} neurons shared by {len(rows)} wordings of one fact"
    if out is not None:
        write_text(out, html_page("Knowledge neurons of one fact", [f"<p>{heading}</p>", listed, "<p>P(answer):</p>", effects, scores.plot()]))
    if as_json:
        typer.echo(json.dumps({"neurons": found, "effects": rows, "provenance": scores.provenance.to_dict()}, indent=2))
        return
    console = Console()
    console.print(f"[bold]{heading}[/]", highlight=False)
    console.print(terminal_table(listed))
    console.print("P(answer) of every wording:")
    console.print(terminal_table(effects))
    _say_written(console, out)


def _as_data(located: LocatedNeurons, effects: list[NeuronEffects]) -> dict[str, Any]:
    """Everything a program needs, as plain data."""
    facts = located.table.to_dict(orient="records")
    return {
        "facts": [row | {"neurons": list(neurons)} for row, neurons in zip(facts, located.sets, strict=True)],
        "statistics": located.statistics().to_dict(orient="records"),
        "layers": located.layer_distribution().to_dict(orient="records"),
        "effects": {f"{found.factor:g}": found.to_dataframe().to_dict(orient="records") for found in effects},
        "provenance": located.provenance.to_dict(),
    }


def _print(located: LocatedNeurons, effects: list[NeuronEffects], out: Path | None) -> None:
    console = Console()
    console.print(f"[bold]{len(located.sets)} facts[/] on {escape(located.provenance.model)}", highlight=False)
    console.print(terminal_table(statistics_table(located)))
    if effects:
        console.print(terminal_table(effects_table(effects)))
    _say_written(console, out)


def _say_written(console: Console, out: Path | None) -> None:
    if out is not None:
        console.print(f"page written to {out}", highlight=False, soft_wrap=True)
