"""What one tab of the explorer shows, as plain values: the page sends it, links carry it, and everything that is computed follows from it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from tl_knowledge.editing import METHODS
from tl_knowledge.errors import InputError, check_choice

__all__ = [
    "COMPONENTS",
    "METRICS",
    "MOST_EDITS",
    "MOST_TEXT",
    "Cell",
    "CorruptedSide",
    "EditRequest",
    "ExplorerState",
    "MetricName",
    "TracedComponent",
]

TracedComponent: TypeAlias = Literal["resid_post", "mlp_out", "attn_out"]
COMPONENTS: tuple[TracedComponent, ...] = get_args(TracedComponent)
"""What has a map, in the order of the maps."""

CorruptedSide: TypeAlias = Literal["subject", "relation"]
MetricName: TypeAlias = Literal["probability", "log_probability", "logit", "kl", "rank"]
METRICS: tuple[MetricName, ...] = get_args(MetricName)
"""What effects can be measured in here: those that need no second answer."""

LONGEST_TEXT, MOST_TEXT = 20_000, 40_000  # characters: of one text, and of all texts of a tab together, which a link has to hold
MOST_FURTHER, MOST_EDITS, MOST_UNITS, MOST_SAMPLES, LARGEST_NUMBER = 20, 8, 500, 200, 2**31 - 1

Range: TypeAlias = tuple[int, int]
Cell: TypeAlias = "tuple[TracedComponent, int, int]"
"""Component, layer, position: a cell of a map."""


@dataclass(frozen=True)
class EditRequest:
    """An edit that was asked for.

    Attributes:
        method: the method's short name, as ``"rome"``.
        subject, template: the fact, ``{}`` in the subject's place.
        target_new: the new object, with its leading space.
        layers: where to edit; the model's published layers when empty.
        editor: fingerprint of the trained editor that makes it; empty for a method that is not trained.

    Raises:
        InputError: a text that is empty or too long, an unknown method, a template without ``{}``, a layer below 0, or what is no fingerprint.
    """

    method: str
    subject: str
    template: str
    target_new: str
    layers: tuple[int, ...] = ()
    editor: str = ""

    def __post_init__(self) -> None:
        for name in ("method", "subject", "template", "target_new"):
            _check_text(f"an edit's {name}", getattr(self, name))
        check_choice("an edit's method", self.method[:60], METHODS)
        if "{}" not in self.template:
            raise InputError(f"an edit's template {_short(self.template)} has no {{}}; mark the subject's place, as in '{{}} was born in'.")
        _check_many("an edit's layers", self.layers, MOST_UNITS)
        for layer in self.layers:
            _check_number("an edit's layer", layer, 0, LARGEST_NUMBER)
        if not isinstance(self.editor, str) or not re.fullmatch("(?:[0-9a-f]{12})?", self.editor):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"an edit's editor {_short(self.editor)} is no fingerprint of a trained editor; copy the link again, whole.")


@dataclass(frozen=True)
class ExplorerState:
    """One tab.

    Attributes:
        prompt: as it was typed.
        subject, relation: tokens that were marked, first and one past the last, BOS counted; an unmarked relation is all but the subject.
        target: the answer that is looked for, with its leading space; the model's prediction when ``None``.
        corrupt: which side is corrupted.
        components: which maps are shown.
        window: layers restored together, or ``"auto"``.
        samples, seed: of the noise.
        metric: what effects are measured in.
        cell: the cell that was clicked: component, layer, position.
        suppressed: neurons that write nothing, pairs of layer and neuron.
        knocked_out: heads that write nothing, pairs of layer and head.
        edits: in the order in which they are made, each on the model that the ones before it left.
        further: more prompts to compare on.
        circuit: whether the circuit of the prompt is shown.

    Raises:
        InputError: a value that no page sends: what it is, and what it may be.
    """

    prompt: str = ""
    subject: Range | None = None
    relation: Range | None = None
    target: str | None = None
    corrupt: CorruptedSide = "subject"
    components: tuple[TracedComponent, ...] = COMPONENTS
    window: int | Literal["auto"] = "auto"
    samples: int = 10
    seed: int = 0
    metric: MetricName = "probability"
    cell: Cell | None = None
    suppressed: tuple[tuple[int, int], ...] = ()
    knocked_out: tuple[tuple[int, int], ...] = ()
    edits: tuple[EditRequest, ...] = ()
    further: tuple[str, ...] = ()
    circuit: bool = False

    def __post_init__(self) -> None:
        _check_text("the prompt", self.prompt, empty=True)
        if self.target is not None:
            _check_text("the target", self.target)
        self._check_words()
        self._check_numbers()
        _check_many("edits", self.edits, MOST_EDITS)
        _check_many("further prompts", self.further, MOST_FURTHER)
        for text in self.further:
            _check_text("a further prompt", text)
        if any(not isinstance(edit, EditRequest) for edit in self.edits):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError("an edit is no EditRequest; pass EditRequest(method, subject, template, target_new).")
        edits = [text for edit in self.edits for text in (edit.subject, edit.template, edit.target_new)]
        size = sum(map(len, (self.prompt, self.target or "", *self.further, *edits)))
        if size > MOST_TEXT:
            raise InputError(
                f"the tab's texts have {size} characters together; at most {MOST_TEXT} fit into its link: shorten some, or take some out."
            )

    def _check_words(self) -> None:
        check_choice("corrupt", self.corrupt, CorruptedSide)
        check_choice("metric", self.metric, MetricName)
        _check_many("components", self.components, len(COMPONENTS))
        for component in self.components:
            check_choice("component", component, TracedComponent)
        if len(set(self.components)) < len(self.components):
            raise InputError(f"components {self.components} has one twice; pass each once.")
        if not isinstance(self.circuit, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"circuit is {_short(self.circuit)}; pass True or False.")

    def _check_numbers(self) -> None:
        if self.window != "auto":
            _check_number("window", self.window, 1, LARGEST_NUMBER)
        _check_number("samples", self.samples, 1, MOST_SAMPLES)
        _check_number("seed", self.seed, 0, LARGEST_NUMBER)
        for name in ("subject", "relation"):
            _check_range(name, getattr(self, name))
        for name in ("suppressed", "knocked_out"):
            _check_pairs(name, getattr(self, name))
        if self.cell is not None:
            if not isinstance(self.cell, tuple) or len(self.cell) != 3:  # pyright: ignore[reportUnnecessaryIsInstance, reportUnnecessaryComparison]
                raise InputError(f"cell {_short(self.cell)} is no cell; pass component, layer and position.")
            check_choice("the cell's component", self.cell[0], TracedComponent)
            _check_number("the cell's layer", self.cell[1], 0, LARGEST_NUMBER)
            _check_number("the cell's position", self.cell[2], 0, LARGEST_NUMBER)


def _short(value: object) -> str:
    """A value for a message, however long it is."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check_text(what: str, text: Any, *, empty: bool = False) -> None:
    if not isinstance(text, str):
        raise InputError(f"{what} is {_short(text)}; pass text.")
    if not text.strip() and not (empty and text == ""):
        raise InputError(f"{what} is {_short(text)}, which is empty; type at least one character.")
    if len(text) > LONGEST_TEXT:
        raise InputError(f"{what} has {len(text)} characters; at most {LONGEST_TEXT} are read here: shorten it.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{what} has half a character (a lone surrogate) at {error.start}, which no tokenizer takes; take it out.") from error


