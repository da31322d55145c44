"""What keeps hooks on a model: edits that change no weight but what activations become.

Each of them is on the model under its own key. They count as part of what the model is: a result that was made under them does not meet the same
weights without them (`tl_knowledge.models.description.weight_fingerprint`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch

from tl_knowledge.arrays import HookFn
from tl_knowledge.errors import ModelStateError
from tl_knowledge.models.protocol import HookedModel

__all__ = [
    "BETWEEN",
    "Routed",
    "check_not_replaced",
    "foreign_hook",
    "has_module_hook",
    "has_routes",
    "is_bare",
    "is_on",
    "late_hooks",
    "mark_replaced",
    "module_hook",
    "put_on",
    "replaced_from",
    "route_digests",
    "routed_at",
    "routed_on",
    "take_off",
    "users_hook",
]


@dataclass(frozen=True, eq=False)
class Routed:
    """What is on a model.

    Attributes:
        edit: what put it there.
        digest: of what it does; part of the model's fingerprint.
        handles: each hook's point and its handle there.
        again: the hooks that read, by name.
    """

    edit: Any
    digest: str
    handles: tuple[tuple[Any, Any], ...] = ()
    again: tuple[tuple[str, HookFn], ...] = ()


_on: WeakKeyDictionary[object, dict[Hashable, Routed]] = WeakKeyDictionary()

_GUARD, _MARK = "_tl_knowledge_guard", "_tl_knowledge_trail"

WIRING = ("transformer_lens.", "transformers.", "torch.nn.utils.")
"""Where hooks are from that belong to what the model is."""

BETWEEN = (
    "another hook lies between the edits that are on the model and this one's, so it cannot start from the same place; "
    "keep this edit on the model, too: write_into(model) or applied(model)."
)

_at: WeakKeyDictionary[object, dict[Hashable, Any]] = WeakKeyDictionary()
"""The edits by hook point: the same as ``_on``, for hooks."""


def put_on(
    model: HookedModel,
    key: Hashable,
    edit: object,
    digest: str,
    hooks: Iterable[tuple[str, HookFn]] = (),
    again: Iterable[tuple[str, HookFn]] = (),
) -> None:
    """Keep hooks on a model until `take_off`; all of them or none.

    They are permanent in TransformerLens' sense: ``model.reset_hooks()`` leaves them.

    Args:
        edit: for those who ask what is on the model.
        digest: of what it does.
        hooks: may be none, for what acts elsewhere.
        again: those of them that only read, and have to see what later hooks make of an activation (`late_hooks`).

    Raises:
        ModelStateError: the key is on the model already.
    """
    if is_on(model, key):
        raise ModelStateError("this edit is already on the model; revert(model) takes it off first.")
    points: list[tuple[Any, HookFn]] = [(model.hook_dict[name], hook) for name, hook in hooks]
    before = [(point, list(point.fwd_hooks), set(point._forward_hooks)) for point, _ in points]
    try:
        for point, hook in points:
            point.add_hook(hook, is_permanent=True)
            _at.setdefault(point, {})[key] = edit
            setattr(point, _GUARD, _NotCopied())
        handles = tuple((point, point.fwd_hooks[-1]) for point, _ in points)
        _on.setdefault(model, {})[key] = Routed(edit, digest, handles, tuple(again))
    except BaseException:
        _on.get(model, {}).pop(key, None)
        for point, own, registered in before:  # an interrupt may have come before TransformerLens noted the hook
            point.fwd_hooks = own
            for number in set(point._forward_hooks) - registered:
                del point._forward_hooks[number]
            _forget(point, key)
        raise


def take_off(model: HookedModel, key: Hashable) -> None:
    """Take hooks off a model; an interrupt does not stop it half-way.

    Raises:
        ModelStateError: they are not on it.
    """
    if not is_on(model, key):
        raise ModelStateError("this edit is not on this model; write_into(model) comes before revert(model).")
    handles = _on[model][key].handles
    try:
        _remove(key, handles)
        del _on[model][key]
    except BaseException:
        _remove(key, handles)
        _on[model].pop(key, None)
        raise


def is_on(model: HookedModel, key: Hashable) -> bool:
    """Whether something is on a model under this key, with all of its hooks."""
    routed = _on.get(model, {}).get(key)
    return routed is not None and _acts(routed)


def _acts(routed: Routed) -> bool:
    """Whether its hooks are still there; ``reset_hooks(including_permanent=True)`` takes them off."""
    return all(any(own is handle for own in point.fwd_hooks) for point, handle in routed.handles)


def routed_on(model: HookedModel) -> list[Any]:
    """The edits that are on a model, in the order they came."""
    return [routed.edit for routed in _on.get(model, {}).values() if _acts(routed)]


def routed_at(point: object) -> dict[Hashable, Any]:
    """The edits that act at a hook point of the model that they are on, in the order they came; for a hook, which knows its point and no model."""
    return _at.get(point, {})


def late_hooks(model: HookedModel) -> list[tuple[str, HookFn]]:
    """What reads an activation for the edits on a model, once more: a run of this package has it behind its own hooks, which may change it."""
    reading: dict[str, list[HookFn]] = {}
    for routed in _on.get(model, {}).values():
        for name, hook in routed.again:
            reading.setdefault(name, []).append(hook)
    return [(name, _each_reads(hooks)) for name, hooks in reading.items()]


def _each_reads(hooks: Sequence[HookFn]) -> HookFn:
    def read(activation: torch.Tensor, *, hook: Any) -> None:
        for each in hooks:
            each(activation, hook=hook)

    return read


def _own_handles(model: HookedModel) -> set[int]:
    """Which handles on the model's hook points are ours: their ``id``."""
    return {id(handle) for routed in _on.get(model, {}).values() for _, handle in routed.handles}


