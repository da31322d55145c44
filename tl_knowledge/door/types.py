"""Whether a value is of a type, with everything that is in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from beartype import BeartypeConf
from beartype.door import is_bearable

__all__ = ["fits", "is_listing", "members", "mentions", "without_arrays"]

_CONF = BeartypeConf(is_pep484_tower=True)  # an int is a float


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type, with everything that is in it; one that raises when it is looked at fits nothing."""
    try:
        return _fits_inside(value, hint)
    except Exception:  # of the value's own code
        return False


def _fits_inside(value: Any, hint: Any) -> bool:
    """The same, unsafely; a truth value is no number, and a text no list of texts."""
    alternatives = members(hint)
    if len(alternatives) > 1:
        return any(_fits_inside(value, member) for member in alternatives)
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return isinstance(value, str) or any(value is part for part in parts)  # which word is known, the function itself says
    if isinstance(value, bool):
        return hint in (bool, Any, object)
    if is_listing(hint) and parts:
        if isinstance(value, str | bytes | Iterator) or _is_array(value):
            return False
        items = [part for part in parts if part is not Ellipsis]
        if origin is tuple and Ellipsis not in parts:
            return isinstance(value, tuple) and len(value) == len(items) and all(map(_fits_inside, value, items))
        if isinstance(value, Mapping) and origin is not Mapping and not issubclass(origin, Mapping):
            return False
        return isinstance(value, origin) and all(_fits_inside(each, items[0]) for each in value)
    if isinstance(origin, type) and issubclass(origin, Mapping) and len(parts) == 2:
        return isinstance(value, Mapping) and all(_fits_inside(key, parts[0]) and _fits_inside(each, parts[1]) for key, each in value.items())
    return _plainly(value, hint)


def _plainly(value: Any, hint: Any) -> bool:
    return bool(is_bearable(value, hint, conf=_CONF))


def is_listing(hint: Any) -> bool:
    """Whether a type is a collection of one kind of things."""
    origin = get_origin(hint)
    return isinstance(origin, type) and issubclass(origin, Iterable) and not issubclass(origin, Mapping)


@cache
def members(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a type."""
    if get_origin(hint) in (Union, UnionType):
        return tuple(member for part in get_args(hint) for member in members(part))
    return (hint,)


def mentions(hint: Any, name: str) -> bool:
    """Whether a class of this name is among a type's alternatives, or in a list of them."""
    return any(getattr(part, "__name__", "") == name for member in members(hint) for part in (member, *get_args(member)))


def without_arrays(value: Any) -> Any:
    """Numbers and lists in the place of arrays and tensors of numbers."""
    return value.tolist() if _is_array(value) and value.ndim <= 1 else value


def _is_array(value: Any) -> bool:
    return type(value).__module__ in ("numpy", "torch") and hasattr(value, "tolist") and hasattr(value, "ndim")
