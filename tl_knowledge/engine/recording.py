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

__all__ = ["Reached", "capture", "capture_base", "record", "run_until", "stop"]


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
    if missing:
        raise UnsupportedModelError(
            f"{', '.join(sorted(missing))} of {model_name(model)} never fired, so nothing can be read or restored there; choose another component."
        )
    return recorded


def capture_base(model: HookedModel, into: list[torch.Tensor]) -> Hooks:
    """Record the residual stream that enters block 0 and leaves each block, for `grow_rows`."""
    names = [block_input(0), *map(block_output, range(layer_count(model)))]
    return [pair for name in names for pair in capture(name, into)]
