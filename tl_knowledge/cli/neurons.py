"""``tl-knowledge neurons``: the knowledge neurons of one fact in several wordings, or of a fact set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import tl_knowledge as tlk
from tl_knowledge.cli import options
from tl_knowledge.cli.arguments import facts_argument
from tl_knowledge.cli.loading import loads_model, model_argument
from tl_knowledge.cli.printing import print_json, print_line, print_table, print_written, write_file
from tl_knowledge.cli.words import MEMORY_BUDGET
from tl_knowledge.errors import InputError
from tl_knowledge.neurons import Adaptation, AttributionSettings, AttributionVariant, LocationSettings, ThresholdKind
from tl_knowledge.wording import counted

__all__ = ["neurons_command"]

CONTROLS = 5
PLACES = ("last", "subject")


@loads_model
def neurons_command(
    prompts: Annotated[list[str] | None, typer.Argument(help="Wordings of one fact; without any, a fact set is taken.")] = None,
    target: Annotated[str | None, typer.Option(help="The answer to the wordings, with its leading space.")] = None,
    model: options.Model = "factlm",
    dataset: options.FactSet = "factlm",
    source: options.Source = None,
    relation: options.Relations = None,
    limit: Annotated[int, typer.Option(min=1, help="A random sample of so many known facts, drawn with --seed.")] = 100,
    threshold: Annotated[float, typer.Option(help="Of a prompt's scores; see --kind.")] = 0.2,
    kind: Annotated[str, options.choice("kind", ThresholdKind, ": whether the threshold is a share of the largest score")] = "max",
    shared_by: Annotated[float, typer.Option(help="Keep neurons in more than this share of a fact's prompts.")] = 0.5,
    adapt: Annotated[str, options.choice("adapt", Adaptation, ": move --shared-by until 2 to 5 neurons are left of each")] = "no",
    variant: Annotated[str, options.choice("variant", AttributionVariant, ": whose program's numbers")] = "ours",
    at: Annotated[str, options.choice("at", PLACES, ": the subject's last token (fact sets only)")] = "last",
    steps: Annotated[int, typer.Option(min=1, help="Points of the integral.")] = 20,
    factor: Annotated[list[float] | None, typer.Option(help="Scale the neurons by this; repeatable, default 0 (suppress) and 2 (enhance).")] = None,
    seed: options.Seed = 0,
    memory_budget: options.MemoryBudget = MEMORY_BUDGET,
    progress: options.Progress = True,
    out: options.Page = None,
    save: Annotated[
        Path | None, typer.Option(help="Write the neurons (.json for wordings, .parquet for a fact set).", callback=options.writable)
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Locate knowledge neurons, suppress and enhance them."""
    bar = progress and not as_json
    scoring: dict[str, Any] = {"variant": variant, "at": at, "steps": steps}
    selection: dict[str, Any] = {"threshold": threshold, "kind": kind, "shared_by": shared_by}
    running: dict[str, Any] = {"memory_budget": memory_budget, "progress": bar}
    LocationSettings(AttributionSettings(**scoring), **selection, adapt=adapt)  # pyright: ignore[reportArgumentType]  # refuses what selects nothing
    factors = factor or [0.0, 2.0]
    if prompts:
        wrong = {"--dataset": dataset != "factlm", "--source": source, "--relation": relation, "--at": at != "last", "--adapt": adapt != "no"}
        _check_wordings(target, [option for option, given in wrong.items() if given])
        loaded = model_argument(model)
        wordings = [tlk.Prompt.from_text(loaded, text, target=target) for text in prompts]
        scores = tlk.attribute_neurons(loaded, wordings, **scoring, **running)
        neurons = tlk.select_neurons(scores, **selection)
        if save is not None:
            neurons.save(save)
        _show_fact(scores, neurons, _scaled(loaded, wordings, neurons, factors, seed), out, as_json)
        return
    if target is not None:
        raise InputError("--target belongs to wordings; pass PROMPTS with it, or drop it to take a fact set.")
    facts = facts_argument(dataset, source, relation)
    loaded = model_argument(model)
    facts = tlk.sample_facts(tlk.known_facts(loaded, facts, progress=bar), limit, seed=seed)
    groups = tlk.neurons.fact_groups(loaded, facts, own_wording=False)
    located = tlk.locate_neurons(loaded, groups, **selection, **scoring, adapt=adapt, **running)  # pyright: ignore[reportArgumentType]
    if save is not None:
        located.save(save)
    _show_fact_set(located, _effects(loaded, facts, located, factors, seed, bar), out, as_json)


