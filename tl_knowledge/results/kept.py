"""What a long run has computed on its way to a part, kept in its folder: after a kill it is read instead of computed again.

The run says where (`kept_in`); what computes the values, further down and in another room, only says `kept`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from tl_knowledge.errors import DataError
from tl_knowledge.results.packing import packed_fields, unpack
from tl_knowledge.results.storage import read_result, write_result

__all__ = ["forget_kept", "kept", "kept_in"]

Kept = TypeVar("Kept")
PREFIX = "kept-"


@dataclass
class _Place:
    """Where values are kept now, and how many have been asked for."""

    directory: Path
    scope: str
    asked: int = 0


_place: ContextVar[_Place | None] = ContextVar("where values are kept", default=None)


@contextmanager
def kept_in(directory: Path | None, scope: str) -> Generator[None]:
    """For the length of a ``with``, `kept` keeps values in a folder; nowhere where it is ``None``.

    Args:
        scope: of this stretch of work, in file names; the same work after a kill has the same.
    """
    token = _place.set(None if directory is None else _Place(directory, scope))
    try:
        yield
    finally:
        _place.reset(token)


def kept(kind: type[Kept], make: Callable[[], Kept], fingerprint: str) -> Kept:
    """A value that was kept at this point of this scope, else the one that is made, which is kept then.

    Args:
        kind: the value's dataclass; tensors come back on the CPU, bit for bit.
        fingerprint: of what the value depends on.

    Raises:
        DataError: what is there is damaged, or was made of something else.

    Example:
        >>> kept(dict, dict, "")  # outside of any `kept_in`
        {}
    """
    place = _place.get()
    if place is None:
        return make()
    path = place.directory / f"{PREFIX}{place.scope}-{place.asked:05d}.safetensors"
    place.asked += 1
    if path.is_file():
        tensors, fields = read_result(path, kind.__name__)
        if fields.pop("fingerprint", None) != fingerprint:
            raise DataError(f"{str(path)!r} is of another run than its folder; delete it to have it computed again.")
        return unpack(kind, fields, tensors)
    value, aside = make(), dict[str, torch.Tensor]()
    own: dict[str, Any] = packed_fields(value, aside)
    write_result(path, kind.__name__, aside, own | {"fingerprint": fingerprint})
    return value


def forget_kept(directory: Path, scope: str) -> None:
    """Delete what was kept of all scopes that begin so: the part that it was for is there."""
    for path in directory.glob(f"{PREFIX}{scope}*.safetensors"):
        path.unlink()
