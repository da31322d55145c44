"""Make the documentation's gallery from executed demos: every figure and circuitsvis view as a picture under the heading it stands under.

python demos/build_notebooks.py build/demos && python demos/build_gallery.py build/demos docs

Needs a Chromium, which draws them offline, as a reader's browser would.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import plotly.graph_objects as go
import plotly.io

SHOWN = ("08", "09", "10", "11")
VIEW_SIZE = (900, 760)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--proxy-server=127.0.0.1:9", "--virtual-time-budget=15000"]


def main() -> None:
    """Write ``gallery.md`` and its pictures into the documentation."""
    notebooks, docs = Path(sys.argv[1]), Path(sys.argv[2])
    chromium = chromium_or_exit()
    lines = ["# Gallery", "", "Every figure and view of four demos with the code that draws it, made from their notebooks by `make gallery`.", ""]
    for path in sorted(notebooks.glob("[0-9]*.ipynb")):
        if not path.name.startswith(SHOWN):
            continue
        title = path.stem[3:].replace("_", " ").capitalize()
        lines += [f"## {title}", "", f"From the tutorial [{title}](tutorials/{path.stem}.md), where everything before it stands.", ""]
        for number, (heading, code, source, size) in enumerate(_pictures(path), start=1):
            picture = docs / "images" / "gallery" / f"{path.stem[:2]}_{number}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            draw(chromium, source, size, picture)
            lines += [f"**{heading}**", "", f"![{heading}](images/gallery/{picture.name})", "", "```python", *code.splitlines(), "```", ""]
    (docs / "gallery.md").write_text("\n".join(lines), encoding="utf-8")


def chromium_or_exit() -> str:
    """Where Chromium is."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("Chromium is not installed, so nothing can be drawn (Debian: apt-get install chromium).")
    return chromium


def _pictures(path: Path) -> Iterator[tuple[str, str, str, tuple[int, int]]]:
    """Heading, code, page and size of everything a notebook draws."""
    heading = path.stem
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            headings = [line.lstrip("# ") for line in cell.source.splitlines() if line.startswith("#")]
            heading = headings[-1] if headings else heading
            continue
        for output in cell.get("outputs", []):
            for page, size in pages_of(output):
                yield heading, cell.source, page, size


def pages_of(output: Any) -> Iterator[tuple[str, tuple[int, int]]]:
    """A cell's output as a page of its own with its size, where it is a figure or a circuitsvis view."""
    data: dict[str, Any] = output.get("data", {})
    if "application/vnd.plotly.v1+json" in data:
        shown = data["application/vnd.plotly.v1+json"]
        figure = go.Figure(data=shown["data"], layout=shown["layout"])
        size = (int(figure.layout.width or VIEW_SIZE[0]) + 16, int(figure.layout.height or VIEW_SIZE[1]) + 16)
        yield plotly.io.to_html(figure, config={"displayModeBar": False}), size
    elif "CircuitsVis" in data.get("text/html", ""):
        yield f"<!doctype html><meta charset='utf-8'><body style='font-family: sans-serif'>{data['text/html']}</body>", VIEW_SIZE


def draw(chromium: str, page: str, size: tuple[int, int], picture: Path) -> None:
    """A page as a picture."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "page.html"
        source.write_text(page, encoding="utf-8")
        command = [chromium, *FLAGS, f"--user-data-dir={folder}/profile", f"--window-size={size[0]},{size[1]}", f"--screenshot={picture}"]
        subprocess.run([*command, source.as_uri()], check=True, capture_output=True, timeout=120)


if __name__ == "__main__":
    main()
