"""What keeps hooks on a model: edits that change no weight but what activations become.

Each of them is on the model under its own key. They count as part of what the model is: a result that was made under them does not meet the same
weights without them (`tl_knowledge.models.description.weight_fingerprint`).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from tl_knowledge.arrays import HookFn
from tl_knowledge.errors import ModelStateError
from tl_knowledge.models.protocol import HookedModel

__all__ = ["Routed", "has_routes", "is_on", "own_handles", "put_on", "route_digests", "routed_on", "take_off"]


@dataclass(frozen=True, eq=False)
class Routed:
    """What is on a model.

    Attributes:
        edit: what put it there.
        digest: of what it does; part of the model's fingerprint.
        handles: each hook's point and its handle there.
    """

    edit: Any
    digest: str
    handles: tuple[tuple[Any, Any], ...] = ()


_on: WeakKeyDictionary[object, dict[Hashable, Routed]] = WeakKeyDictionary()


def put_on(model: HookedModel, key: Hashable, edit: object, digest: str, hooks: Iterable[tuple[str, HookFn]] = ()) -> None:
    """Keep hooks on a model until `take_off`; all of them or none.

    They are permanent in TransformerLens' sense: ``model.reset_hooks()`` leaves them.

    Args:
        edit: for those who ask what is on the model.
        digest: of what it does.
        hooks: may be none, for what acts elsewhere.

    Raises:
        ModelStateError: the key is on the model already.
    """
    if is_on(model, key):
        raise ModelStateError("this edit is already on the model; revert(model) takes it off first.")
    handles: list[tuple[Any, Any]] = []
    try:
        for name, hook in hooks:
            point = model.hook_dict[name]
            point.add_hook(hook, is_permanent=True)
            handles.append((point, point.fwd_hooks[-1]))
        _on.setdefault(model, {})[key] = Routed(edit, digest, tuple(handles))
    except BaseException:
        _remove(handles)
        raise


def take_off(model: HookedModel, key: Hashable) -> None:
    """Take hooks off a model.

    Raises:
        ModelStateError: they are not on it.
    """
    if not is_on(model, key):
        raise ModelStateError("this edit is not on this model; write_into(model) comes before revert(model).")
    _remove(_on[model].pop(key).handles)


def is_on(model: HookedModel, key: Hashable) -> bool:
    """Whether something is on a model under this key."""
    return key in _on.get(model, {})


def routed_on(model: HookedModel) -> list[Any]:
    """The edits that are on a model, in the order they came."""
    return [routed.edit for routed in _on.get(model, {}).values()]


def own_handles(model: HookedModel) -> set[int]:
    """Which handles on the model's hook points are ours: their ``id``."""
    return {id(handle) for routed in _on.get(model, {}).values() for _, handle in routed.handles}


def has_routes(model: HookedModel) -> bool:
    """Whether anything is on a model."""
    return bool(_on.get(model))


def route_digests(model: HookedModel) -> dict[str, str]:
    """Digests of what is on a model, by place in the order they came."""
    return {f"edit {number} on the model": routed.digest for number, routed in enumerate(_on.get(model, {}).values())}


def _remove(handles: Sequence[tuple[Any, Any]]) -> None:
    for point, handle in handles:
        handle.hook.remove()
        point.fwd_hooks = [other for other in point.fwd_hooks if other is not handle]
