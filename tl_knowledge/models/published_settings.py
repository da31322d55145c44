"""Published settings by model, whatever hub or folder it was loaded from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from tl_knowledge.errors import InputError
from tl_knowledge.models.protocol import HookedModel

__all__ = ["published"]

Setting = TypeVar("Setting")


def published(model: HookedModel, known: Mapping[str, Setting], remedy: str) -> Setting:
    """A model's entry of a table by name: the organisation and the letters' case do not matter.

    Raises:
        InputError: there is none; the message says what to pass instead.
    """
    name = str(getattr(model.cfg, "model_name", ""))
    key = name.rsplit("/", maxsplit=1)[-1].lower()
    if key not in known:
        raise InputError(f"nothing is published for {name!r}; pass {remedy}, found for example by trace(). Known: {', '.join(known)}.")
    return known[key]
