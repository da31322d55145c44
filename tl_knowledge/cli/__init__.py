"""The ``tl-knowledge`` command: argument parsing only.

Nothing here imports torch before the arguments are known to be right: the package's names are lazy, and the words that options take are read
from modules that do not need it. So ``--help``, ``--version`` and every typing mistake answer at once.

Exit codes: 0 done; 1 the model or the numbers are at fault; 2 an argument is (also what typer uses).
"""

from __future__ import annotations

import io
import logging
import sys
import warnings
from typing import Annotated

import typer

import tl_knowledge as tlk
from tl_knowledge.cli.blimp import blimp_command
from tl_knowledge.cli.categories import categories_command
from tl_knowledge.cli.edit import edit_command
from tl_knowledge.cli.evaluate import evaluate_command
from tl_knowledge.cli.explore import explore_command
from tl_knowledge.cli.growth import growth_command
from tl_knowledge.cli.info import info_command
from tl_knowledge.cli.layer_ranges import layer_ranges_command
from tl_knowledge.cli.moments import moments_command
from tl_knowledge.cli.neurons import neurons_command
from tl_knowledge.cli.perspectives import perspectives_command
from tl_knowledge.cli.perturb import perturb_command
from tl_knowledge.cli.printing import print_line
from tl_knowledge.cli.report import report_command
from tl_knowledge.cli.reproduce import reproduce_command
from tl_knowledge.cli.sweep import sweep_command
from tl_knowledge.cli.symmetry import symmetry_command
from tl_knowledge.cli.trace import trace_command
from tl_knowledge.cli.trace_facts import trace_facts_command
from tl_knowledge.cli.train import train_command
from tl_knowledge.errors import InputError, TLKnowledgeError

__all__ = ["app", "main"]

# rich_markup_mode: help texts and defaults are text, in which [brackets] are nothing but brackets.
app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None, context_settings={"max_content_width": 120})
app.command("trace")(trace_command)
app.command("trace-facts")(trace_facts_command)
app.command("perturb")(perturb_command)
app.command("neurons")(neurons_command)
app.command("blimp")(blimp_command)
app.command("moments")(moments_command)
app.command("train")(train_command)
app.command("edit")(edit_command)
app.command("evaluate")(evaluate_command)
app.command("growth")(growth_command)
app.command("categories")(categories_command)
app.command("layer-ranges")(layer_ranges_command)
app.command("symmetry")(symmetry_command)
app.command("perspectives")(perspectives_command)
app.command("sweep")(sweep_command)
app.command("report")(report_command)
app.command("explore")(explore_command)
app.command("reproduce")(reproduce_command)
app.command("info")(info_command)


def _say_version(wanted: bool | None) -> None:
    if wanted:
        typer.echo(f"tl-knowledge {tlk.__version__}")
        raise typer.Exit


@app.callback()
def _everywhere(
    version: Annotated[bool | None, typer.Option("--version", help="Print the version and exit.", callback=_say_version, is_eager=True)] = None,
) -> None:
    """Locate knowledge in language models, edit it, and look at it."""


def main() -> None:
    """Run the command line; our own errors become one line and an exit code."""
    # TransformerLens and transformers announce loading choices that load_model has already made.
    warnings.filterwarnings("ignore")
    logging.getLogger().setLevel(logging.ERROR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # an argument may hold bytes that are no text
    try:
        app()
    except TLKnowledgeError as error:
        print_line((f"{type(error).__name__}:", "bold red"), f" {error}", to_stderr=True)
        sys.exit(2 if isinstance(error, InputError) else 1)
