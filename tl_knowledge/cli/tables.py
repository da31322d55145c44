"""Tables on the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table as RichTable

from tl_knowledge.drawing import Table

__all__ = ["terminal_table"]


def terminal_table(table: Table) -> RichTable:
    """A table of text as rich prints it."""
    made = RichTable(*table.header, box=SIMPLE_HEAD, padding=(0, 1))
    for row in table.rows:
        made.add_row(*map(escape, row))
    return made
