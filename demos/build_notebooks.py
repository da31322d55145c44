"""Generate the demos' notebooks from their percent sources and execute them; an error in any cell is an error here.

python demos/build_notebooks.py build/demos
"""

from __future__ import annotations

import sys
from pathlib import Path

import jupytext
from nbclient import NotebookClient

MOST_SECONDS_A_CELL = 600


def main() -> None:
    """Write one executed ``.ipynb`` for every numbered demo."""
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for source in sorted(Path(__file__).parent.glob("[0-9]*.py")):
        notebook = jupytext.read(source)
        NotebookClient(notebook, timeout=MOST_SECONDS_A_CELL, kernel_name="python3").execute()
        jupytext.write(notebook, target / f"{source.stem}.ipynb")
        print(f"{source.name}: executed")


if __name__ == "__main__":
    main()
