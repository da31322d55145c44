"""An MkDocs hook: whatever the pages' Python says of ``tlk`` must be there, names and arguments alike; else a warning, which fails the build.

Nothing is run and nothing is imported: griffe reads the package's source.
"""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(tlk\.[^`]+)`")
log = logging.getLogger("mkdocs.hooks.snippets")


def on_pre_build(**_: Any) -> None:
    """The file that is no page."""
    _warn("README.md", (ROOT / "README.md").read_text(encoding="utf-8"))


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Every page as it is written."""
    _warn(page.file.src_uri, markdown)
    return markdown


def problems(markdown: str) -> Iterator[str]:
    """What the code of a page says that the package does not have."""
    blocks = BLOCK.findall(markdown)
    for source in blocks + INLINE.findall(markdown):
        try:
            tree = ast.parse(source)
        except SyntaxError as error:
            if source in blocks:
                yield f"code that does not parse ({error.msg}): {source.splitlines()[(error.lineno or 1) - 1]}"
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and (path := _dotted(node)) is not None and _found(path) is None:
                yield f"{path}, which is not there"
            if isinstance(node, ast.Call) and (path := _dotted(node.func)) is not None:
                unknown = [word.arg for word in node.keywords if word.arg and word.arg not in (_arguments(path) or [word.arg])]
                yield from (f"{path}({word}=...), which it does not take" for word in unknown)
                if len(node.args) > _by_position(path):
                    yield f"{path}(...) with {len(node.args)} arguments by position, which it does not take"


def _warn(name: str, markdown: str) -> None:
    for problem in problems(markdown):
        log.warning("%s has %s", name, problem)


def _dotted(node: ast.expr) -> str | None:
    """``tlk.editing.ROME`` as text; ``None`` for what does not begin with ``tlk``."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join(["tlk", *reversed(parts)]) if isinstance(node, ast.Name) and node.id == "tlk" else None


@cache
def _package() -> griffe.Module:
    return griffe.load("tl_knowledge", search_paths=[ROOT], extensions=griffe.load_extensions("dataclasses"), resolve_aliases=True)  # pyright: ignore


@cache
def _found(path: str) -> Any:
    """The object, or ``None``."""
    here: Any = _package()
    for part in path.split(".")[1:]:
        try:
            here = here.all_members[part]
            here = here.final_target if here.is_alias else here
        except (KeyError, griffe.AliasResolutionError):
            return None
    return here


def _arguments(path: str) -> list[str] | None:
    """The names of a function's or a class's arguments; ``None`` for anything else, or where any keyword is taken."""
    it = _found(path)
    if it is None or not (it.is_function or it.is_class):
        return None
    parameters = list(it.parameters)
    return None if any(p.kind is griffe.ParameterKind.var_keyword for p in parameters) else [p.name for p in parameters]


def _by_position(path: str) -> float:
    """How many arguments may be passed by position; as many as one likes where that is not known."""
    it, kinds = _found(path), griffe.ParameterKind
    if (
        it is None
        or not (it.is_function or it.is_class)
        or (it.is_class and not list(it.parameters))
        or any(p.kind is kinds.var_positional for p in it.parameters)
    ):
        return float("inf")
    bound = 1 if it.is_class else 0  # self
    method = "." in path and _found(path.rsplit(".", 1)[0]).is_class
    return len([p for p in it.parameters if p.kind is not kinds.keyword_only]) - max(bound, int(method))
