"""One thread at a time on a model: hooks and edits are the model's own state, so two runs at once would see each other's.

The lock is re-entrant: a thread that has it may call anything of this package. Another thread waits, inside ``with edit.applied(model):`` too,
and so never sees the edit. Code of your own that runs the model in other threads has to take it itself::

    with model_lock(model):
        logits = model(tokens)
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary

__all__ = ["model_lock"]

_by_name = RLock()

_locks: WeakKeyDictionary[Any, AbstractContextManager[Any]] = WeakKeyDictionary()


def model_lock(model: Any) -> AbstractContextManager[Any]:
    """A model's lock, to have it to oneself; the same one each time. Models that go by their name share one, as only the last one is kept.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> with model_lock(model), model_lock(model):
        ...     len(model(model.to_tokens("Paris")))
        1
    """
    return _by_name if isinstance(model, str | os.PathLike) else _locks.setdefault(model, RLock())
