"""``tl-knowledge moments``: second moments of the keys, which most editing methods need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tl_knowledge.cli.tables import terminal_table
from tl_knowledge.datasets import load_corpus
from tl_knowledge.drawing import Table
from tl_knowledge.editing import collect_key_moments
from tl_knowledge.errors import DataError
from tl_knowledge.models.loading import load_model

__all__ = ["corpus_argument", "moments_command"]


def moments_command(
    out: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    model: Annotated[str, typer.Option(help="'factlm', a Hugging Face id or a local directory.")] = "factlm",
    corpus: Annotated[Path | None, typer.Option(help="A text file, one text a line; default FactLM's own corpus.")] = None,
    layer: Annotated[list[int] | None, typer.Option(help="Repeatable; default all.")] = None,
    tokens: Annotated[int | None, typer.Option(help="How many to read; default ten for each neuron of a layer.")] = None,
    store: Annotated[Path | None, typer.Option(help="A folder: layers that are there are not computed again, and a killed pass goes on.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Collect the second moments of the keys, E[k k^T], in one pass for all layers."""
    found = collect_key_moments(load_model(model), corpus_argument(corpus), layers=layer, tokens=tokens, store=store, progress=not as_json)
    written = found.save(out)
    frame = found.to_dataframe()
    if as_json:
        rows = frame.to_dict(orient="records")
        typer.echo(json.dumps({"layers": rows, "corpus": found.corpus, "fingerprint": found.fingerprint, "path": str(written)}, indent=2))
        return
    rows = [
        (str(r["layer"]), str(r["neurons"]), str(r["tokens"]), f"{r['condition']:.2g}", f"{r['change']:.1%}") for r in frame.to_dict(orient="records")
    ]
    console = Console()
    console.print(terminal_table(Table(("layer", "neurons", "tokens", "condition number", "change since half of the tokens"), rows)))
    console.print(f"moments written to {written}", highlight=False, soft_wrap=True)


def corpus_argument(path: Path | None) -> list[str]:
    """A text file's lines, or the bundled corpus.

    Raises:
        DataError: the file cannot be read.
    """
    if path is None:
        return load_corpus()
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {str(path)!r} as text: {error}; pass a UTF-8 file with one text a line.") from error
