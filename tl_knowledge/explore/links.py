"""A tab as a link: the query part of an address. What a link says is taken whole or not at all."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any
from urllib.parse import parse_qsl, urlencode

from tl_knowledge.errors import InputError, check_choice
from tl_knowledge.explore.state import MOST_TEXT, EditRequest, ExplorerState

__all__ = ["from_query", "to_query"]

LONGEST_QUERY = 12 * MOST_TEXT + 120_000  # characters; one of a text is up to four bytes of three characters each, and 120,000 hold all numbers
MOST_FIELDS = 64


def to_query(state: ExplorerState) -> str:
    """The query part of a link to a tab, without its question mark; only what is not as usual is in it.

    Example:
        >>> to_query(ExplorerState("The capital of France is", subject=(3, 4), cell=("mlp_out", 2, 3), further=("Rome & I",)))
        'prompt=The+capital+of+France+is&subject=3-4&cell=mlp_out-2-3&further=Rome+%26+I'
    """
    usual = {field.name: field.default for field in fields(ExplorerState)}
    pairs: list[tuple[str, str]] = []
    for name, (write, _) in _FORMS.items():
        value = getattr(state, name)
        if value == usual[name]:
            continue
        pairs += [(name, write(each)) for each in (value if name in _REPEATED else (value,))]
    return urlencode(pairs)


def from_query(text: str) -> ExplorerState:
    """The tab that a link says, with or without its question mark.

    Raises:
        InputError: not such a link: which part is wrong, and what it may be.

    Example:
        >>> from_query("?prompt=Paris&samples=3").samples
        3
    """
    if len(text) > LONGEST_QUERY:
        raise InputError(f"the link has {len(text)} characters; at most {LONGEST_QUERY} are read.")
    query = text.removeprefix("?")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), errors="strict", max_num_fields=MOST_FIELDS)
    except (ValueError, UnicodeError) as error:
        raise InputError(f"the link cannot be read ({error}); copy it again, whole.") from error
    given: dict[str, list[str]] = {}
    for name, value in pairs:
        check_choice("the link's field", name, _FORMS)
        given.setdefault(name, []).append(value)
    return ExplorerState(**_values(given))


def _values(given: Mapping[str, list[str]]) -> dict[str, Any]:
    """The fields' values.

    Raises:
        InputError: a field that is given twice, or that does not read as it should.
    """
    values: dict[str, Any] = {}
    for name, texts in given.items():
        read = _FORMS[name][1]
        if name in _REPEATED:
            values[name] = tuple(_read(name, read, text) for text in texts)
        elif len(texts) > 1:
            raise InputError(f"the link has {name!r} {len(texts)} times; give it once.")
        else:
            values[name] = _read(name, read, texts[0])
    return values


def _read(name: str, read: Callable[[str], Any], text: str) -> Any:
    try:
        return read(text)
    except InputError:
        raise
    except (ValueError, TypeError, RecursionError) as error:
        shown = repr(text) if len(text) <= 60 else f"{text[:57]!r}..."
        raise InputError(f"the link's {name} {shown} is not understood; an example: {_EXAMPLES[name]}.") from error


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", text):
        raise ValueError(text)
    return int(text)


def _range(text: str) -> tuple[int, int]:
    start, stop = text.split("-")
    return _number(start), _number(stop)


def _pairs(text: str) -> tuple[tuple[int, int], ...]:
    return tuple((_number(layer), _number(unit)) for layer, unit in (pair.split(".") for pair in text.split(",")))


def _cell(text: str) -> tuple[str, int, int]:
    component, layer, pos = text.split("-")
    return component, _number(layer), _number(pos)


def _yes(text: str) -> bool:
    if text != "yes":
        raise ValueError(text)
    return True


def _edit(text: str) -> EditRequest:
    values = json.loads(text)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values[:4]) or len(values) < 4:
        raise ValueError(text)
    method, subject, template, target_new, *more = values
    editor = more.pop() if more and isinstance(more[-1], str) else ""
    return EditRequest(method, subject, template, target_new, tuple(more), editor)


def _as_edit(edit: EditRequest) -> str:
    values = [edit.method, edit.subject, edit.template, edit.target_new, *edit.layers, *([edit.editor] if edit.editor else [])]
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


def _as_pairs(pairs: tuple[tuple[int, int], ...]) -> str:
    return ",".join(f"{layer}.{unit}" for layer, unit in pairs)


def _dashed(values: tuple[object, ...]) -> str:
    return "-".join(map(str, values))


_REPEATED = ("edits", "further")

_FORMS: dict[str, tuple[Callable[[Any], str], Callable[[str], Any]]] = {
    "prompt": (str, str),
    "subject": (_dashed, _range),
    "relation": (_dashed, _range),
    "target": (str, str),
    "corrupt": (str, str),
    "components": (",".join, lambda text: tuple(text.split(",")) if text else ()),
    "window": (str, lambda text: text if text == "auto" else _number(text)),
    "samples": (str, _number),
    "seed": (str, _number),
    "metric": (str, str),
    "cell": (_dashed, _cell),
    "suppressed": (_as_pairs, _pairs),
    "knocked_out": (_as_pairs, _pairs),
    "edits": (_as_edit, _edit),
    "further": (str, str),
    "circuit": (lambda shown: "yes" if shown else "no", _yes),
}
"""Each field of a state: how it is written, and how it is read."""

_EXAMPLES = {
    "subject": "subject=1-4 (the first token, and one past the last)",
    "relation": "relation=4-7 (the first token, and one past the last)",
    "window": "window=auto or window=3",
    "samples": "samples=10",
    "seed": "seed=0",
    "cell": "cell=mlp_out-5-3 (component, layer, position)",
    "suppressed": "suppressed=3.17,4.2 (layer and neuron)",
    "knocked_out": "knocked_out=3.0,5.2 (layer and head)",
    "edits": 'edits=["rome","France","The capital of {} is"," London"]',
    "circuit": "circuit=yes, or nothing",
}