def _check_number(what: str, number: Any, low: int, high: int) -> None:
    if isinstance(number, bool) or not isinstance(number, int) or not low <= number <= high:
        raise InputError(f"{what} is {_short(number)}; pass a whole number from {low} to {high}.")


def _check_many(what: str, values: Any, most: int) -> Sequence[Any]:
    if not isinstance(values, tuple):
        raise InputError(f"{what} is {_short(values)}; pass a tuple.")
    if len(values) > most:
        raise InputError(f"{len(values)} {what} were given; pass at most {most}.")
    return values


def _check_range(what: str, span: Any) -> None:
    if span is None:
        return
    if len(_check_many(what, span, 2)) != 2:
        raise InputError(f"{what} {_short(span)} is no range of tokens; pass the first and one past the last.")
    _check_number(f"the {what}'s first token", span[0], 0, LARGEST_NUMBER)
    _check_number(f"the token after the {what}", span[1], span[0] + 1, LARGEST_NUMBER)


def _check_pairs(what: str, pairs: Any) -> None:
    for pair in _check_many(what, pairs, MOST_UNITS):
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise InputError(f"{what} has {_short(pair)} in it; pass pairs of layer and number.")
        for number in pair:
            _check_number(f"a number of {what}", number, 0, LARGEST_NUMBER)
    if len(set(pairs)) < len(pairs):
        raise InputError(f"{what} has a pair twice; pass each once.")
