"""Progress bars: in a terminal and in a notebook, and none before the work has lasted two seconds."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from tl_knowledge.models.quiet import tqdm

__all__ = ["progress_bar", "progress_shown", "show_progress"]

DELAY = 2.0
_shown: ContextVar[bool] = ContextVar("progress is shown", default=False)


def progress_bar(
    items: Iterable[Any] | None = None, *, what: str, unit: str, progress: bool, total: int | None = None, initial: int = 0, leave: bool = True
) -> Any:
    """A tqdm bar over some items, or to be moved on by hand (``bar.update(n)``) up to a total.

    Args:
        what: what is being done.
        unit: what is counted.
        progress: whether to show it at all.

    Example:
        >>> list(progress_bar([1, 2], what="count", unit="number", progress=False))
        [1, 2]
    """
    return tqdm(items, total=total, initial=initial, desc=what, unit=unit, delay=DELAY, leave=leave, disable=not progress)


@contextmanager
def show_progress(progress: bool) -> Generator[None]:
    """For the length of a ``with``, let work further down show bars or not, where it has no ``progress`` argument of its own.

    Such work (an editing method's ``plan``) passes ``progress=progress_shown()`` to `progress_bar`; outside of any ``with`` that is False.

    Example:
        >>> with show_progress(True):
        ...     progress_shown()
        True
        >>> progress_shown()
        False
    """
    token = _shown.set(progress)
    try:
        yield
    finally:
        _shown.reset(token)


def progress_shown() -> bool:
    """Whether the caller further up asked for bars."""
    return _shown.get()
