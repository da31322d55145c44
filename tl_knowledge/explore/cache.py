"""What was computed, by what decides it: bounded, the longest unused goes first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

__all__ = ["Cache", "TabCache"]

Value = TypeVar("Value")


class Cache:
    """Results by key. The worker adds, anybody looks.

    Example:
        >>> cache = Cache(2)
        >>> [cache.get_or_make(key, lambda: key * 10) for key in (1, 2, 1, 3)], cache.get(2), cache.get(1)
        ([10, 20, 10, 30], None, 10)
    """

    def __init__(self, most: int) -> None:
        self._most, self._kept = most, OrderedDict[Hashable, Any]()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Any | None:
        """What is kept, or ``None``."""
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key]

    def get_or_make(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """What is kept, or what is made now; nothing is kept of what fails."""
        found = self.get(key)
        if found is not None:
            return found
        made = make()
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return made


class TabCache:
    """What one tab has asked for, which no other tab takes away, in front of what all have.

    Example:
        >>> shared = Cache(1)
        >>> tab = TabCache(shared, 3)
        >>> tab.get_or_make("a", lambda: 1), shared.get_or_make("b", lambda: 2), shared.get("a"), tab.get("a"), tab.get("b")
        (1, 2, None, 1, 2)
    """

    def __init__(self, shared: Cache, most: int) -> None:
        self._own, self._shared = Cache(most), shared

    def get(self, key: Hashable) -> Any | None:
        """What is kept, or ``None``."""
        found = self._own.get(key)
        return self._shared.get(key) if found is None else found

    def get_or_make(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """What is kept, or what is made now; the tab has it from then on."""
        return self._own.get_or_make(key, lambda: self._shared.get_or_make(key, make))
