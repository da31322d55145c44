"""HTML from jinja2 templates, which escape whatever is put into them.

A `Markup` is HTML; any other string is text. Put into a template, text is escaped and markup is not, so nobody escapes by hand, and nobody can
forget to. What no page can hold, such as control characters, is shown by a sign.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from tl_knowledge.results.plain_text import printable

__all__ = ["Markup", "from_template", "heading", "markup", "note"]


def _printable(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


_templates = Environment(
    loader=PackageLoader("tl_knowledge.drawing"),
    autoescape=True,
    finalize=_printable,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def markup(template: str, /, **values: Any) -> Markup:
    """HTML from a short template and what is put into it.

    Example:
        >>> markup("<p>P({{ answer }}) = <b>{{ '%.0f%%' % (100 * p) }}</b></p>", answer="<unk>", p=0.5)
        Markup('<p>P(&lt;unk&gt;) = <b>50%</b></p>')
    """
    return Markup(_compiled(template).render(**values))


def heading(text: str, level: int = 2) -> Markup:
    """A heading: 2 is a chapter of the page, 3 a part of a chapter.

    Example:
        >>> heading("Severed")
        Markup('<h2>Severed</h2>')
    """
    return markup("<h{{ level }}>{{ text }}</h{{ level }}>", level=level, text=text)


def note(text: str) -> Markup:
    """A paragraph in small grey type: what a figure shows, and how to read it.

    Example:
        >>> note("p < .05")
        Markup("<p class='note'>p &lt; .05</p>")
    """
    return markup("<p class='note'>{{ text }}</p>", text=text)


def from_template(name: str, /, **values: Any) -> Markup:
    """HTML from a template of this folder's ``templates``."""
    return Markup(_templates.get_template(name).render(**values))


@lru_cache(maxsize=256)
def _compiled(template: str) -> Template:
    return _templates.from_string(template)
