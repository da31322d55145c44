"""The code on the documentation's pages: where it stands, and running it as a reader who pastes a page from its top."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["ROOT", "Block", "blocks_of", "commands_of", "pages", "run_python"]

ROOT = Path(__file__).parents[2]
# A fence may stand indented in a list; the comment right above it says why it is not run, where it is not.
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<source>.*?)^ *```$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: (?P<reason>[^>]+) -->\s*\Z")


@dataclass(frozen=True)
class Block:
    """One fenced block: on which page, from which line of it, and why it is not run (empty where it is)."""

    page: str
    line: int
    language: str
    source: str
    reason: str


def pages() -> list[str]:
    """Every page with code of its own, by its path; the model's card stands once, as ``docs/factlm.md``.

    Tutorials and the gallery are written from executed notebooks, which `make demos` runs.
    """
    written = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]
    named = [str(page.relative_to(ROOT)) for page in written]
    return [name for name in named if not name.startswith("docs/tutorials/") and name != "docs/gallery.md"]


def blocks_of(page: str) -> list[Block]:
    """A page's fenced blocks from top to bottom."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for fence in FENCE.finditer(text):
        reason = NOT_RUN.search(text[: fence.start()])
        source = re.sub(rf"^{fence['indent']}", "", fence["source"], flags=re.MULTILINE)
        line = text[: fence.start("source")].count("\n") + 1
        found.append(Block(page, line, fence["language"], source, reason["reason"] if reason else ""))
    return found


def run_python(page: str, namespace: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run a page's Python from top to bottom in one namespace, which is returned; an error names the page's own line."""
    namespace = {"__name__": "__main__"} if namespace is None else namespace
    for block in blocks_of(page):
        if block.language == "python" and not block.reason:
            exec(compile("\n" * (block.line - 1) + block.source, str(ROOT / page), "exec"), namespace)
    return namespace


def commands_of(block: Block) -> list[list[str]]:
    """The words of every command of a shell block; comments and variables that are set before a command are left out."""
    joined = block.source.replace("\\\n", " ")
    words = [shlex.split(line, comments=True) for line in joined.splitlines()]
    return [[word for word in line if not re.match(r"[A-Z_]+=", word)] for line in words if line]
