"""What a public function is passed, checked and converted.

`public` reads a function's own annotations::

    @public
    def trace(model: AnyModel, prompt: Prompt, *, samples: int = 10, layers: Iterable[int] | None = None): ...

    trace(model, prompt, samples=np.int64(3), layers=np.arange(4))    as trace(model, prompt, samples=3, layers=(0, 1, 2, 3))
    trace(model, "The Eiffel Tower is in")                            InputError: trace(prompt=...): ...
    trace(model, prompt, samples=-1)                                  InputError: trace(samples=-1): ...

What has a clear meaning is converted: numbers of numpy and torch, arrays and ranges for a list of numbers, a `Fact` where its prompt is meant.
Everything else is refused in words. A name has one meaning everywhere (``docs/grammar.md``), so what a number may be stands in
`tl_knowledge.door.limits` by its name. A function with a ``model`` has the model to itself while it runs (`tl_knowledge.lock`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import cache, wraps
from inspect import Parameter, Signature, signature
from types import SimpleNamespace
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from tl_knowledge.door.limits import check_number, check_text
from tl_knowledge.door.types import fits, is_listing, members, mentions, without_arrays
from tl_knowledge.door.words import in_words, kind_of, shown
from tl_knowledge.errors import InputError
from tl_knowledge.lock import model_lock

__all__ = ["converts", "public"]

AnyCallable = TypeVar("AnyCallable", bound=Callable[..., Any])

_WHERE = "_modules_of_annotations"

OWN_WORDS = ("self", "cls", "noise")  # a corruption's own errors say more

EXAMPLES = {
    "Prompt": "tlk.Prompt.from_fact(model, fact), or tlk.Prompt.from_text(model, 'Rome is in', subject='Rome')",
    "Fact": "tlk.Fact('France', 'The capital of {} is', ' Paris')",
    "EditCase": "one of tlk.load_edit_cases()",
    "CausalTrace": "what tlk.trace(model, prompt) returns",
    "EditPlanner": "tlk.ROME(layer=5)",
    "EditMethod": "tlk.ROME(layer=5)",
    "Edit": "what tlk.plan_edit(model, fact, method) returns",
    "KeyMoments": "what tlk.collect_key_moments(model, corpus) returns",
    "NeuronSet": "what tlk.select_neurons(scores) returns",
    "NeuronAttribution": "what tlk.attribute_neurons(model, prompts) returns",
    "LocatedNeurons": "what tlk.locate_neurons(model, groups) returns",
}
"""How one comes by what a function wants, by class."""

_conversions: list[tuple[type, type, Callable[[Any, Any], Any]]] = []


def converts(source: type, target: type, conversion: Callable[[Any, Any], Any]) -> None:
    """Accept one class where another is wanted: ``conversion(model, value)`` makes it, in functions that have a model."""
    _conversions.append((source, target, conversion))


def public(function: AnyCallable) -> AnyCallable:
    """Check what a public function, or a class' constructor, is passed; see above.

    Raises:
        InputError: by the function, for an argument that does not fit.
    """
    if isinstance(function, type):
        vars(function.__init__)[_WHERE] = tuple(base.__module__ for base in function.__mro__)  # fields may come from a base class' module
        function.__init__ = public(function.__init__)
        return function  # pyright: ignore[reportReturnType]
    own = signature(function)

    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        given = own.bind(*args, **kwargs)
        name = getattr(function, "__qualname__", "").removesuffix(".__init__")
        model = given.arguments.get("model")
        if "model" in given.arguments and not _may_be_a_model(model):
            return function(*args, **kwargs)  # which says so in its own words
        with nullcontext() if model is None else _having(model):
            for argument, value in given.arguments.items():
                hint = _hints(function).get(argument)
                if hint is not None and not _obvious(value, hint):
                    given.arguments[argument] = _admitted(own, name, argument, value, hint, model)
            return function(*given.args, **given.kwargs)

    return checked  # pyright: ignore[reportReturnType]


@cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """A function's annotations as types; a model and what is returned are not asked for."""
    asked = {name: hint for name, hint in function.__annotations__.items() if name not in ("model", "return", *OWN_WORDS)}
    names: dict[str, Any] = {}
    for module in reversed(getattr(function, _WHERE, (function.__module__,))):
        names |= vars(sys.modules[module])
    return get_type_hints(SimpleNamespace(__annotations__=asked), globalns=names)


