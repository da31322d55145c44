"""Any text as pages, terminals, graphs, JSON, Markdown and LaTeX take it: every output of this package escapes here, or by a template.

Labels are bytes of somebody's tokenizer, and names are whatever a file says. What a format cannot hold (a control character, half of a surrogate
pair) is shown by a sign in its place, what the format would read as its own is escaped, and everything else stays as it is.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["latex_text", "markdown_text", "printable", "strict_json", "token_text"]

_SIGNS = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"},
    0x7F: 0x2421,
    **dict.fromkeys([*range(0x80, 0xA0), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF], 0xFFFD),
}
_HALF_A_PAIR = re.compile("[\ud800-\udfff]")

_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
}
_MARKDOWN = re.compile(r"[\\`*<>|\[\]~$&!#]|(?<![^\W_])_|_(?![^\W_])")  # an underscore inside a word means nothing


def printable(text: str) -> str:
    """A text that a page, a terminal and XML can show: control characters as their signs, other forbidden ones as U+FFFD; tab and newline stay.

    Example:
        >>> printable("a\\x1b[2J") == "a\\u241b[2J", printable("\\ud800") == "\\ufffd"
        (True, True)
    """
    return text.translate(_SIGNS)


def token_text(label: str) -> str:
    """A token as a label on one line: its line breaks are written out, and where nothing is left there is a blank.

    Example:
        >>> token_text(" a\\n"), token_text("")
        (' a\\\\n', ' ')
    """
    return label.replace("\n", "\\n") or " "


def latex_text(text: str) -> str:
    """A text as a LaTeX table's cell, or inside a caption, on one line.

    Example:
        >>> latex_text("50% of {a_b}")
        '50\\\\% of \\\\{a\\\\_b\\\\}'
    """
    escaped = "".join(_LATEX.get(character, character) for character in _on_one_line(text)).replace("--", "-{}-")
    # Where a row begins, a star or bracket would belong to the \\ (or the rule) before it.
    return f"{{{escaped[0]}}}{escaped[1:]}" if escaped[:1] in ("[", "*") else escaped


def markdown_text(text: str) -> str:
    """A text as a Markdown table's cell, on one line.

    Example:
        >>> print(markdown_text("`a` | b_c"))
        \\`a\\` \\| b_c
    """
    return _MARKDOWN.sub(r"\\\g<0>", _on_one_line(text))


def strict_json(value: Any, indent: int | None = 2) -> str:
    """JSON that every reader takes: what is not a finite number is ``null``, half of a surrogate pair U+FFFD, all else beyond ASCII escaped.

    Example:
        >>> strict_json({"p": float("nan"), "token": "\\u2028"}, indent=None)
        '{"p": null, "token": "\\\\u2028"}'
    """
    return json.dumps(_strict(value), indent=indent, allow_nan=False)


def _strict(value: Any) -> Any:
    if type(value).__module__ == "numpy":
        return _strict(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return _HALF_A_PAIR.sub("\ufffd", value)
    if isinstance(value, Mapping):
        return {_strict(str(key)): _strict(inner) for key, inner in value.items()}
    return [_strict(inner) for inner in value] if isinstance(value, list | tuple) else value


def _on_one_line(text: str) -> str:
    """Without line breaks, which end a row of a table: every run of white space is one blank."""
    return " ".join(printable(text).split())