def foreign_hook(model: HookedModel) -> str | None:
    """The first hook point of the model that has somebody else's hook."""
    return _hooked_point(model, lambda _: True)


def module_hook(model: HookedModel) -> str | None:
    """The first module of the model that has a PyTorch forward hook of somebody, ``register_forward_hook`` or ``register_forward_pre_hook``.

    Left out are a model's own wiring, which its probes have seen, the hooks of TransformerLens' hook points, which `foreign_hook` looks at, and
    PyTorch's reparametrisations, which only set weights.
    """
    for module in model.modules():
        if has_module_hook(module):
            whole: Any = model
            name = next((name for name, each in whole.named_modules() if each is module), "")
            return name.replace("._original_component", "") or type(module).__name__
    return None


def has_module_hook(module: torch.nn.Module) -> bool:
    """Whether somebody's PyTorch forward hook is on this module itself."""
    return not all(_is_wiring(hook) for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()))


def users_hook(model: HookedModel) -> str | None:
    """The first hook point or module that has a hook of neither this package nor a library: it may count positions.

    TransformerLens 4 wires some bridges, such as OPT's, with permanent hooks of its own, which the probes have seen.
    """
    return _hooked_point(model, lambda handle: not _is_wiring(getattr(handle, "user_hook", None))) or module_hook(model)


def is_bare(model: HookedModel) -> bool:
    """Whether nothing is on the model that a short cut could pass by: no edit of activations, and no hook of somebody else."""
    return not has_routes(model) and users_hook(model) is None


def _hooked_point(model: HookedModel, counts: Callable[[Any], bool]) -> str | None:
    """The first hook point with a handle that is not ours, and counts."""
    own, points = _own_handles(model), model.hook_dict.items()
    found = (name for name, point in points if any(id(each) not in own and counts(each) for each in (*point.fwd_hooks, *point.bwd_hooks)))
    return next(found, None)


def _is_wiring(hook: Any) -> bool:
    """Whether a library has put it there: a function of its own, or an object of a class of its own."""
    function = hook.func if isinstance(hook, partial) else hook
    return str(getattr(function, "__module__", "")).startswith(WIRING)


def has_routes(model: HookedModel) -> bool:
    """Whether anything is on a model."""
    return any(_acts(routed) for routed in _on.get(model, {}).values())


def route_digests(model: HookedModel) -> dict[str, str]:
    """Digests of what is on a model, by place in the order they came."""
    return {f"edit {number} on the model": routed.digest for number, routed in enumerate(_on.get(model, {}).values()) if _acts(routed)}


def _remove(key: Hashable, handles: Sequence[tuple[Any, Any]]) -> None:
    for point, handle in handles:
        handle.hook.remove()
        point.fwd_hooks = [other for other in point.fwd_hooks if other is not handle]
        _forget(point, key)


def _forget(point: Any, key: Hashable) -> None:
    there = _at.get(point, {})
    there.pop(key, None)
    if not there:
        vars(point).pop(_GUARD, None)


class _NotCopied:
    """Stands in a hook point with an edit: a copy would have the hooks, and nobody would know of them."""

    def __reduce_ex__(self, _: Any) -> Any:
        raise ModelStateError(
            "a model cannot be copied or pickled while an edit that keeps hooks on it is there; revert(model) takes it off, and it can be written "
            "into the copy as well."
        )


def mark_replaced(output: torch.Tensor, before: torch.Tensor | None, edits: Sequence[Any]) -> None:
    """Note on an output what it was before any edit (``None``: the same), and which edits have acted on it."""
    setattr(output, _MARK, (before, tuple(edits), _version(output)))


def replaced_from(output: torch.Tensor) -> tuple[torch.Tensor | None, tuple[Any, ...]] | None:
    """What `mark_replaced` noted on an output.

    Raises:
        ModelStateError: somebody has changed it in place since.
    """
    before, edits, version = getattr(output, _MARK, (None, None, None))
    if before is not None and version != _version(output):
        raise ModelStateError(BETWEEN)
    return None if edits is None else (before, edits)


def check_not_replaced(output: torch.Tensor, name: str) -> None:
    """Refuse to add a change of weights to an output that an edit on the model has replaced: the weights would not reach it.

    Raises:
        ModelStateError: it was replaced.
    """
    noted = replaced_from(output)
    if noted is not None and noted[0] is not None:
        raise ModelStateError(
            f"an edit on the model has replaced what {name!r} is at some positions, which a change of weights added here would alter; "
            "write_into(model) or applied(model) does it in the right order, or revert(model) takes the other edit off."
        )


def _version(output: torch.Tensor) -> int | None:
    """How often it was changed in place; nobody counts that in inference mode."""
    return None if output.is_inference() else output._version
