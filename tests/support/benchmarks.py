"""Files of ``benchmarks/``, which is no package, for the tests that hold them."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parents[2] / "benchmarks"


def imported(name: str) -> ModuleType:
    """A file of that folder, by its name; what it imports of the folder is found too."""
    sys.path.insert(0, str(FOLDER))
    try:
        return import_module(name)
    finally:
        sys.path.remove(str(FOLDER))
