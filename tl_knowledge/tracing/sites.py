"""Sites: what one restored run of a causal trace restores, and which sites cannot matter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from tl_knowledge.errors import ComponentError
from tl_knowledge.model import Component, HookedModel, has_units, layer_count

__all__ = ["Semantics", "Site", "Window", "plan_sites", "resolve_window", "unit_count", "window_layers"]

Window: TypeAlias = int | Literal["auto"]
Semantics: TypeAlias = Literal["paper", "rome_code"]


@dataclass(frozen=True)
class Site:
    """One restored run: a component at one position, in the layers ``first`` to ``last`` around ``layer``.

    Up to the output of block ``born_at`` this run equals the corrupted run (``-1``: up to the input of block 0).
    """

    layer: int
    pos: int
    unit: int | None
    first: int
    last: int
    born_at: int


def resolve_window(model: HookedModel, component: Component, window: Window, semantics: Semantics) -> int:
    """Number of layers restored together; ``"auto"`` is about a fifth of the layers for modules, 1 for all else.

    A fifth is what the original program's 10 layers are of GPT-2 XL's 48; ``rome_code`` keeps the 10.

    Raises:
        ComponentError: a window smaller than 1 or larger than the model.
    """
    if window == "auto":
        if component not in ("mlp_out", "attn_out"):
            return 1
        return min(10, layer_count(model)) if semantics == "rome_code" else max(1, round(layer_count(model) / 5))
    if not 1 <= window <= layer_count(model):
        raise ComponentError(f"window {window} does not fit the model; pass 1 to {layer_count(model)} layers, or 'auto'.")
    return window


def window_layers(layer: int, window: int, n_layers: int, semantics: Semantics) -> tuple[int, int]:
    """First and last layer of a window around a layer, clipped to the model.

    An odd window is symmetric. An even one has its longer arm above the centre in the paper (``l-4 .. l+5`` for 10)
    and below it in the original program (``l-5 .. l+4``).

    Example:
        >>> window_layers(20, 10, 48, "paper"), window_layers(20, 10, 48, "rome_code")
        ((16, 25), (15, 24))
    """
    below = window // 2 if semantics == "rome_code" else (window - 1) // 2
    first = layer - below
    return max(0, first), min(n_layers - 1, first + window - 1)


def unit_count(model: HookedModel, component: Component) -> int:
    """How many heads or neurons a layer has; 1 for components without units."""
    if component == "head":
        return int(model.cfg.n_heads)
    if component == "neuron":
        return int(model.blocks[0].mlp.W_out.shape[0])
    return 1


def plan_sites(
    model: HookedModel,
    component: Component,
    *,
    layers: Sequence[int],
    positions: Iterable[int],
    units: Sequence[int],
    window: int,
    semantics: Semantics,
    first_corrupted: int,
    answer_positions: Sequence[int],
) -> list[Site]:
    """Every site worth a run, those born latest last.

    Left out are sites whose effect is exactly zero: before the first corrupted token the corrupted run *is* the clean
    run, and a state of the last layer acts on no later position.
    """
    n_layers = layer_count(model)
    sites: list[Site] = []
    for layer in layers:
        first, last = window_layers(layer, window, n_layers, semantics)
        born_at = first if component == "resid_post" else first - 1
        for pos in positions:
            if pos < first_corrupted or (first == n_layers - 1 and pos not in answer_positions):
                continue
            for unit in units:
                index = unit if has_units(component) else None
                sites.append(Site(layer, pos, index, first, last, born_at))
    return sorted(sites, key=lambda site: site.born_at)
