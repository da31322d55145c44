"""Dataclasses as plain data and tensors, and back: what every result's file is made of.

``pack`` walks a value: tensors, arrays and dataframes are put aside under their path (``shares.faithfulness``), everything else becomes what JSON
has. ``unpack`` reads it by the dataclass' annotations (cattrs). A nested dataclass says its class, so that a field may hold one of several;
a `Word` is its word.
"""

from __future__ import annotations

import dataclasses
import inspect
import io
import os
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from types import NoneType, UnionType
from typing import Any, Protocol, TypeVar, Union, get_args, get_origin, runtime_checkable

import cattrs
import numpy as np
import pandas as pd
import torch
from cattrs.strategies import configure_union_passthrough

from tl_knowledge.errors import DataError

__all__ = ["pack", "packed_fields", "plain", "unpack", "unpack_file"]

Packed = dict[str, torch.Tensor]
Value = TypeVar("Value")

KIND = "class"


@runtime_checkable
class Word(Protocol):
    """What is packed as one word, that says all of it."""

    def to_word(self) -> str:
        """The word."""
        ...

    @classmethod
    def from_word(cls, word: str) -> Word:
        """From the word."""
        ...


def packed_fields(value: Any, tensors: Packed) -> dict[str, Any]:
    """A dataclass' own fields, without those that begin with an underscore.

    Args:
        tensors: takes what is put aside.
    """
    fields = [field.name for field in dataclasses.fields(value) if field.init and not field.name.startswith("_")]
    return {name: pack(getattr(value, name), name, tensors) for name in fields}


def plain(value: Any) -> dict[str, Any]:
    """Settings as plain data, for a provenance or a key; tensors are left out.

    Example:
        >>> plain(dataclasses.make_dataclass("Settings", [("steps", int), ("layers", tuple)])(3, (1, 2)))
        {'steps': 3, 'layers': [1, 2]}
    """
    aside: Packed = {}
    return {name: packed for name, packed in packed_fields(value, aside).items() if not (isinstance(packed, dict) and "tensor" in packed)}


def pack(value: Any, path: str, tensors: Packed) -> Any:
    """A value as JSON has it; tensors, arrays and dataframes go into ``tensors`` under their path."""
    if isinstance(value, torch.Tensor):
        tensors[path] = value
        return {"tensor": path}
    if isinstance(value, np.ndarray):
        tensors[path] = torch.from_numpy(np.ascontiguousarray(value))
        return {"array": path}
    if isinstance(value, pd.DataFrame):
        tensors[path] = _frame_bytes(value)
        return {"frame": path}
    if isinstance(value, Word):
        return value.to_word()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.init and not field.name.startswith("_")]
        return {KIND: type(value).__name__} | {name: pack(getattr(value, name), f"{path}.{name}", tensors) for name in names}
    if isinstance(value, Mapping):
        return {str(key): pack(inner, f"{path}.{key}", tensors) for key, inner in value.items()}
    if isinstance(value, AbstractSet):
        return [pack(inner, f"{path}.{i}", tensors) for i, inner in enumerate(sorted(value))]
    if isinstance(value, list | tuple):
        return [pack(inner, f"{path}.{i}", tensors) for i, inner in enumerate(value)]
    return value.item() if isinstance(value, np.generic) else value


def unpack(kind: type[Value], fields: Mapping[str, Any], tensors: Packed) -> Value:
    """A dataclass from what `packed_fields` gave."""
    return _converter(tensors).structure(dict(fields), kind)


def unpack_file(kind: type[Value], fields: Mapping[str, Any], tensors: Packed, source: str | os.PathLike[str]) -> Value:
    """`unpack` of what a file holds.

    Raises:
        DataError: it does not have this class' fields, or not with such values.
    """
    try:
        return unpack(kind, fields, tensors)
    except Exception as error:  # cattrs collects errors of every kind in a group of its own
        reason = "; ".join(cattrs.transform_error(error)) if isinstance(error, cattrs.BaseValidationError) else f"{type(error).__name__}: {error}"
        raise DataError(
            f"{os.fspath(source)!r} does not have the fields of this version's {kind.__name__} ({reason[:300]}); compute it again, "
            "or read it with the version that wrote it."
        ) from error


def _converter(tensors: Packed) -> cattrs.Converter:
    """cattrs, with the tensors put aside and unions told apart by the class they name."""
    converter = cattrs.Converter()

    def structure_union(value: Any, union: Any) -> Any:
        if value is None:
            return None
        kind = next(kind for member in _members(union) for kind in _with_subclasses(member) if kind.__name__ == value[KIND])
        return converter.structure(value, kind)

    converter.register_structure_hook_func(lambda t: hasattr(t, "from_word"), lambda v, t: t.from_word(v))
    converter.register_structure_hook_func(_is_tensor, lambda v, _: tensors[v["tensor"]])
    converter.register_structure_hook_func(lambda t: (get_origin(t) or t) is np.ndarray, lambda v, _: tensors[v["array"]].numpy())
    converter.register_structure_hook_func(
        lambda t: t is pd.DataFrame, lambda v, _: v if isinstance(v, pd.DataFrame) else _frame(tensors[v["frame"]])
    )
    converter.register_structure_hook_func(lambda t: len(_members(t)) > 1 or _is_abstract(t), structure_union)
    configure_union_passthrough(str | bool | int | float | None, converter)  # "3sd" or 0.4
    return converter


def _is_tensor(kind: Any) -> bool:
    """Whether an annotation is a tensor, plain or with its shape."""
    return kind is torch.Tensor or getattr(kind, "array_type", None) is torch.Tensor


def _members(kind: Any) -> tuple[Any, ...]:
    """The dataclasses of a union of nothing else (but ``None``), or an abstract dataclass itself."""
    if _is_abstract(kind):
        return (kind,)
    if get_origin(kind) not in (Union, UnionType):
        return ()
    members = tuple(member for member in get_args(kind) if member is not NoneType)
    return members if all(dataclasses.is_dataclass(member) for member in members) else ()


def _is_abstract(kind: Any) -> bool:
    """Whether an annotation is a dataclass that only its subclasses can be made of."""
    return dataclasses.is_dataclass(kind) and inspect.isabstract(kind)


def _with_subclasses(kind: type) -> Iterator[type]:
    """A class and all that are made from it."""
    yield kind
    for subclass in kind.__subclasses__():
        yield from _with_subclasses(subclass)


def _frame_bytes(frame: pd.DataFrame) -> torch.Tensor:
    """A dataframe as the bytes of a parquet file, so that its types survive."""
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def _frame(data: torch.Tensor) -> pd.DataFrame:
    return pd.read_parquet(io.BytesIO(data.numpy().tobytes()))
