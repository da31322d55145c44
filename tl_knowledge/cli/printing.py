"""What commands print and write: every text as it is. rich would read ``[/b]`` as its markup, and ``:cat:`` as a picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

import tl_knowledge as tlk
from tl_knowledge.results.plain_text import printable, strict_json
from tl_knowledge.wording import relation_words

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["frame_table", "print_json", "print_line", "print_table", "print_written", "write_file"]

Words: TypeAlias = "str | tuple[str, str]"
"""A text, or a text and its style."""


def print_line(*words: Words, to_stderr: bool = False) -> None:
    """Texts one after another, some in a style such as ``bold``; long lines are left to the terminal."""
    parts = [(printable(part), "") if isinstance(part, str) else (printable(part[0]), part[1]) for part in words]
    Console(stderr=to_stderr).print(Text.assemble(*parts), soft_wrap=True)


def print_table(table: tlk.drawing.Table, *, header: bool = True) -> None:
    """A table of text."""
    look: dict[str, Any] = {"box": SIMPLE_HEAD, "padding": (0, 1)} if header else {"box": None, "show_header": False}
    printed = RichTable(**look)
    for name in table.header:
        printed.add_column(Text(printable(name)), overflow="fold")
    for row in table.rows:
        printed.add_row(*(Text(printable(cell)) for cell in row))
    Console().print(printed)


def frame_table(frame: pd.DataFrame, form: str = ".3f") -> tlk.drawing.Table:
    """A dataframe as a table of text; nothing where there is no number.

    Args:
        form: of numbers that are not whole.
    """
    columns = tuple(map(str, frame.columns))
    rows = [tuple(_cell(value, form, name) for name, value in zip(columns, row, strict=True)) for row in frame.itertuples(index=False, name=None)]
    return tlk.drawing.Table(columns, rows)


def _cell(value: Any, form: str, column: str) -> str:
    if column in ("relation", "category"):
        return relation_words(value)
    if isinstance(value, float):
        return "" if math.isnan(value) else format(value, form)
    return "" if value is None else str(value)


def print_json(data: dict[str, Any]) -> None:
    """Plain data, for programs; what is no finite number is ``null``."""
    typer.echo(strict_json(data))


def print_written(path: Path | None, what: str = "page") -> None:
    """Say where something was written, if it was."""
    if path is not None:
        print_line(f"{what} written to {path}")


def write_file(path: Path, text: str) -> None:
    """Write a text file, and its folder where there is none."""
    from tl_knowledge.results.storage import write_text

    write_text(path, text)
