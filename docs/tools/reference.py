"""An MkDocs hook that writes what pages only point at, so that no name is ever missing and nothing is said twice.

A page has a comment, this puts the text there::

    <!-- public names: tl_knowledge.tracing -->     every name of the namespace's __init__.pyi, those of `tlk` itself first
    <!-- editing methods -->                        every method of the registry, tl_knowledge/editing/registry.py
    <!-- the face -->                               what `import tl_knowledge as tlk` has itself, by room
    <!-- file: CHANGELOG.md -->                     a file of the repository's root, its links as seen from docs/
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NAMES = re.compile(r"<!-- public names: ([\w.]+)(?: without ([\w, ]+))? -->")
METHODS = "<!-- editing methods -->"
FACE = "<!-- the face -->"
FILE = re.compile(r"<!-- file: ([\w.]+) -->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the comments by files, by tables and by mkdocstrings' directives."""
    markdown = FILE.sub(lambda match: (ROOT / match[1]).read_text(encoding="utf-8").replace("](docs/", "]("), markdown)
    listed = NAMES.sub(lambda match: _directives(match[1], (match[2] or "").replace(" ", "").split(",")), markdown)
    for comment, text in ((METHODS, _editing_methods), (FACE, _face)):
        listed = listed.replace(comment, text()) if comment in listed else listed
    return listed


def public_names(namespace: str) -> list[str]:
    """What a namespace's stub exports: first what ``tlk`` has itself; functions, then classes, then constants, each in the stub's order."""
    face = {name for names in exports("tl_knowledge").values() for name in names}
    names = [name for names in exports(namespace).values() for name in names]
    return sorted(names, key=lambda name: (name not in face, 2 if name.isupper() and "_" in name else int(name[0].isupper())))


def exports(namespace: str) -> dict[str, list[str]]:
    """The names of a namespace's stub by the module that they are imported from."""
    stub = ROOT.joinpath(*namespace.split("."), "__init__.pyi")
    modules: dict[str, list[str]] = {}
    for node in ast.parse(stub.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            modules.setdefault(node.module or "", []).extend(alias.asname or alias.name for alias in node.names)
    return modules


def method_paths() -> dict[str, str]:
    """Short name and dotted path of every registered editing method, read without importing the package."""
    tree = ast.parse((ROOT / "tl_knowledge" / "editing" / "registry.py").read_text())
    tables = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, (ast.Assign, ast.AnnAssign))
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name) and node.value is not None
    }
    return {name: where.replace(":", ".") for name, where in ast.literal_eval(tables["METHODS"]).items()}


def _directives(namespace: str, without: list[str]) -> str:
    return "\n\n".join(f"::: {namespace}.{name}" for name in public_names(namespace) if name not in without)


def _editing_methods() -> str:
    rows = [f"| `{name}` | [`{path.rsplit('.', 1)[1]}`][{path}] |" for name, path in method_paths().items()]
    table = ["| `--method` | class |", "|---|---|", *rows]
    return "\n".join([*table, "", *(f"::: {path}\n" for path in method_paths().values())])


def _face() -> str:
    methods = {path.rsplit(".", 1)[1]: path for path in method_paths().values()}
    rows: dict[str, list[str]] = {}
    for module, names in exports("tl_knowledge").items():
        room = module.split(".")[0]
        rows.setdefault(room, []).extend(f"[`{name}`][{methods.get(name, f'tl_knowledge.{module}.{name}')}]" for name in names if room)
    return "\n".join(["| from | `tlk.` |", "|---|---|", *(f"| {room} | {' '.join(links)} |" for room, links in rows.items() if room)])
