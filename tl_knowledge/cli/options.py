"""Options that several commands have: one word, one type and one help text each (``docs/grammar.md``).

A word is checked as soon as it is read, before any model is loaded; so nothing here may import torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeAlias, get_args

import typer

from tl_knowledge.cli.words import EDIT_SETS, EVALUATED_SETS, INTERVALS, MEASURES, METRICS, RUNNERS, SIDES, TRACE_VARIANTS
from tl_knowledge.datasets import FACT_SETS
from tl_knowledge.editing import METHODS
from tl_knowledge.errors import ComponentError, DataError, InputError, check_choice
from tl_knowledge.models.bundled import BUNDLED
from tl_knowledge.models.hook_names import Module
from tl_knowledge.results.writable import check_writable_file, check_writable_folder

__all__ = [
    "Against",
    "AsJson",
    "Corpus",
    "Corrupt",
    "EditLayers",
    "EditSet",
    "EditedPrompt",
    "EvaluatedSet",
    "FactSet",
    "Interval",
    "Layers",
    "Measures",
    "MemoryBudget",
    "Method",
    "Methods",
    "Metric",
    "Model",
    "Moments",
    "Noise",
    "Page",
    "Progress",
    "Relations",
    "Runner",
    "Samples",
    "ScoreFile",
    "Seed",
    "Settings",
    "Sever",
    "Source",
    "Store",
    "TableFile",
    "Variant",
    "Window",
    "Workers",
    "choice",
    "one_of",
    "writable",
]


MODEL_HELP = f"{', '.join(map(repr, BUNDLED))}, a Hugging Face id or a local directory"


def bundled_names(incomplete: str) -> list[str]:
    """The bundled models whose names begin so, for the shell's completion."""
    return [name for name in BUNDLED if name.startswith(incomplete)]


def choice(word: str, choices: Any, note: str = "", error: type[InputError] = InputError) -> Any:
    """An option that takes one of some words, or several where it is repeatable; an unknown word is refused with the nearest.

    Args:
        word: the option's name.
        choices: a `Literal`, or the known words.
        note: what the help text says after the words.
        error: the class to raise.
    """

    return typer.Option(help=f"{', '.join(get_args(choices) or choices)}{note}.", callback=one_of(word, choices, error))


def one_of(word: str, choices: Any, error: type[InputError] = InputError) -> Any:
    """What checks such an option, or an argument, as soon as it is read."""

    def check(value: Any) -> Any:
        for each in [value] if isinstance(value, str) else value or ():
            check_choice(word, each, choices, error)
        return list(dict.fromkeys(value)) if isinstance(value, list) else value  # what is said twice counts once

    return check


def writable(path: Path | None) -> Path | None:
    """A file to write, tried before anything is computed for it."""
    if path is not None:
        check_writable_file(path)
    return path


def _score_file(path: Path | None) -> Path | None:
    """A file for a table of scores, by its ending."""
    if path is not None:
        check_choice("ending of the table", path.suffix, (".md", ".tex", ".csv"))
    return writable(path)


def _folder(text: str) -> Path:
    """A folder to write into, as it was typed: ``Path("")`` would be the working directory."""
    try:
        check_writable_folder(text)
    except DataError as error:
        raise typer.BadParameter(str(error)) from error
    return Path(text)


def _known_methods(given: Any) -> Any:
    """Methods whose names are known, before their settings."""
    for text in given or ():
        check_choice("method", text.partition(":")[0], METHODS)
    return list(dict.fromkeys(given)) if given else given


Model: TypeAlias = Annotated[str, typer.Option(help=f"{MODEL_HELP}.", autocompletion=bundled_names)]
EditedPrompt: TypeAlias = Annotated[str, typer.Argument(help="The fact's text up to its object, as in 'The capital of France is'.")]

FactSet: TypeAlias = Annotated[str, choice("dataset", FACT_SETS, error=DataError)]
EditSet: TypeAlias = Annotated[str, choice("dataset", EDIT_SETS, error=DataError)]
EvaluatedSet: TypeAlias = Annotated[str, choice("dataset", EVALUATED_SETS, error=DataError)]
Measures: TypeAlias = Annotated[list[str] | None, choice("measures", MEASURES, ": what else the edits moved; repeatable")]
Source: TypeAlias = Annotated[str | None, typer.Option(help="The data set's file, folder, URL or hub id; default the data set's own.")]
Relations: TypeAlias = Annotated[list[str] | None, typer.Option(help="Only facts of this relation; repeatable.")]

Corrupt: TypeAlias = Annotated[list[str] | None, choice("corrupt", SIDES, "; repeatable, default both")]
Sever: TypeAlias = Annotated[list[str] | None, choice("sever", Module, "; repeatable", ComponentError)]
Layers: TypeAlias = Annotated[list[int] | None, typer.Option(min=0, help="Repeatable; default all.")]
Window: TypeAlias = Annotated[str, typer.Option(help="Layers restored together, or 'auto'.")]
Noise: TypeAlias = Annotated[str, typer.Option(help="Standard deviation: a number, 3sd (of all embeddings) or 3subject-sd (of the subjects').")]
Samples: TypeAlias = Annotated[int, typer.Option(min=1, help="Noise draws.")]
Seed: TypeAlias = Annotated[int, typer.Option(min=0, help="Seed of everything that is drawn.")]
Metric: TypeAlias = Annotated[str, choice("metric", METRICS, ": what effects are measured in", ComponentError)]
Against: TypeAlias = Annotated[list[str] | None, typer.Option(help="Another answer, of --metric logit_difference; repeatable.")]
Variant: TypeAlias = Annotated[str, choice("variant", TRACE_VARIANTS, ": whose program's numbers")]

Method: TypeAlias = Annotated[str, choice("method", METHODS)]
Methods: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(help=f"{', '.join(METHODS)}; repeatable, default rome. With settings of its own: rome:layer=5,clamp=3.", callback=_known_methods),
]
EditLayers: TypeAlias = Annotated[list[int] | None, typer.Option(min=0, help="Of the edit; repeatable, default the published ones of the model.")]
Settings: TypeAlias = Annotated[list[str] | None, typer.Option(help="name=value of the method, such as clamp=3; repeatable.")]
Interval: TypeAlias = Annotated[str, choice("interval", INTERVALS, ": 95% bootstrap over cases, or 1.96 sd / sqrt(n)")]
Moments: TypeAlias = Annotated[Path | None, typer.Option(help="A file of tl-knowledge moments; default collected from --corpus.")]
Corpus: TypeAlias = Annotated[str | None, typer.Option(help="Of key moments: a text file (one text a line), wikipedia or wikitext.")]

Store: TypeAlias = Annotated[Path | None, typer.Option(help="A folder: a run that was stopped goes on from there.", parser=_folder, metavar="PATH")]
Runner: TypeAlias = Annotated[str, choice("runner", RUNNERS)]
Workers: TypeAlias = Annotated[int, typer.Option(min=1, help="Ray actors.")]
MemoryBudget: TypeAlias = Annotated[int, typer.Option(min=1, help="Bytes that activations may take.")]
Progress: TypeAlias = Annotated[bool, typer.Option("--progress/--no-progress", help="Show a progress bar; never with --json.")]
Page: TypeAlias = Annotated[Path | None, typer.Option(help="Write an HTML page.", callback=writable)]
TableFile: TypeAlias = Annotated[Path | None, typer.Option(help="Write the table as CSV.", callback=writable)]
ScoreFile: TypeAlias = Annotated[Path | None, typer.Option(help="Write the table: .md, .tex or .csv.", callback=_score_file)]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
