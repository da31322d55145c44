"""circuitsvis views that work offline: in a notebook and as a page that can be mailed."""

from __future__ import annotations

import html
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tl_knowledge.drawing.page import html_page
from tl_knowledge.storage import write_text

__all__ = ["HtmlView"]


@dataclass(frozen=True, repr=False)
class HtmlView:
    """A circuitsvis view with its program inside: a notebook shows it, `save` writes it as a page. Neither needs a network.

    Attributes:
        title: heading of the page.
        note: what is shown, one sentence.
        source: HTML.
    """

    title: str
    note: str
    source: str

    @classmethod
    def of(cls, rendered: Any, *, title: str, note: str) -> HtmlView:
        """Wrap what a function of circuitsvis returned.

        Its own text loads the program from a content network, leaves the ``div`` open (so that it swallows whatever follows), and lets a token
        such as ``</script>`` end the program.
        """
        source: str = rendered.local_src
        closed = re.sub(r"^(<div [^>]*)/>", r"\1></div>", source, count=1)
        program, call, properties = closed.rpartition("CircuitsVis.render(")
        body, end = properties.rsplit("</script>", 1)
        return cls(title, note, program + call + body.replace("</", "<\\/") + "</script>" + end)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a self-contained page; returns the path."""
        return write_text(path, html_page(self.title, [f"<p class='note'>{html.escape(self.note)}</p>", self.source]))

    def _repr_html_(self) -> str:
        return f"<div><b>{html.escape(self.title)}</b><br><small>{html.escape(self.note)}</small>{self.source}</div>"
