"""What is public: every name in a namespace's stub (``__init__.pyi``), with the object behind it."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tl_knowledge as tlk

PACKAGE = Path(tlk.__file__).parent
STUBS = (PACKAGE / "__init__.pyi", *sorted(PACKAGE.glob("*/__init__.pyi")))
_NAME = re.compile(r"^from \S+ import (\w+) as \1$", re.MULTILINE)


@dataclass(frozen=True)
class Public:
    """A public name: ``tlk.tracing.trace`` is ``Public("tracing", "trace", ...)``; names of the face have the namespace they come from."""

    namespace: str
    name: str
    thing: Any

    def __str__(self) -> str:
        return f"{self.namespace}.{self.name}".lstrip(".")


def stub_names(stub: Path) -> list[str]:
    """The names a stub gives, in its order."""
    return _NAME.findall(stub.read_text(encoding="utf-8"))


def public_names() -> list[Public]:
    """Every public function, class and value of every namespace, each once (under its room, where it is in the face too)."""
    by_identity: dict[tuple[int, str], Public] = {}
    for stub in STUBS:
        namespace = "" if stub.parent == PACKAGE else stub.parent.name
        module = importlib.import_module(f"tl_knowledge.{namespace}".rstrip("."))
        for name in stub_names(stub):
            thing = getattr(module, name)
            if not inspect.ismodule(thing):
                by_identity[id(thing), name] = Public(namespace, name, thing)
    return list(by_identity.values())


def public_functions() -> list[Public]:
    """Functions of every namespace."""
    return [public for public in public_names() if inspect.isfunction(inspect.unwrap(public.thing))]


def public_classes() -> list[Public]:
    """Classes of every namespace."""
    return [public for public in public_names() if inspect.isclass(public.thing)]


def public_methods(kind: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """A class' own public methods and class methods."""
    for name, member in vars(kind).items():
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, classmethod | staticmethod)):
            yield name, getattr(kind, name)
