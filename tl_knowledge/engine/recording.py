"""Recording activations, and stopping a forward where nothing more is needed."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import torch

from tl_knowledge.arrays import HookFn, Hooks, Tokens
from tl_knowledge.engine.forward import run_model
from tl_knowledge.errors import UnsupportedModelError
from tl_knowledge.models.hook_names import block_input, block_output
from tl_knowledge.models.protocol import HookedModel, layer_count, model_name

__all__ = ["Reached", "capture", "capture_base", "record", "record_beside", "run_until", "stop", "stored_bytes"]


def capture(name: str, into: list[torch.Tensor]) -> Hooks:
    """Record an activation."""

    def keep(activation: torch.Tensor, *, hook: object) -> None:
        into.append(activation.detach())

    return [(name, keep)]


class Reached(Exception):  # noqa: N818  # no error: nothing after this point is needed
    """A forward has come to the hook where it should stop."""


def stop(_: torch.Tensor, *, hook: object) -> None:
    """A hook that ends the forward; `run_until` catches it."""
    raise Reached


def run_until(model: HookedModel, tokens: Tokens, hooks: Hooks, last: str, **kwargs: Any) -> None:
    """Run under some hooks up to one of them; what comes after it is not computed."""
    with torch.no_grad(), suppress(Reached):
        run_model(model, tokens, [*hooks, (last, stop)], **kwargs)


def record(model: HookedModel, tokens: Tokens, hooks: Hooks, names: Iterable[str], **kwargs: Any) -> dict[str, torch.Tensor]:
    """Run once under some hooks and keep the named activations; what comes after the last of them is not computed.

    Raises:
        UnsupportedModelError: a hook that the model lists but never calls, whose activations nobody can know.
    """
    recorded: dict[str, torch.Tensor] = {}
    missing = set(names)

    def keep(name: str) -> HookFn:
        def catch(activation: torch.Tensor, *, hook: object) -> None:
            recorded[name] = activation.detach()
            missing.discard(name)
            if not missing:
                raise Reached

        return catch

    if missing:
        with torch.no_grad(), suppress(Reached):
            run_model(model, tokens, hooks + [(name, keep(name)) for name in sorted(missing)], **kwargs)
    _refuse_silent(model, missing)
    return recorded


def record_beside(
    model: HookedModel, tokens: Tokens, hooks: Hooks, names: Iterable[str], most: float, **kwargs: Any
) -> tuple[torch.Tensor, dict[str, torch.Tensor] | None]:
    """Run once under some hooks to the end, for the logits, and keep the named activations, or none where they take too many bytes.

    Args:
        most: how many; as soon as they take more nothing is kept.

    Raises:
        UnsupportedModelError: as `record`.
    """
    recorded, fired, sizes = dict[str, torch.Tensor](), set[str](), dict[int, int]()

    def keep(name: str) -> HookFn:
        def catch(activation: torch.Tensor, *, hook: object) -> None:
            fired.add(name)
            storage = activation.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            if sum(sizes.values()) > most:
                recorded.clear()
                sizes[0] = int(most) + 1  # for good
            else:
                recorded[name] = activation.detach()

        return catch

    wanted = sorted(set(names))
    with torch.no_grad():
        logits: torch.Tensor = run_model(model, tokens, hooks + [(name, keep(name)) for name in wanted], **kwargs)
    _refuse_silent(model, set(wanted) - fired)
    return logits, None if sum(sizes.values()) > most else recorded


def stored_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Memory that some tensors take; what shares a storage counts once."""
    return sum({storage.data_ptr(): storage.nbytes() for storage in (each.untyped_storage() for each in tensors)}.values())


def _refuse_silent(model: HookedModel, names: set[str]) -> None:
    if names:
        raise UnsupportedModelError(
            f"{', '.join(sorted(names))} of {model_name(model)} never fired, so nothing can be read or restored there; choose another component."
        )


def capture_base(model: HookedModel, into: list[torch.Tensor]) -> Hooks:
    """Record the residual stream that enters block 0 and leaves each block, for `grow_rows`."""
    names = [block_input(0), *map(block_output, range(layer_count(model)))]
    return [pair for name in names for pair in capture(name, into)]
