"""Published settings by model, whatever hub or folder it was loaded from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from tl_knowledge.models.protocol import HookedModel, model_name

__all__ = ["TRACED_LAYERS", "published_for"]

Setting = TypeVar("Setting")

TRACED_LAYERS: Mapping[str, int] = {
    "gpt2": 5,
    "gpt2-medium": 8,
    "gpt2-large": 12,
    "gpt2-xl": 17,
    "gpt-j-6b": 5,
    "gpt-neox-20b": 15,
    "factlm": 2,
    "factlm-llama": 2,
}
"""Where causal tracing finds facts, and ROME writes them (Meng et al. 2022; GPT-2 and GPT-2 medium as Wen and Bai)."""


def published_for(model: HookedModel, known: Mapping[str, Setting]) -> Setting | None:
    """A model's entry of a table by name, or ``None``: the organisation and the letters' case do not matter."""
    return known.get(model_name(model).rsplit("/", maxsplit=1)[-1].lower())
