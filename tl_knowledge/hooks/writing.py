"""Writing values into a part of an activation, out of place: what the factories' hooks have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeAlias, runtime_checkable

import torch

from tl_knowledge.arrays import HookFn, Hooks, as_positions
from tl_knowledge.errors import ComponentError
from tl_knowledge.models.hook_names import Component, by_position, component_hook
from tl_knowledge.wording import counted

__all__ = ["ALONE", "Activations", "Positions", "check_not_alone", "check_reach", "has_recorded", "write_component", "write_part", "write_recorded"]

Positions: TypeAlias = int | Iterable[int]

ALONE = " (in generate() with a key-value cache every new token runs alone: pass use_past_kv_cache=False)"
ANEW = "; if it is a prompt of one token, make the hooks anew, because they cannot tell the two apart"


@runtime_checkable
class Activations(Protocol):
    """Recorded activations by hook name: an ``ActivationCache`` or a dict of tensors ``[1 or batch, pos, ...]``."""

    def __getitem__(self, key: str, /) -> torch.Tensor: ...


def write_recorded(recorded: Activations, name: str, where: Positions | None, units: int | Iterable[int] | None) -> HookFn:
    """A hook that copies recorded values into some positions (and units) of an activation."""

    def write(activation: torch.Tensor, *, hook: object) -> torch.Tensor:
        source = recorded[name].to(activation)
        if min(source.ndim, activation.ndim) == 2:
            return _write_flat(write, source, activation, name)
        if source.shape[1:] != activation.shape[1:] or source.shape[0] not in (1, activation.shape[0]):
            raise ComponentError(
                f"recorded {name} has shape {tuple(source.shape)}, the running one {tuple(activation.shape)}; "
                f"record it on a prompt of the same length{ALONE * (activation.shape[1] == 1)}."
            )
        return write_part(activation, source, name, where, units)

    return write


def write_component(recorded: Activations, component: Component, layer: int, where: Positions | None, units: int | Iterable[int] | None) -> Hooks:
    """The same for a component of a layer.

    What an MLP reads is shown under another name by each of TransformerLens' classes: the recorded one is taken. ``HookedTransformer`` shows it as
    the output of a norm, which in some models lies after the MLP; a second hook refuses such a run.

    Raises:
        ComponentError: what an MLP reads is not recorded.
    """
    if component != "mlp_in":
        name = component_hook(component, layer)
        return [(name, write_recorded(recorded, name, where, units))]
    names = [component_hook(component, layer), f"blocks.{layer}.ln2.hook_normalized"]
    there = [name for name in names if has_recorded(recorded, name)]
    if not there:
        raise ComponentError(f"neither {names[0]} nor {names[1]} is recorded, so what the MLP reads is not known; record one, or pass 'mlp_out'.")
    write, written = write_recorded(recorded, there[0], where, units), list[bool]()

    def write_before(activation: torch.Tensor, *, hook: object) -> torch.Tensor | None:
        written[:] = [True]
        return write(activation, hook=hook)

    def check(_: torch.Tensor, *, hook: object) -> None:
        if not written:
            raise ComponentError(f"{there[0]} comes after the MLP in this model, or never, so it is not what the MLP reads; pass 'mlp_out'.")
        written.clear()

    return [(there[0], write_before), (component_hook("neuron", layer), check)]


def has_recorded(recorded: Activations, name: str) -> bool:
    """Whether a hook's activation is among the recorded ones."""
    try:
        return recorded[name] is not None  # pyright: ignore[reportUnnecessaryComparison]
    except (KeyError, ValueError, IndexError):  # of a dict, and what an ActivationCache makes of a name it does not know
        return False


def write_part(activation: torch.Tensor, source: torch.Tensor, name: str, where: Positions | None, units: int | Iterable[int] | None) -> torch.Tensor:
    """A copy of an activation, with another's values at some positions and units.

    Args:
        source: of the activation's shape; one row may stand for all.
        where, units: all when ``None``. The positions of attention's scores and patterns are the queries'.

    Raises:
        ComponentError: a position or unit outside the activation.
    """
    changed = activation.clone()
    written, values = by_position(name, changed), by_position(name, source)
    if where is not None:
        where = list(as_positions(where))
        check_reach(written, where, name)
    at = torch.arange(written.shape[1]) if where is None else torch.tensor(where)
    if units is None:
        written[:, at] = values[:, at]
    else:
        numbers = as_positions(units)
        outside = [unit for unit in numbers if not 0 <= unit < written.shape[2]]
        if outside:
            raise ComponentError(f"unit {outside[0]} is outside the {written.shape[2]} of {name}; pass numbers from 0 to {written.shape[2] - 1}.")
        written[:, at[:, None], torch.tensor(numbers)] = values[:, at[:, None], torch.tensor(numbers)]
    return changed


def _write_flat(write: Callable[..., torch.Tensor], source: torch.Tensor, activation: torch.Tensor, name: str) -> torch.Tensor:
    """The same where the model runs a module on all tokens of all rows as one long row ``[batch*pos d]`` (OPT's MLPs)."""
    if source.ndim == 2 or len(activation) % source.shape[1]:
        raise ComponentError(
            f"this model has batch and positions of {name} in one axis, {tuple(activation.shape)}, so that positions cannot be told apart; "
            "pass recorded activations as [batch pos d_model]: recorded[name].unflatten(0, tokens.shape)."
        )
    return write(activation.unflatten(0, (-1, source.shape[1])), hook=None).flatten(0, 1)


def check_not_alone(activation: torch.Tensor, positions: Iterable[int], lengths: list[int]) -> None:
    """Refuse the one new token of a step of ``generate`` with a cache, which is not at the position that it has there; the prompt came before.

    It is the last one, too; but the cache keeps what the hooks made of every token that was the last before, which a run of the whole text does not.

    A hook sees neither the cache nor the prompt. So hooks that ran on a longer text refuse a *prompt* of one token as well, in another run or in the
    same context: the message says to make them anew. And steps that follow a prompt of one token look like prompts: they are not refused.

    Args:
        lengths: of the longest text so far; the hook's own, as long as it lives.
    """
    lengths[:] = [max([activation.shape[1], *lengths])]
    if activation.shape[1] == 1 < lengths[0]:
        first = min(positions)
        meant = "the prompt's token" if first >= 0 else "a place in the whole text"
        raise ComponentError(f"position {first} means {meant}, but a single token came after a text of {lengths[0]}{ALONE}{ANEW}.")


def check_reach(activation: torch.Tensor, positions: Iterable[int], name: str) -> None:
    """Refuse positions outside an activation ``[batch pos ...]``."""
    length = activation.shape[1]
    for position in positions:
        if not -length <= position < length:
            raise ComponentError(
                f"position {position} is outside the {counted(length, 'position')} of {name}; "
                f"pass positions from 0 to {length - 1}{ALONE * (length == 1)}."
            )
