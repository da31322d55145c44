"""Settings as the plain data that makes one run the same as another."""

from __future__ import annotations

import hashlib
import json
import secrets
import sys
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from functools import partial
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch

from tl_knowledge.results.packing import packed_fields

__all__ = ["digest", "function_digest", "values_of"]

KNOWN_MODULES = sys.stdlib_module_names | {"numpy", "torch"}  # whose names say what is in them; a caller's own may change


def values_of(settings: object) -> dict[str, Any]:
    """An object's settings as plain data; tensors among them by their hash, and what is no data by its ``repr``.

    Example:
        >>> from types import SimpleNamespace
        >>> values_of(SimpleNamespace(layer=3, rule=(1, 2)))
        {'layer': 3, 'rule': [1, 2]}
    """
    tensors: dict[str, torch.Tensor] = {}
    values = packed_fields(settings, tensors) if is_dataclass(settings) else dict(getattr(settings, "__dict__", {}))
    hashes = {"tensors": [hashlib.sha256(tensor.cpu().numpy().tobytes()).hexdigest()[:16] for _, tensor in sorted(tensors.items())]}
    return json.loads(json.dumps(values | (hashes if tensors else {}), default=repr))


def digest(values: Any) -> str:
    """A short hash of plain data.

    Example:
        >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def function_digest(function: Callable[..., Any]) -> str:
    """A short hash of a function: the same for the same code with the same values only, and never the same again for what cannot be looked into.

    The values are its defaults, what it holds of the functions around it, and the globals that it names; numbers, arrays and torch's own modules
    among them by what they hold at this moment.

    Example:
        >>> function_digest(lambda x: x + 1) == function_digest(lambda x: x + 2)
        False
    """
    try:
        return hashlib.sha256(_contents(function)).hexdigest()[:8]
    except (TypeError, ValueError, RecursionError):
        return secrets.token_hex(4)


def _contents(value: Any) -> bytes:
    """A value's bytes, a function's with everything it reads.

    Raises:
        TypeError: something that cannot be looked into.
    """
    if isinstance(value, torch.Tensor):
        return repr((value.dtype, value.shape)).encode() + value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    if type(value) is np.ndarray and not value.dtype.hasobject:
        return b"array" + repr((value.dtype, value.shape)).encode() + value.tobytes()
    if isinstance(value, torch.nn.Module):
        return _module(value)
    if isinstance(value, tuple | list):
        return b"".join([type(value).__name__.encode(), *(hashlib.sha256(_contents(each)).digest() for each in value)])
    if value is None or isinstance(value, str | int | float | bytes):
        return repr(value).encode()
    if isinstance(value, frozenset):
        return _contents(sorted(value, key=repr))
    if isinstance(value, CodeType):  # without its file and its lines
        names = (value.co_names, value.co_varnames, value.co_freevars, value.co_cellvars)
        return value.co_code + _contents((names, value.co_argcount, value.co_kwonlyargcount, value.co_consts))
    if isinstance(value, ModuleType) and value.__name__.partition(".")[0] in KNOWN_MODULES:
        return value.__name__.encode()
    if isinstance(value, partial):
        return _contents(("partial", value.func, value.args, sorted(value.keywords.items())))
    if isinstance(value, FunctionType):
        held = [cell.cell_contents for cell in value.__closure__ or ()]
        named = [(name, value.__globals__[name]) for name in sorted(set(_names(value.__code__))) if name in value.__globals__]
        return _contents((value.__code__, held, named, value.__defaults__, sorted((value.__kwdefaults__ or {}).items())))
    raise TypeError(f"a {type(value).__name__} cannot be looked into")


def _module(module: torch.nn.Module) -> bytes:
    """What a module of torch's own classes computes: its layers and their settings, and its values at this moment.

    Raises:
        TypeError: a class or a hook of the caller's own.
    """
    for part in module.modules():
        if type(part).__module__.partition(".")[0] != "torch" or part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part):
            raise TypeError(f"a {type(part).__name__} cannot be looked into")
    values = [*module.named_parameters(), *module.named_buffers()]
    return _contents((repr(module), [part.training for part in module.modules()], [(name, value.detach()) for name, value in values]))


def _names(code: CodeType) -> Iterator[str]:
    """Names that a function's code reads, and the code of functions inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
