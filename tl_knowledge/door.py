"""The door of the package: what is passed to a public function is checked here, once, before anything is computed.

`public` reads a function's own annotations::

    @public
    def trace(model: AnyModel, prompt: Prompt, *, samples: int = 10, layers: Iterable[int] | None = None): ...

    trace(model, prompt, samples=np.int64(3), layers=np.arange(4))    as trace(model, prompt, samples=3, layers=(0, 1, 2, 3))
    trace(model, "The Eiffel Tower is in")                            InputError: trace(prompt=...): ...
    trace(model, prompt, samples=-1)                                  InputError: trace(samples=-1): ...

What has a clear meaning is converted: numbers of numpy and torch, arrays and ranges for a list of numbers, a `Fact` where its prompt is meant.
Everything else is refused in words. A name has one meaning everywhere (``docs/grammar.md``), so what a number may be stands here by its name. A
function with a ``model`` has the model to itself while it runs (`tl_knowledge.lock`).
"""

from __future__ import annotations

import math
import os
import reprlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import cache, wraps
from inspect import Parameter, Signature, signature
from types import NoneType, SimpleNamespace, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from beartype import BeartypeConf
from beartype.door import is_bearable

from tl_knowledge.errors import InputError
from tl_knowledge.lock import model_lock

__all__ = ["converts", "public", "shown"]

AnyCallable = TypeVar("AnyCallable", bound=Callable[..., Any])

_CONF = BeartypeConf(is_pep484_tower=True)  # an int is a float

NUMBERS: dict[str, tuple[Callable[[float], bool], str]] = {
    "memory_budget": (lambda n: 0 < n < 2**63, "above 0 and below 2**63, in bytes"),
    **dict.fromkeys(("threshold", "shared_by"), (lambda n: not math.isnan(n), "a number")),
}
"""What a number may be, by the name of its argument, where the function itself does not say."""

SETTINGS: dict[str, tuple[Callable[[float], bool], str]] = {
    "steps": (lambda n: n >= 1, "1 or more"),
    "seed": (lambda n: n >= 0, "0 or more"),
    "rank": (lambda n: n >= 1, "1 or more"),
    **dict.fromkeys(("learning_rate", "clamp", "alpha"), (lambda n: 0 < n < math.inf, "above 0 and finite")),
    **dict.fromkeys(
        ("weight_decay", "kl_factor", "damping", "moment_weight", "ridge", "null_below"), (lambda n: 0 <= n < math.inf, "0 or more and finite")
    ),
}
"""The same for the settings of editing methods."""

_WHERE = "_modules_of_annotations"

OWN_WORDS = ("self", "cls", "noise")  # a corruption's own errors say more

LARGEST = 2**40

SETTINGS_OF = {
    *("ROME", "MEMIT", "PMET", "EMMET", "AlphaEdit", "UltraEdit", "LoRA", "ValueSettings", "TrainingSettings"),
    *("FineTune", "FineTuneConstrained", "FineTuneAttention", "FineTuneDecayed"),
    *("GRACE", "TransformerPatcher", "MEND", "KE", "SERAC", "IKE", "LensSettings", "SubspaceSettings"),
}

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
        kinds = [get_args(member)[0] for member in _members(hint) if get_origin(member) in (Iterable, Iterator)]
        if kinds:
            return _each_checked(function, argument, value, kinds, model)
        value = tuple(value) if any(_is_listing(member) for member in _members(hint)) else value
    value = _converted(value, hint, model)
    if not _fits_whatever_it_does(value, hint):
        wanted = _in_words(hint)
        example = next((f", for example {text}" for name, text in EXAMPLES.items() if _mentions(hint, name)), "")
        raise InputError(f"{function}({argument}=...): {shown(value)} is {_kind(value)}; pass {wanted}{example}.")
    _check_text(function, argument, value)
    _check_number(function, argument, value)
    return value


def _each_checked(function: str, argument: str, values: Iterator[Any], kinds: list[Any], model: Any) -> Iterator[Any]:
    """What comes one by one (a corpus that nobody holds whole) is checked one by one."""
    wanted = Union[tuple(kinds)]  # noqa: UP007
    return (_admitted_one(function, f"{argument}[{i}]", value, wanted, model) for i, value in enumerate(values))


def _converted(value: Any, hint: Any, model: Any) -> Any:
    """What has a clear meaning, as what is wanted."""
    if _fits_whatever_it_does(value, hint):
        return value
    plain = _without_arrays(value)
    if plain is not value and _fits(plain, hint):
        return plain
    if isinstance(plain, range | list | tuple | set | frozenset) and not isinstance(plain, str):
        listed = tuple(_without_arrays(each) for each in plain)
        for candidate in (listed, list(listed)):
            if _fits(candidate, hint):
                return candidate
    return value if model is None else _as_wanted(value, hint, model)


