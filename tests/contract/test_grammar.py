"""Every public signature uses the words of docs/grammar.md, in their place and with their default."""

from __future__ import annotations

import ast
import difflib
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
import typer
from support.public import public_classes, public_functions, public_methods

import tl_knowledge as tlk
from tl_knowledge.cli import app
from tl_knowledge.engine.progress import progress_bar
from tl_knowledge.results.result import Result

GRAMMAR = Path(__file__).parents[2] / "docs" / "grammar.md"
FREE = ("varies", "required")
ASKED_ABOUT, EVERYTHING_ELSE, HOOKS, TEXTS = "What a function is asked about", "Everything else", "Hooks", "Texts, models and files"
SETTINGS, EXTENDING, DRAWING = "Settings", "For those who add a method, a noise or a measure", "Drawing"
COMMAND_LINE = "On the command line"
FUNCTIONS = (ASKED_ABOUT, EVERYTHING_ELSE, HOOKS, TEXTS, EXTENDING)
SETTINGS_CLASSES = (SETTINGS, ASKED_ABOUT, EVERYTHING_ELSE)


@dataclass(frozen=True)
class Words:
    """One table: each word with its default (``"varies"`` where the table has no such column), in the table's order."""

    defaults: dict[str, str]

    def __contains__(self, word: str) -> bool:
        return word in self.defaults

    def place(self, word: str) -> int:
        return list(self.defaults).index(word)


def rows_of(table: str) -> Iterator[list[str]]:
    for line in table.splitlines():
        if line.startswith("| `"):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


@cache
def grammar() -> dict[str, Words]:
    """The tables by their heading."""
    parts = re.split(r"^## (.+)$", GRAMMAR.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    tables: dict[str, Words] = {}
    for heading, text in zip(parts[::2], parts[1::2], strict=True):
        rows = [(re.findall(r"`(\w+)`", row[0]), row[1].strip("`") if len(row) > 2 else "varies") for row in rows_of(text)]
        tables[heading] = Words({word: default for words, default in rows for word in words})
    return tables


@dataclass(frozen=True)
class Call:
    """A public function or method, or a settings class, with the tables its words must come from."""

    name: str
    thing: Callable[..., Any]
    tables: tuple[str, ...]
    is_method: bool = False

    @property
    def parameters(self) -> list[inspect.Parameter]:
        return [p for p in inspect.signature(self.thing).parameters.values() if p.name not in ("self", "cls") and not p.name.startswith("_")]


def is_settings(kind: type) -> bool:
    """Whether users build it to say how something is computed."""
    return issubclass(kind, tlk.editing.EditMethod | tlk.tracing.Noise | tlk.editing.Objective) or kind.__name__.endswith("Settings")


def calls() -> Iterator[Call]:
    """Everything that takes arguments from a user."""
    for public in public_functions():
        yield Call(str(public), public.thing, (DRAWING,) if public.namespace == "drawing" else FUNCTIONS)
    for public in public_classes():
        kind = public.thing
        if getattr(kind, "_is_protocol", False):  # what TransformerLens' models and a user's own measures look like
            continue
        if is_settings(kind):
            yield Call(str(public), kind, SETTINGS_CLASSES)
        for name, method in public_methods(kind):
            yield Call(f"{public}.{name}", method, (DRAWING,) if public.namespace == "drawing" else FUNCTIONS, is_method=True)


CALLS = {call.name: call for call in calls()}


def complaints(call: Call) -> Iterator[str]:
    """What a signature does that the tables do not say."""
    known = {word: default for heading in reversed(call.tables) for word, default in grammar()[heading].defaults.items()}
    positional: list[str] = []
    for number, parameter in enumerate(call.parameters):
        word = parameter.name
        if word not in known:
            near = difflib.get_close_matches(word, known, n=1, cutoff=0)
            yield f"{word!r} is not a word of docs/grammar.md; the nearest is {near[0]!r}"
            continue
        yield from wrong_default(parameter, known[word])
        asked_about = word in grammar()[ASKED_ABOUT] and ASKED_ABOUT in call.tables
        if asked_about and parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            positional.append(word)
        elif not asked_about and not may_be_positional(call, parameter, number):
            yield f"{word!r} has a default, so it is passed by keyword"
    places = [grammar()[ASKED_ABOUT].place(word) for word in positional]
    if places != sorted(places):
        yield f"{', '.join(positional)} do not stand in the order of the table"
    if not inspect.isclass(call.thing):
        yield from wrong_noise(call)


def may_be_positional(call: Call, parameter: inspect.Parameter, number: int) -> bool:
    """Keyword-only or required, or settings; or a method's one argument, as in ``top(5)``; or ``noise``."""
    by_keyword = parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD) or parameter.default is parameter.empty
    return by_keyword or inspect.isclass(call.thing) or (call.is_method and number == 0) or parameter.name == "noise" or call.tables == (DRAWING,)


