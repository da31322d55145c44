"""Programs and data inside a page's ``<script>``, and the policy that lets a page run these programs and nothing else.

Data is JSON in which no character can end the script, begin a comment, or begin another tag. The policy names each program by its hash; so even
text that came past every escape would be dead text, and a page fetches nothing from anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from tl_knowledge.errors import DataError
from tl_knowledge.results.plain_text import printable

__all__ = ["circuitsvis_program", "content_policy", "data_in_script", "json_in_script", "script"]

_AS_HTML = re.compile(r"dangerouslySetInnerHTML:\{__html:([^{}]*)\}")
_AS_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def data_in_script(value: Any) -> str:
    """Plain data as JavaScript has it; unlike JSON it has NaN.

    Example:
        >>> data_in_script({"label": "</script>"})
        '{"label": "\\\\u003c/script\\\\u003e"}'
    """
    return json_in_script(json.dumps(_shown(value)))


def json_in_script(text: str) -> str:
    """JSON with what a page could read as its own as escapes, which mean the same to JavaScript."""
    return text.translate(_AS_ESCAPES)


def script(program: str) -> Markup:
    """A program as an element of a page; data in it must have come through this module."""
    return Markup(f"<script>{program}</script>")


def content_policy(programs: Iterable[str]) -> str:
    """A content security policy: these programs, the page's own styles and pictures in it, and no connection.

    circuitsvis' integers are compiled by WebAssembly (``wasm-unsafe-eval``), which is no way for text to become a program.
    """
    hashes = [base64.b64encode(hashlib.sha256(program.encode()).digest()).decode() for program in programs]
    scripts = " ".join(f"'sha256-{each}'" for each in dict.fromkeys(hashes))
    return (
        f"default-src 'none'; script-src 'wasm-unsafe-eval' {scripts}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    )


@cache
def circuitsvis_program() -> str:
    """The program of the installed circuitsvis, for a page, with its one hole closed: it writes every token as HTML.

    Its elements set a token's ``innerHTML`` so that ``&nbsp;`` can stand for a blank; here they set its text, with the character itself.

    Raises:
        DataError: a circuitsvis that does otherwise.
    """
    program = (files("circuitsvis") / "dist" / "cdn" / "iife.js").read_text(encoding="utf-8")
    program, places = _AS_HTML.subn(r"children:\1", program.replace('"&nbsp;"', r'"\xa0"'))
    if not places or "{__html:" in program:
        raise DataError("the installed circuitsvis writes labels as HTML in a way that is not known to be safe; install circuitsvis 1.43.3.")
    return program.replace("</script", r"<\/script")


def _shown(value: Any) -> Any:
    """Plain data with every text in it printable."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(str(key)): _shown(inner) for key, inner in value.items()}
    return [_shown(inner) for inner in value] if isinstance(value, list | tuple) else value
