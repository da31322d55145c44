"""``tl-knowledge blimp``: neurons of grammar, and whether the model still tells right sentences from wrong ones without them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tl_knowledge as tlk
from tl_knowledge.cli import options
from tl_knowledge.cli.loading import loads_model, model_and_asked
from tl_knowledge.cli.results import show_result
from tl_knowledge.cli.words import MEMORY_BUDGET
from tl_knowledge.neurons import Adaptation, AttributionVariant, ThresholdKind
from tl_knowledge.wording import counted

if TYPE_CHECKING:
    from tl_knowledge.datasets import MinimalPair

__all__ = ["blimp_command"]

GROUPINGS = ("determiner", "word", "paradigm")
PARADIGM = "determiner_noun_agreement_1"


@loads_model
def blimp_command(
    paradigm: Annotated[list[str] | None, typer.Option(help=f"BLiMP's name; repeatable, default {PARADIGM}.")] = None,
    model: options.Model = "factlm",
    source: Annotated[str | None, typer.Option(help="A .jsonl file, a folder or a hub id; default the sample that comes with the package.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Pairs of a paradigm, from the first.")] = 100,
    by: Annotated[str, options.choice("by", GROUPINGS, ": what the sentences of one neuron set share")] = "determiner",
    threshold: Annotated[float, typer.Option(help="Of a prompt's scores; see --kind.")] = 0.2,
    kind: Annotated[str, options.choice("kind", ThresholdKind, ": whether the threshold is a share of the largest score")] = "max",
    shared_by: Annotated[float, typer.Option(help="Keep neurons in more than this share of a group's sentences.")] = 0.5,
    adapt: Annotated[str, options.choice("adapt", Adaptation, ": move --shared-by until 2 to 5 neurons are left of each")] = "no",
    variant: Annotated[str, options.choice("variant", AttributionVariant, ": whose program's numbers")] = "ours",
    steps: Annotated[int, typer.Option(min=1, help="Points of the integral.")] = 20,
    factor: Annotated[float, typer.Option(help="Scale the neurons by this; 0 suppresses.")] = 0.0,
    seed: options.Seed = 0,
    memory_budget: options.MemoryBudget = MEMORY_BUDGET,
    store: options.Store = None,
    runner: options.Runner = "local",
    workers: options.Workers = 2,
    progress: options.Progress = True,
    out: options.Page = None,
    table: options.TableFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Locate neurons of grammar, scale them, and decide minimal pairs before and after.

    Printed is the share of pairs whose right sentence is the likelier, by paradigm: clean, with the neurons scaled, and with random ones scaled.
    """
    bar = progress and not as_json
    running: dict[str, Any] = {"runner": runner, "workers": workers, "memory_budget": memory_budget, "store": store}
    place = tlk.datasets.BLIMP_SAMPLE if source is None else source
    pairs = [pair for name in dict.fromkeys(paradigm or [PARADIGM]) for pair in _pairs(place, name, limit)]
    name_of = _NAMES[by]
    names = {pair: name_of(pair) for pair in pairs}  # refuses what has no determiner, before a model is loaded
    loaded, asked = model_and_asked(model, runner)
    groups = tlk.neurons.agreement_groups(loaded, pairs, by=names.__getitem__)
    choice: dict[str, Any] = {"threshold": threshold, "kind": kind, "shared_by": shared_by, "adapt": adapt, "variant": variant, "steps": steps}
    located = tlk.locate_neurons(asked, groups, **choice, **running, progress=bar)
    there = set(zip(located.table["relation"], located.table["name"], strict=True))
    asked_pairs = [pair for pair in pairs if (pair.paradigm, names[pair]) in there]
    decided = tlk.neurons.measure_reliability(loaded, asked_pairs, located, by=names.__getitem__, factor=factor, seed=seed, progress=bar)
    left = len(pairs) - len(decided.table)
    notes = [_counted(located), *([f"{left} of {counted(len(pairs), 'pair')} have no form that the model can be asked about"] if left else [])]

    def figures() -> list[Any]:
        return [decided.plot(), "Neurons by paradigm:", tlk.neurons.statistics_table(located), located.plot()]

    shown: dict[str, Any] = {"out": out, "table": table, "as_json": as_json}
    show_result(decided, decided.summary(), title="Neurons of grammar", figures=figures, notes=notes, **shown)


def _pairs(place: str | Path, paradigm: str, limit: int) -> list[MinimalPair]:
    """Some pairs of a paradigm.

    Raises:
        DataError: the source has none.
    """
    pairs = tlk.datasets.load_blimp(place, paradigm=paradigm, limit=limit)
    if not pairs:
        raise tlk.errors.DataError(f"{str(place)!r} has no pair of paradigm {paradigm!r}; pass BLiMP's own name of one that it has.")
    return pairs


def _counted(located: tlk.neurons.LocatedNeurons) -> str:
    counts = [f"{row['name']} {row['neurons']}" for row in located.table.to_dict(orient="records")]
    return f"neurons: {', '.join(counts)}"


_NAMES: dict[str, Any] = {
    "determiner": lambda pair: tlk.neurons.determiner(pair),  # noqa: PLW0108  # looked up when it is used, with what it imports
    "word": lambda pair: (pair.word_good or "").strip(),
    "paradigm": lambda pair: pair.paradigm,
}