def _check_wordings(target: str | None, wrong: Sequence[str]) -> None:
    """Refuse wordings without an answer, and options that are for fact sets."""
    if target is None:
        raise InputError("no answer was given for the wordings; pass --target with its leading space, as in ' Paris'.")
    if wrong:
        raise InputError(f"{wrong[0]} belongs to a fact set, but wordings were given; drop one of them.")


def _effects(
    model: tlk.HookedModel, facts: Sequence[tlk.Fact], located: tlk.neurons.LocatedNeurons, factors: Sequence[float], seed: int, progress: bool
) -> list[tlk.neurons.NeuronEffects]:
    """What scaling the neurons does, for every factor; nothing where there is no other relation to compare with."""
    if len({fact.relation for fact in facts}) < 2:
        return []
    shared: dict[str, Any] = {"located": located, "seed": seed, "progress": progress}
    return [tlk.neurons.measure_neuron_effects(model, facts, factor=factor, **shared) for factor in factors]


def _scaled(
    model: tlk.HookedModel, wordings: Sequence[tlk.Prompt], neurons: tlk.NeuronSet, factors: Sequence[float], seed: int
) -> list[dict[str, Any]]:
    """Every wording's probability clean, with the neurons scaled, and with random neurons scaled (mean over draws)."""
    import torch

    from tl_knowledge.engine.batches import answer_probabilities

    sets = [neurons, *(neurons.random_control(seed + draw) for draw in range(CONTROLS))] if len(neurons) else []
    columns: dict[str, Any] = {"prompt": [prompt.text for prompt in wordings], "clean": answer_probabilities(model, wordings).tolist()}
    for x in factors if sets else []:
        own, *random = [answer_probabilities(model, wordings, lambda pos, s=s, x=x: s.scale(x, positions=pos)) for s in sets]
        columns |= {f"x {x:g}": own.tolist(), f"random x {x:g}": torch.stack(random).mean(0).tolist()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _show_fact(scores: tlk.neurons.NeuronAttribution, neurons: tlk.NeuronSet, rows: list[dict[str, Any]], out: Path | None, as_json: bool) -> None:
    """Print one fact's neurons and what scaling them does, or write them as a page or JSON."""
    Table = tlk.drawing.Table  # noqa: N806
    listed = [row for row in scores.top(scores.mean_scores.numel()).to_dict(orient="records") if (row["layer"], row["neuron"]) in neurons]
    effects = Table(tuple(rows[0]), [tuple(cell if isinstance(cell, str) else f"{cell:.4f}" for cell in row.values()) for row in rows])
    cells = [(str(row["layer"]), str(row["neuron"]), f"{row['score']:.4f}", f"{row['positive']} of {len(rows)}") for row in listed]
    table = Table(("layer", "neuron", "mean score", "prompts above 0"), cells)
    heading = f"{counted(len(neurons), 'neuron')} shared by {counted(len(rows), 'wording')} of one fact"
    if out is not None:
        parts = [heading, table, "P(answer):", effects, scores.plot()]
        write_file(out, tlk.drawing.html_page("Knowledge neurons of one fact", parts))
    if as_json:
        print_json({"neurons": listed, "effects": rows, "provenance": scores.provenance.to_dict()})
        return
    print_line((heading, "bold"))
    print_table(table)
    print_line("P(answer) of every wording:")
    print_table(effects)
    print_written(out)


def _show_fact_set(located: tlk.neurons.LocatedNeurons, effects: list[tlk.neurons.NeuronEffects], out: Path | None, as_json: bool) -> None:
    """Print a fact set's neurons and what scaling them does, or write them as a page or JSON."""
    if out is not None:
        write_file(out, tlk.neurons.neurons_page(located, effects))
    if as_json:
        print_json(_as_data(located, effects))
        return
    print_line((counted(len(located.sets), "fact"), "bold"), f" on {located.provenance.model}")
    print_table(tlk.neurons.statistics_table(located))
    if effects:
        print_table(tlk.neurons.effects_table(effects))
    print_written(out)


def _as_data(located: tlk.neurons.LocatedNeurons, effects: list[tlk.neurons.NeuronEffects]) -> dict[str, Any]:
    """Everything a program needs, as plain data."""
    facts = located.table.to_dict(orient="records")
    return {
        "facts": [row | {"neurons": list(neurons)} for row, neurons in zip(facts, located.sets, strict=True)],
        "statistics": located.statistics().to_dict(orient="records"),
        "layers": located.layer_distribution().to_dict(orient="records"),
        "effects": {f"{scaled.factor:g}": scaled.to_dataframe().to_dict(orient="records") for scaled in effects},
        "provenance": located.provenance.to_dict(),
    }
