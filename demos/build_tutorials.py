"""Make the documentation's tutorials from executed demos: their text, their code, and what each cell gave.

python demos/build_notebooks.py build/demos && python demos/build_tutorials.py build/demos docs [01 05 ...]

Tables stay tables and printed lines text; figures and circuitsvis views become pictures, which a Chromium draws offline.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from build_gallery import SHOWN, chromium_or_exit, draw, pages_of

MOST_LINES = 40
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
TABLE = re.compile(r'<table\b[^>]*class="dataframe".*?</table>', re.DOTALL)
HIDDEN = re.compile(r"<(Axes|Figure|IPython|bound method|function)\b")
BAR = re.compile(r"\d+%\|[#█ ]")
HEAD = """<!-- Written by `make gallery` from demos/{name}.py. -->

"""


def main() -> None:
    """Write a page for every executed notebook, or for the numbers that are named."""
    notebooks, docs, wanted = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    chromium, folder = chromium_or_exit(), docs / "tutorials"
    folder.mkdir(exist_ok=True)
    for path in sorted(notebooks.glob("[0-9]*.ipynb")):
        if wanted and path.stem[:2] not in wanted:
            continue
        (folder / f"{path.stem}.md").write_text(HEAD.format(name=path.stem) + "".join(_parts(path, docs, chromium)), encoding="utf-8")
        print(f"{path.stem}: written", flush=True)
    subprocess.run([sys.executable, "-m", "ruff", "format", "--quiet", str(folder)], check=True)


def _parts(path: Path, docs: Path, chromium: str) -> Iterator[str]:
    """A notebook's cells as markdown, each with what it gave."""
    number, heading, folder = 0, path.stem, "gallery" if path.name.startswith(SHOWN) else "tutorials"
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            heading = next((line.lstrip("# ") for line in reversed(cell.source.splitlines()) if line.startswith("#")), heading)
            yield _with_links(cell.source) + "\n\n"
            continue
        yield f"```python\n{cell.source}\n```\n\n"
        for output in cell.get("outputs", []):
            for page, size in pages_of(output):
                number += 1
                picture = docs / "images" / folder / f"{path.stem[:2]}_{number}.png"
                if folder != "gallery":  # which draws its own, by the same numbers
                    picture.parent.mkdir(parents=True, exist_ok=True)
                    draw(chromium, page, size, picture)
                yield f"![{heading}](../images/{folder}/{picture.name})\n\n"
            yield _printed(output)


def _with_links(text: str) -> str:
    """Demos name pages and other demos by their paths in the repository."""
    return re.sub(r"\]\((?:\.\./)?docs/", "](../", text)


def _printed(output: Any) -> str:
    """Text that a cell printed or showed; nothing for a figure, and no progress bars."""
    data: dict[str, Any] = output.get("data", {})
    if output.output_type == "error" or output.get("name") == "stderr" or list(pages_of(output)):
        return ""
    if table := TABLE.search(data.get("text/html", "")):
        return re.sub(r"<(table|tr|th|td)\b[^>]*>", r"<\1>", re.sub(r"\n\s*", "", table[0])) + "\n\n"
    text = COLOUR.sub("", output.get("text") or data.get("text/plain", "")).rstrip()
    if not text or HIDDEN.match(text) or BAR.search(text):
        return ""
    lines = text.splitlines()
    if len(lines) > MOST_LINES:
        lines = [*lines[:MOST_LINES], f"... {len(lines) - MOST_LINES} more lines"]
    return "```text\n" + "\n".join(lines) + "\n```\n\n"


if __name__ == "__main__":
    main()