def _obvious(value: Any, hint: Any) -> bool:
    """Plain texts, where texts are wanted: a data set makes hundreds of thousands of facts of them."""
    if type(value) is str:
        return hint is str and value.isascii()
    return type(value) is tuple and hint == tuple[str, ...] and all(type(each) is str and each.isascii() for each in value)


def _may_be_a_model(model: Any) -> bool:
    return isinstance(model, str | os.PathLike) or hasattr(type(model), "run_with_hooks")


def _having(model: Any) -> AbstractContextManager[Any]:
    """The model to oneself, and outside of inference mode, under which nothing has gradients."""
    stack = ExitStack()
    torch = sys.modules.get("torch")
    if torch is not None and torch.is_inference_mode_enabled():
        stack.enter_context(torch.inference_mode(False))
    stack.enter_context(model_lock(model))
    return stack


def _admitted(own: Signature, function: str, argument: str, value: Any, hint: Any, model: Any) -> Any:
    """The value as the function takes it.

    Raises:
        InputError: it does not fit.
    """
    kind = own.parameters[argument].kind
    if kind is Parameter.VAR_POSITIONAL:
        return tuple(_admitted_one(function, argument, each, hint, model) for each in value)
    if kind is Parameter.VAR_KEYWORD:
        return {name: _admitted_one(function, name, each, hint, model) for name, each in value.items()}
    if value is own.parameters[argument].default:
        return value
    return _admitted_one(function, argument, value, hint, model)


def _admitted_one(function: str, argument: str, value: Any, hint: Any, model: Any) -> Any:
    if isinstance(value, Iterator):
        kinds = [get_args(member)[0] for member in members(hint) if get_origin(member) in (Iterable, Iterator)]
        if kinds:
            return _each_checked(function, argument, value, kinds, model)
        value = tuple(value) if any(is_listing(member) for member in members(hint)) else value
    value = _converted(value, hint, model)
    if not fits(value, hint):
        wanted = in_words(hint)
        example = next((f", for example {text}" for name, text in EXAMPLES.items() if mentions(hint, name)), "")
        raise InputError(f"{function}({argument}=...): {shown(value)} is {kind_of(value)}; pass {wanted}{example}.")
    check_text(function, argument, value)
    check_number(function, argument, value)
    return value


def _each_checked(function: str, argument: str, values: Iterator[Any], kinds: list[Any], model: Any) -> Iterator[Any]:
    """What comes one by one (a corpus that nobody holds whole) is checked one by one."""
    wanted = Union[tuple(kinds)]  # noqa: UP007
    return (_admitted_one(function, f"{argument}[{i}]", value, wanted, model) for i, value in enumerate(values))


def _converted(value: Any, hint: Any, model: Any) -> Any:
    """What has a clear meaning, as what is wanted."""
    if fits(value, hint):
        return value
    plain = without_arrays(value)
    if plain is not value and fits(plain, hint):
        return plain
    if isinstance(plain, range | list | tuple | set | frozenset) and not isinstance(plain, str):
        listed = tuple(without_arrays(each) for each in plain)
        for candidate in (listed, list(listed)):
            if fits(candidate, hint):
                return candidate
    return value if model is None else _as_wanted(value, hint, model)


def _as_wanted(value: Any, hint: Any, model: Any) -> Any:
    """The value, or each in a list of them, by `converts`, where all of the list can be."""
    for source, target, conversion in _conversions:
        if not any(target in (member, *get_args(member)) for member in members(hint)):
            continue
        if isinstance(value, source) and target in members(hint):
            return conversion(model, value)
        if isinstance(value, list | tuple) and value and all(isinstance(each, source | target) for each in value):
            return tuple(conversion(model, each) if isinstance(each, source) else each for each in value)
    return value
