"""One thread at a time on a model: hooks and edits are the model's own state, so two runs at once would see each other's.

The lock is re-entrant: a thread that has it may call anything of this package. Another thread waits, inside ``with edit.applied(model):`` too,
and so never sees the edit. Code of your own that runs the model in other threads has to take it itself::

    with model_lock(model):
        logits = model(tokens)
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from threading import Lock, RLock
from typing import Any
from weakref import WeakKeyDictionary

__all__ = ["model_lock"]

_locks: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
_of_the_table = Lock()


@contextmanager
def model_lock(model: Any) -> Generator[None]:
    """Have a model to oneself.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> with model_lock(model), model_lock(model):
        ...     tuple(model(model.to_tokens("Paris")).shape)[0]
        1
    """
    with _of_the_table:
        lock = _locks.setdefault(model, RLock())
    with lock:
        yield
