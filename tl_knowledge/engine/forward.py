"""One forward of a model under some hooks: every run of this package goes through here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from tl_knowledge.arrays import HookFn
from tl_knowledge.errors import ModelStateError
from tl_knowledge.models.protocol import HookedModel, model_name
from tl_knowledge.models.reread import has_readers
from tl_knowledge.models.routed import late_hooks

__all__ = ["run_model"]


def run_model(model: HookedModel, tokens: torch.Tensor, hooks: Iterable[tuple[str, HookFn]] = (), **kwargs: Any) -> Any:
    """The model's output for some tokens ``[batch pos]`` (or states ``[batch pos d_model]``) under some hooks.

    Hooks see ``[batch pos ...]`` everywhere. Some models (OPT) run their MLPs on all tokens of all rows as one long row ``[batch*pos d]``; a
    hook there is given what it expects, and its result is laid flat again.

    Edits that are on the model as hooks read what these hooks leave, not what they were given.

    Raises:
        ModelStateError: an edit that changes what is read is on the model, so that hooks would see another text's positions.
    """
    if has_readers(model):
        raise ModelStateError(
            f"an edit that changes what is read is on {model_name(model)}: positions and activations would be those of another text. revert(model) "
            "takes it off; evaluate(), read_answers(), generate() and plain calls of the model go through it."
        )
    length = tokens.shape[1]
    own = [(name, _by_row(fn, length) if "mlp" in name else fn) for name, fn in hooks]
    return model.run_with_hooks(tokens, fwd_hooks=[*own, *late_hooks(model)], **kwargs)


def _by_row(fn: HookFn, length: int) -> HookFn:
    def by_row(activation: torch.Tensor, *, hook: Any) -> Any:
        if activation.ndim != 2:
            return fn(activation, hook=hook)
        changed = fn(activation.unflatten(0, (-1, length)), hook=hook)
        return None if changed is None else changed.flatten(0, 1)

    return by_row
