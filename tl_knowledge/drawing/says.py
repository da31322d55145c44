"""The sentence under a figure: what there is to see, taken from the numbers that are drawn and from nothing else."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.basedatatypes import BaseFigure

from tl_knowledge.drawing.look import label_text
from tl_knowledge.errors import InputError
from tl_knowledge.results.statistics import interval_text
from tl_knowledge.wording import counted

__all__ = ["extremes", "has_sentence", "head_of", "plain_text", "sentence_of", "spread", "with_sentence"]

Estimate = tuple[float, float, float]
SHARED = 1e-6  # of the largest value: closer ones are one value


def with_sentence(figure: go.Figure, sentence: str) -> go.Figure:
    """The figure, with the sentence that a page writes under it (a notebook shows the figure alone).

    Example:
        >>> sentence_of(with_sentence(go.Figure(), "Nothing is drawn."))
        'Nothing is drawn.'
    """
    return figure.update_layout(meta={**(figure.layout.meta or {}), "says": label_text(sentence)})  # pyright: ignore


def has_sentence(figure: go.Figure) -> bool:
    """Whether there is one."""
    return bool(sentence_of(figure))


def sentence_of(figure: go.Figure) -> str:
    """A figure's sentence as text; empty where it has none."""
    meta: Any = figure.layout["meta"]
    return plain_text(str(meta.get("says", ""))) if isinstance(meta, Mapping) else ""


def head_of(figure: go.Figure) -> tuple[str, str]:
    """A figure's title and subtitle as text, which a page writes above it.

    Raises:
        InputError: something that is no figure of plotly.

    Example:
        >>> head_of(go.Figure(layout_title_text="<b>a</b> &lt; b"))
        ('a < b', '')
    """
    if not isinstance(figure, BaseFigure):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"figure is a {type(figure).__name__}; pass a plotly Figure, for example what .plot() returns.")
    meta: Any = figure.layout["meta"]
    if isinstance(meta, Mapping) and "title" in meta:
        return plain_text(str(meta["title"])), plain_text(str(meta.get("subtitle", "")))
    return plain_text(str(figure.layout["title"]["text"] or "")), ""


def plain_text(label: str) -> str:
    """What a label of plotly says, without its markup.

    Example:
        >>> plain_text("<b>&lt;unk&gt;*</b><br>x")
        '<unk>* x'
    """
    return html.unescape(re.sub(r"</?(?:b|i|sub|sup|em|span)>", "", re.sub(r"<br ?/?>", " ", label)))


def extremes(what: str, values: Sequence[float], places: Sequence[str], *, form: str = ".3g", intervals: Sequence[Estimate] | None = None) -> str:
    """Which value is the largest and which the smallest; ties are said, and values that are not finite are left out.

    Args:
        what: is measured, with its unit.
        places: where each value is, in words.
        form: of the numbers.
        intervals: (value, low, high) of each, where there are intervals.

    Example:
        >>> extremes("effect", [0.25, -0.5, 0.0], ["at a", "at b", "at c"])
        'Largest effect: 0.25 at a. Smallest: -0.5 at b.'
        >>> extremes("effect", [0.0, 0.0], ["at a", "at b"]), extremes("effect", [float("nan")], ["at a"])
        ('Every effect is 0.', 'No effect has a value.')
    """
    numbers = np.asarray(values, dtype=float)
    finite = np.flatnonzero(np.isfinite(numbers))
    if not len(finite):
        return f"No {what} has a value."
    there = numbers[finite]
    near = SHARED * float(np.abs(there).max())
    if len(there) > 1 and there.max() - there.min() <= near:
        return f"Every {what} is {there[0]:{form}}."

    def said(end: float) -> str:
        same = finite[np.abs(there - end) <= near]
        first = int(same[0])
        interval = interval_text(*intervals[first][1:], form) if intervals is not None else ""
        more = f" (and at {counted(len(same) - 1, 'other place')})" if len(same) > 1 else ""
        return f"{numbers[first]:{form}}{interval} {places[first]}{more}"

    if len(there) == 1:
        return f"The only {what}: {said(float(there[0]))}."
    return f"Largest {what}: {said(float(there.max()))}. Smallest: {said(float(there.min()))}."


def spread(what: str, bars: Mapping[str, Sequence[Estimate]], groups: Sequence[str], *, form: str = ".1%") -> str:
    """`extremes` over the bars of all groups."""
    rows = [(row, f"for {name}, {group}") for name, each in bars.items() for row, group in zip(each, groups, strict=True)]
    return extremes(what, [row[0] for row, _ in rows], [place for _, place in rows], form=form, intervals=[row for row, _ in rows])
