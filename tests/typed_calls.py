"""``jaxtyping.jaxtyped`` with the same checks at half the time; ``--jaxtyping-packages`` decorates every function of the package with it.

jaxtyping binds the arguments of every call and opens a scope for the axes' names, also where no argument is an array; and it compiles its checks
anew whenever a function inside a function is made, as every hook is. Here a function without arrays in its signature is beartype's alone, and
what is made inside a function is checked by `die_if_unbearable`, whose checks are compiled once a type. All others stay jaxtyping's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import partial, wraps
from types import CodeType, FunctionType
from typing import Any, get_args, get_type_hints

import jaxtyping
from beartype import beartype
from beartype.door import die_if_unbearable, is_bearable
from beartype.roar import BeartypeException

__all__ = ["install", "jaxtyped"]

THEIRS = jaxtyping.jaxtyped

_made_inside: dict[int, tuple[CodeType, inspect.Signature, dict[str, Any]]] = {}


def install() -> None:
    """From now on the functions of every module that jaxtyping instruments are checked as here."""
    jaxtyping.jaxtyped = jaxtyped


def jaxtyped(thing: Any = None, *, typechecker: Any) -> Any:
    """A function or a class whose calls are checked."""
    if thing is None:
        return partial(jaxtyped, typechecker=typechecker)
    if inspect.isclass(thing):
        made = vars(thing).get("__init__")
        if is_dataclass(thing) and isinstance(made, FunctionType) and not hasattr(made, "__wrapped__"):
            thing.__init__ = jaxtyped(made, typechecker=typechecker)
        return thing
    if not isinstance(thing, FunctionType) or getattr(thing, "__no_type_check__", False):
        return THEIRS(thing, typechecker=typechecker)
    if "<locals>" in thing.__qualname__:
        return _checked_as_called(thing)
    hints = _hints(thing)
    return THEIRS(thing, typechecker=typechecker) if any(map(_has_array, hints.values())) else _checked_by_beartype(thing, hints)


def _checked_by_beartype(function: FunctionType, hints: dict[str, Any]) -> Callable[..., Any]:
    """The types of a function without arrays: no axis has to be the same twice."""
    same = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    same.__kwdefaults__, same.__annotations__ = function.__kwdefaults__, hints
    same.__module__, same.__qualname__ = function.__module__, function.__qualname__
    checked = beartype(same)

    @wraps(function)
    def either(*args: Any, **kwargs: Any) -> Any:
        return (function if jaxtyping.config.jaxtyping_disable else checked)(*args, **kwargs)

    return either


def _checked_as_called(function: FunctionType) -> Callable[..., Any]:
    """Types and shapes, without anything made for this one function: the next one with the same code has the same hints."""
    code = function.__code__
    if id(code) not in _made_inside:
        hints = {name: hint for name, hint in _hints(function).items() if _is_known(hint)}
        _made_inside[id(code)] = (code, inspect.signature(function), hints)
    _, signature, hints = _made_inside[id(code)]

    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        if jaxtyping.config.jaxtyping_disable:
            return function(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        with THEIRS("context"):
            for name, value in bound.arguments.items():
                if name in hints:
                    _check(value, hints[name], signature.parameters[name].kind)
            result = function(*args, **kwargs)
            if "return" in hints:
                die_if_unbearable(result, hints["return"])
        return result

    return checked


def _check(value: Any, hint: Any, kind: Any) -> None:
    several = {inspect.Parameter.VAR_POSITIONAL: tuple, inspect.Parameter.VAR_KEYWORD: dict.values}.get(kind)
    for each in several(value) if several else (value,):
        die_if_unbearable(each, hint)


def _hints(function: FunctionType) -> dict[str, Any]:
    """Each annotation that can be read where the function stands; the others, as jaxtyping has it, allow everything."""
    found = {name: _read(annotation, function.__globals__) for name, annotation in function.__annotations__.items()}
    return {name: hint for name, hint in found.items() if hint is not Any}


def _read(annotation: Any, names: dict[str, Any]) -> Any:
    def holder() -> None: ...

    holder.__annotations__ = {"it": annotation}
    try:
        return get_type_hints(holder, names, include_extras=True)["it"]
    except Exception:
        return Any


def _is_known(hint: Any) -> bool:
    """Whether beartype can check a value of this type outside of a signature."""
    try:
        is_bearable(None, hint)
    except BeartypeException:
        return False
    return True


def _has_array(hint: Any) -> bool:
    return (inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray)) or any(map(_has_array, get_args(hint)))
