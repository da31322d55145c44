"""Attention patterns of some heads as a circuitsvis view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from circuitsvis.attention import attention_heads

from tl_knowledge.drawing.page import HtmlView
from tl_knowledge.errors import ComponentError, UnsupportedModelError

__all__ = ["pattern_view"]


def pattern_view(patterns: Mapping[int, torch.Tensor], heads: Sequence[tuple[int, int]], labels: Sequence[str], what: str) -> HtmlView:
    """Patterns ``[head query key]`` of some layers' heads, one picture each.

    Raises:
        ComponentError: no head.
        UnsupportedModelError: no pattern of a head's layer.
    """
    if not heads:
        raise ComponentError("there is no head to show; build the circuit from a trace of 'attn_out' or 'head'.")
    missing = sorted({layer for layer, _ in heads} - set(patterns))
    if missing:
        raise UnsupportedModelError(f"the model shows no attention pattern in layers {missing}; load it with attn_implementation='eager'.")
    stacked = torch.stack([patterns[layer][head] for layer, head in heads]).float().cpu()
    names = [f"layer {layer}, head {head}" for layer, head in heads]
    rendered = attention_heads(stacked.numpy(), list(labels), attention_head_names=names)
    note = f"{what}; rows attend to columns; hover over a head, click to keep it, then over tokens"
    return HtmlView.of(rendered, title="Attention patterns", note=note)
