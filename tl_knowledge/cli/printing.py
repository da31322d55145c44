"""What commands print and write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

import tl_knowledge as tlk

__all__ = ["print_json", "print_table", "print_written", "write_file"]


def print_table(console: Console, table: tlk.drawing.Table) -> None:
    """A table of text, as rich prints it."""
    printed = RichTable(*table.header, box=SIMPLE_HEAD, padding=(0, 1))
    for row in table.rows:
        printed.add_row(*map(escape, row))
    console.print(printed)


def print_json(data: dict[str, Any]) -> None:
    """Plain data, for programs."""
    typer.echo(json.dumps(data, indent=2))


def print_written(console: Console, path: Path | None, what: str = "page") -> None:
    """Say where something was written, if it was."""
    if path is not None:
        console.print(f"{what} written to {escape(str(path))}", highlight=False, soft_wrap=True)


def write_file(path: Path, text: str) -> None:
    """Write a text file, and its folder where there is none."""
    from tl_knowledge.results.storage import write_text

    write_text(path, text)
