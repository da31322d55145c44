"""Docstrings as the source has them, sections as griffe knows them.

Four things that griffe and Markdown do not read are rewritten before they are parsed:

- ``Example:``, as in Google's style guide. Griffe knows ``Examples:`` only and makes a box of running text of anything else.
- ``noise, samples: as in `trace``` among arguments, attributes or errors: one entry each, with the same text.
- a table between lines of ``====``, which only Sphinx draws: it becomes a block of code.
- a double colon before an indented block, which Sphinx takes away.
"""

from __future__ import annotations

import re
from textwrap import indent
from typing import Any

import griffe

EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)
SECTION = re.compile(r"^(?:Args|Attributes|Raises):\n(?:(?: {4}.*)?\n?)+", re.MULTILINE)
SHARED_ENTRY = re.compile(r"^    (\w+(?:, \w+)+):(.*(?:\n {8}.*)*)", re.MULTILINE)
TABLE = re.compile(r"^=+(?: +=+)+\n(?:.*\n)*?=+(?: +=+)+\n(?:(?:.+\n)+=+(?: +=+)+$)?", re.MULTILINE)
CODE = re.compile(r"``([^`]*)``")
LITERAL_BLOCK = re.compile(r"^::\n\n(?=    )", re.MULTILINE)
TRAILING_COLONS = re.compile(r"(?<=\w)::(?=\n\n    )")


class Sections(griffe.Extension):
    """Rewrite every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called once for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = readable(obj.docstring.value)


def readable(docstring: str) -> str:
    """The docstring in the words that griffe and Markdown know.

    Example:
        >>> print(readable("Trace.\\n\\nArgs:\\n    noise, seed: as in `trace`."))
        Trace.
        <BLANKLINE>
        Args:
            noise: as in `trace`.
            seed: as in `trace`.
    """
    text = EXAMPLE.sub("Examples:", docstring)
    text = SECTION.sub(lambda section: SHARED_ENTRY.sub(_one_entry_each, section[0]), text)
    text = TABLE.sub(lambda table: indent(CODE.sub(r"\1    ", table[0]), "    "), text)
    return TRAILING_COLONS.sub(":", LITERAL_BLOCK.sub("", text))


def _one_entry_each(entry: re.Match[str]) -> str:
    return "\n".join(f"    {name}:{entry[2]}" for name in entry[1].split(", "))