def _as_wanted(value: Any, hint: Any, model: Any) -> Any:
    """The value, or each in a list of them, by `converts`, where all of the list can be."""
    for source, target, conversion in _conversions:
        if not any(target in (member, *get_args(member)) for member in _members(hint)):
            continue
        if isinstance(value, source) and target in _members(hint):
            return conversion(model, value)
        if isinstance(value, list | tuple) and value and all(isinstance(each, source | target) for each in value):
            return tuple(conversion(model, each) if isinstance(each, source) else each for each in value)
    return value


def _without_arrays(value: Any) -> Any:
    """Numbers and lists in the place of arrays and tensors of numbers."""
    return value.tolist() if _is_array(value) and value.ndim <= 1 else value


def _is_array(value: Any) -> bool:
    return type(value).__module__ in ("numpy", "torch") and hasattr(value, "tolist") and hasattr(value, "ndim")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type, with everything that is in it; a truth value is no number, and a text no list of texts."""
    members = _members(hint)
    if len(members) > 1:
        return any(_fits(value, member) for member in members)
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return isinstance(value, str) or any(value is part for part in parts)  # which word is known, the function itself says
    if isinstance(value, bool):
        return hint in (bool, Any, object)
    if _is_listing(hint) and parts:
        if isinstance(value, str | bytes | Iterator) or _is_array(value):
            return False
        items = [part for part in parts if part is not Ellipsis]
        if origin is tuple and Ellipsis not in parts:
            return isinstance(value, tuple) and len(value) == len(items) and all(map(_fits, value, items))
        if isinstance(value, Mapping) and origin is not Mapping and not issubclass(origin, Mapping):
            return False
        return isinstance(value, origin) and all(_fits(each, items[0]) for each in value)
    if isinstance(origin, type) and issubclass(origin, Mapping) and len(parts) == 2:
        return isinstance(value, Mapping) and all(_fits(key, parts[0]) and _fits(each, parts[1]) for key, each in value.items())
    return _plainly(value, hint)


def _fits_whatever_it_does(value: Any, hint: Any) -> bool:
    """A value that raises when it is looked at fits nothing."""
    try:
        return _fits(value, hint)
    except Exception:  # of the value's own code
        return False


def _plainly(value: Any, hint: Any) -> bool:
    return bool(is_bearable(value, hint, conf=_CONF))


def _is_listing(hint: Any) -> bool:
    """Whether a type is a collection of one kind of things."""
    origin = get_origin(hint)
    return isinstance(origin, type) and issubclass(origin, Iterable) and not issubclass(origin, Mapping)


@cache
def _members(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a type."""
    if get_origin(hint) in (Union, UnionType):
        return tuple(member for part in get_args(hint) for member in _members(part))
    return (hint,)


def _check_text(function: str, argument: str, value: Any) -> None:
    if not isinstance(value, str):
        return
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{function}({argument}=...): {shown(value)} has half a character (a lone surrogate) at {error.start}, which no tokenizer takes; "
            "read the text with errors='replace'."
        ) from error


def _check_number(function: str, argument: str, value: Any) -> None:
    if isinstance(value, int) and abs(value) > LARGEST:
        raise InputError(f"{function}({argument}=...): {shown(value)} is too large a number.")
    ranges = SETTINGS if function in SETTINGS_OF else NUMBERS
    if argument not in ranges or isinstance(value, bool) or not isinstance(value, int | float):
        return
    allowed, words = ranges[argument]
    if not allowed(value):
        raise InputError(f"{function}({argument}={value!r}): {argument} must be {words}.")


def _mentions(hint: Any, name: str) -> bool:
    return any(getattr(part, "__name__", "") == name for member in _members(hint) for part in (member, *get_args(member)))


def _in_words(hint: Any) -> str:
    """A type for people.

    Example:
        >>> _in_words(int | tuple[str, ...] | None)
        'an int, a tuple of str, or None'
    """
    words = list(dict.fromkeys(_one_in_words(member) for member in _members(hint)))
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])}{',' * (len(words) > 2)} or {words[-1]}"


def _one_in_words(hint: Any) -> str:
    if hint is NoneType:
        return "None"
    origin, parts = get_origin(hint), [part for part in get_args(hint) if part is not Ellipsis]
    if origin is Literal:
        return "one of " + ", ".join(map(repr, parts))
    if origin is not None and parts:
        name = str(getattr(origin, "__name__", origin)).lower()
        inner = ", ".join(str(getattr(part, "__name__", part)) for part in parts)
        return f"{_article(name)} of {inner}"
    return _article(str(getattr(hint, "__name__", hint)))


def _article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def _kind(value: Any) -> str:
    return _article(type(value).__name__)


def shown(value: Any) -> str:
    """A value in short; some cannot show themselves."""
    try:
        return reprlib.repr(value)
    except Exception:  # whatever an object's own repr raises
        return object.__repr__(value)