def wrong_noise(call: Call) -> Iterator[str]:
    """Noise that may be passed by position is the first argument that has a default."""
    optional = [p.name for p in call.parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is not p.empty]
    if "noise" in optional[1:]:
        yield f"'noise' stands after {optional[0]!r}"


def wrong_default(parameter: inspect.Parameter, default: str) -> Iterator[str]:
    if default in FREE or parameter.default is parameter.empty:
        return
    expected = eval(default, {"__builtins__": {}})
    if parameter.default != expected or isinstance(parameter.default, bool) is not isinstance(expected, bool):
        yield f"{parameter.name}={parameter.default!r}, which the table has as {default}"


@pytest.mark.parametrize("name", CALLS)
def test_a_signature_speaks_the_grammar(name):
    assert not list(complaints(CALLS[name]))


@pytest.mark.parametrize("name", [name for name, call in CALLS.items() if "model" in inspect.signature(call.thing).parameters])
def test_a_models_name_is_accepted_wherever_a_model_is(name):
    """A method that uses one and the same model again and again may insist on it."""
    call = CALLS[name]
    assert call.is_method or inspect.signature(call.thing).parameters["model"].annotation == "AnyModel"


def reaches(function: Any, goal: Any, seen: set[Any]) -> bool:
    """Whether a function calls another, itself or through functions of this package that are not public."""
    function = inspect.unwrap(function)
    if function in seen:
        return False
    seen.add(function)
    callees = [function.__globals__.get(name) for name in names_in(function.__code__)]
    return any(
        inspect.unwrap(callee) is inspect.unwrap(goal) or (callee not in PUBLIC and reaches(callee, goal, seen))
        for callee in callees
        if inspect.isfunction(callee) and callee.__module__.startswith("tl_knowledge.")
    )


def names_in(code: CodeType) -> Iterator[str]:
    """Global names in a function's code and in the functions inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant)


PUBLIC = {public.thing for public in public_functions()}


@pytest.mark.parametrize("name", [str(public) for public in public_functions()])
def test_who_shows_a_progress_bar_can_be_told_not_to(name):
    function = CALLS[name].thing
    assert "progress" in inspect.signature(function).parameters or not reaches(function, progress_bar, set())


def test_the_command_line_has_the_same_words():
    known = [word for heading in (*FUNCTIONS, SETTINGS, COMMAND_LINE) for word in grammar()[heading].defaults]
    for name, command in typer.main.get_command(app).commands.items():  # pyright: ignore[reportAttributeAccessIssue]
        for parameter in command.params:
            word = max((option.lstrip("-") for option in parameter.opts), key=len).replace("-", "_").lower()
            near = difflib.get_close_matches(word, known, n=1, cutoff=0)
            assert word in known, f"tl-knowledge {name}: {word!r} is not a word of docs/grammar.md; the nearest is {near[0]!r}"


def test_no_word_is_in_the_tables_that_nobody_uses():
    used = {parameter.name for call in CALLS.values() for parameter in call.parameters}
    for heading in (*FUNCTIONS, SETTINGS, DRAWING):
        assert not set(grammar()[heading].defaults) - used, heading


def test_nothing_reads_the_settings_of_a_provenance():
    """They are for people; a result's own ``settings`` are values."""
    for path in Path(tlk.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute) and node.value.attr == "settings":
                assert "provenance" not in ast.unparse(node.value), f"{path}:{node.lineno}"


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (lambda model, prompt, *, postions=None: 0, "'postions' is not a word of docs/grammar.md; the nearest is 'positions'"),
        (lambda model, prompt, positions=None: 0, "'positions' has a default, so it is passed by keyword"),
        (lambda model, prompt, *, steps=None: 0, "steps=None, which the table has as 20"),
        (lambda prompt, model: 0, "prompt, model do not stand in the order of the table"),
        (lambda model, facts=(), noise=None: 0, "'noise' stands after 'facts'"),
    ],
)
def test_the_tables_bite(function, complaint):
    assert complaint in list(complaints(Call("f", function, FUNCTIONS)))


def test_results_are_dataclasses_and_settings_are_values():
    for public in public_classes():
        kind = public.thing
        if is_settings(kind) and is_dataclass(kind):
            assert kind.__dataclass_params__.frozen, f"{public} can be changed"  # pyright: ignore[reportAttributeAccessIssue]
            assert kind.__eq__ is not object.__eq__, f"{public} is not equal by value"
        elif issubclass(kind, Result) and not inspect.isabstract(kind):
            assert is_dataclass(kind) and fields(kind), f"{public} is no dataclass"
