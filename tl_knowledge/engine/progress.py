"""Progress bars: in a terminal and in a notebook, and none before the work has lasted two seconds; and for a program that draws its own."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

from tl_knowledge.models.quiet import tqdm

__all__ = ["DELAY", "progress_bar", "progress_shown", "progress_watched", "show_progress", "watch_progress"]

DELAY = 2.0
"""Seconds of work before a bar is shown."""
_shown: ContextVar[bool] = ContextVar("progress is shown", default=False)

Watcher: TypeAlias = Callable[[str, int, "int | None"], None]
"""Is told what is being done, how much of it is done, and of how much, where that is known."""

_watcher: ContextVar[Watcher | None] = ContextVar("who watches", default=None)


def progress_bar(
    items: Iterable[Any] | None = None,
    *,
    what: str,
    unit: str,
    progress: bool,
    total: int | None = None,
    initial: int = 0,
    leave: bool = True,
    seconds: float = 0.0,
) -> Any:
    """A tqdm bar over some items, or to be moved on by hand (``bar.update(n)``) up to a total.

    Args:
        what: what is being done.
        unit: what is counted.
        progress: whether to show it at all.
        seconds: how long the work will take, where that is known: a bar of longer work is there from the start.

    Example:
        >>> list(progress_bar([1, 2], what="count", unit="number", progress=False))
        [1, 2]
    """
    delay = 0.0 if seconds > DELAY else DELAY
    bar = tqdm(items, total=total, initial=initial, desc=what, unit=unit, delay=delay, leave=leave, disable=not progress)
    watcher = _watcher.get()
    return bar if watcher is None else _Watched(bar, watcher, what, initial, total if total is not None else _length(items))


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


def progress_watched() -> bool:
    """Whether somebody is told how far this thread's work is (`watch_progress`)."""
    return _watcher.get() is not None


@contextmanager
def watch_progress(watcher: Watcher) -> Generator[None]:
    """For the length of a ``with``, tell somebody how far this thread's work is, whether bars are shown or not.

    Example:
        >>> with watch_progress(print):
        ...     for _ in progress_bar("ab", what="count", unit="letter", progress=False):
        ...         pass
        count 0 2
        count 1 2
        count 2 2
    """
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


class _Watched:
    """A bar, and somebody who is told of every move."""

    def __init__(self, bar: Any, watcher: Watcher, what: str, done: int, total: int | None) -> None:
        self._bar, self._watcher, self._what, self._done, self._total = bar, watcher, what, done, total
        watcher(what, done, total)

    def update(self, count: int = 1) -> None:
        self._bar.update(count)
        self._move(count)

    def set_description(self, what: str, *, refresh: bool) -> None:
        self._bar.set_description(what, refresh=refresh)
        self._what = what
        self._move(0)

    def __iter__(self) -> Iterator[Any]:
        for item in self._bar:
            yield item
            self._move(1)

    def __enter__(self) -> _Watched:
        self._bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.__exit__(*error)

    def _move(self, count: int) -> None:
        self._done += count
        self._watcher(self._what, self._done, self._total)


def _length(items: Iterable[Any] | None) -> int | None:
    return len(items) if hasattr(items, "__len__") else None  # pyright: ignore[reportArgumentType]
