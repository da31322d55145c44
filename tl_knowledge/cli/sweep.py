"""``tl-knowledge sweep``: edit every layer, trace every layer, and ask what one tells of the other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import tl_knowledge as tlk
from tl_knowledge.cli import options
from tl_knowledge.cli.arguments import cases_argument, corpus_argument, noise_argument, store_of, subject_noise
from tl_knowledge.cli.loading import loads_model, model_and_asked
from tl_knowledge.cli.methods import moments_argument, named_methods
from tl_knowledge.cli.results import show_result
from tl_knowledge.cli.scoring import method_names
from tl_knowledge.cli.words import PROBLEMS, SWEEP_VARIANTS
from tl_knowledge.errors import InputError
from tl_knowledge.wording import counted

__all__ = ["sweep_command"]

R2 = {name: f"R2 of {name}" for name in ("layer", "tracing", "both")}
READING = "R2: of the editing score on the layer, on the tracing effect, and on both; gain: what tracing adds; p: of the F-test that it adds nothing"


@loads_model
def sweep_command(
    method: options.Methods = None,
    problem: Annotated[list[str] | None, options.choice("problem", PROBLEMS, "; repeatable, default error_injection")] = None,
    model: options.Model = "factlm",
    dataset: options.EditSet = "factlm",
    source: options.Source = None,
    limit: Annotated[int, typer.Option(min=1, help="How many cases, from the first.")] = 10,
    layer: options.Layers = None,
    window: Annotated[int, typer.Option(min=1, help="Layers restored together.")] = 5,
    noise: options.Noise = "3sd",
    samples: options.Samples = 10,
    seed: options.Seed = 0,
    variant: Annotated[str, options.choice("variant", SWEEP_VARIANTS, ": whose program's numbers")] = "ours",
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
    """Edit and trace each case in every layer: does localisation tell where to edit?

    A method of several layers edits five around each. Printed is how much of the editing scores' variance (R2) the layer, the tracing effect, and
    both explain; what the tracing effect adds to the layer is the gain.
    """
    names, bar = method_names(method, None), progress and not as_json
    for name in names:
        if {"layer", "layers"} & {part.partition("=")[0] for part in name.partition(":")[2].split(",")}:
            raise InputError(f"--method {name} names its layer, but a sweep edits every layer; drop it, and pass --layer for some layers only.")
    drawn, corpus_name, cases = noise_argument(noise), corpus_argument(corpus, model), cases_argument(dataset, source, limit)
    loaded, asked = model_and_asked(model, runner)
    first = layer[0] if layer else 0
    moved = {
        name: tlk.localised.move_method(loaded, each, layers=layer or None) for name, each in named_methods(loaded, names, [first], None).items()
    }
    shared: dict[str, Any] = {
        "noise": subject_noise(drawn, loaded, [case.fact.subject for case in cases]),
        "moments": moments_argument(loaded, list(moved.values()), moments, corpus_name, progress=bar),
        "samples": samples,
        "window": window,
        "layers": layer or None,
        "seed": seed,
        "variant": variant,
        "runner": runner,
        "workers": workers,
        "progress": bar,
    }
    sweeps = {
        (each, name): tlk.localised.sweep_layers(asked, cases, at, problem=each, store=store_of(store, f"{each}-{name}"), **shared)  # pyright: ignore[reportArgumentType]
        for each in problem or ["error_injection"]
        for name, at in moved.items()
    }
    _show(sweeps, variant, out, table, as_json)


def _show(sweeps: dict[tuple[str, str], tlk.localised.LayerSweep], variant: Any, out: Path | None, table: Path | None, as_json: bool) -> None:
    gain = tlk.localised.compare_sweeps(*sweeps.values(), names=tuple(name for _, name in sweeps), variant=variant)
    some = {key: each.skipped for key, each in sweeps.items() if each.skipped}
    left = [f"{problem}, {name}: {counted(len(out_of), 'case')} left out ({next(iter(out_of.values()))})" for (problem, name), out_of in some.items()]

    def figures() -> list[Any]:
        return [gain.plot(), *(figure for each in sweeps.values() for figure in (each.plot(), each.plot_scatter(variant=variant)))]

    title, shown = "Localisation against editing", dict[str, Any](out=out, table=table, as_json=as_json)
    show_result(gain, gain.summary().drop(columns=["outcome", "f"]).rename(columns=R2), title=title, figures=figures, notes=[READING, *left], **shown)
