"""Generate the demos' notebooks from their percent sources and execute them, two at a time; an error in any cell is an error here.

python demos/build_notebooks.py build/demos
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jupytext
from nbclient import NotebookClient

MOST_SECONDS_A_CELL = 600
TOGETHER = 2


def main() -> None:
    """Write one executed ``.ipynb`` for every numbered demo."""
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the kernels share the cores
    with ThreadPoolExecutor(TOGETHER) as pool:
        for name in pool.map(lambda source: build(source, target), sorted(Path(__file__).parent.glob("[0-9]*.py"))):
            print(f"{name}: executed", flush=True)


def build(source: Path, target: Path) -> str:
    """Execute one demo in a kernel of its own and write its notebook; returns the demo's name."""
    notebook = jupytext.read(source)
    NotebookClient(notebook, timeout=MOST_SECONDS_A_CELL, kernel_name="python3").execute()
    jupytext.write(notebook, target / f"{source.stem}.ipynb")
    return source.name


if __name__ == "__main__":
    main()
