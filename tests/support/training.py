"""The scripts in ``training/factlm``, which are no package."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

__all__ = ["training_modules"]

FOLDER = Path(__file__).parents[2] / "training" / "factlm"
NAMES = {name: name for name in ("train", "text", "grammar", "recipe", "networks", "tokenizer", "editability", "compare")} | {"others": "other_facts"}


def training_modules() -> dict[str, ModuleType]:
    """The modules that tests ask, by name."""
    sys.path.insert(0, str(FOLDER))
    try:
        return {name: import_module(module) for name, module in NAMES.items()}
    finally:
        sys.path.remove(str(FOLDER))
