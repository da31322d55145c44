"""What a page looks like, measured by the browser: how wide it is, and which texts of its figures overlap or are cut."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

from support.browser import browse

__all__ = ["measured"]

MEASURE = """<script>
// A turned label fills its bounding box along the diagonal only; neighbours with the same angle are apart if their anchors are.
const turned = t => /rotate\\((-?[1-9]|-?[1-9][0-9]+)/.test(t);
const measure = () => {
  const width = document.documentElement.clientWidth, cut = [], over = [], charts = [...document.querySelectorAll(".js-plotly-plot")];
  for (const chart of charts) {
    const frame = chart.getBoundingClientRect();
    const texts = [...chart.querySelectorAll("svg text")].filter(t => t.textContent.trim() && !t.closest(".hoverlayer"))
      .map(t => ({said: t.textContent, box: t.getBoundingClientRect(), turned: turned(t.getAttribute("transform") || "")}))
      .filter(t => t.box.width > 0);
    for (const {said, box} of texts)
      if (box.left < frame.left - 2 || box.right > frame.right + 2 || box.top < frame.top - 2 || box.bottom > frame.bottom + 2) cut.push(said);
    for (let i = 0; i < texts.length; i++) for (let j = i + 1; j < texts.length; j++) {
      const [a, b] = [texts[i], texts[j]];
      const x = Math.min(a.box.right, b.box.right) - Math.max(a.box.left, b.box.left);
      const y = Math.min(a.box.bottom, b.box.bottom) - Math.max(a.box.top, b.box.top);
      const steep = a.turned && b.turned && Math.abs(a.box.right - b.box.right) > 11;
      if (x > 2 && y > 3 && !steep) over.push([a.said, b.said]);
    }
  }
  const wide = [...document.querySelectorAll("figure:not(.view), table, p, h1, h2, .table")]
    .filter(e => e.getBoundingClientRect().right > width + 1).map(e => e.tagName + " " + e.textContent.slice(0, 60));
  const report = {width, scroll: document.documentElement.scrollWidth, charts: charts.length, cut, over, wide,
    charted: charts.map(c => Math.round(c.getBoundingClientRect().width))};
  document.documentElement.setAttribute("data-measured", JSON.stringify(report));
};
addEventListener("load", () => setTimeout(measure, 4000));
</script>"""


def measured(chromium: str, page: str, folder: Path, width: int, *, dark: bool = False) -> dict[str, Any]:
    """A page opened in a window of some width: ``width scroll charts cut over wide charted``.

    ``cut``: texts of figures that leave their figure. ``over``: pairs of texts that lie over each other. ``wide``: what leaves the window.
    """
    path = folder / f"measured-{width}.html"
    path.write_text(page.replace("<head>", "<head>" + MEASURE, 1), encoding="utf-8")
    more = ("--blink-settings=preferredColorScheme=0",) if dark else ()
    dom = browse(chromium, path, folder / f"profile-{width}", *more, "--dump-dom", width=width, height=1200)
    found = re.search(r'data-measured="([^"]*)"', dom)
    assert found is not None, dom[:300]
    return json.loads(html.unescape(found[1]))
