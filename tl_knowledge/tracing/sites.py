"""Sites: what one restored run of a causal trace restores, and which sites cannot matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float

from tl_knowledge.errors import ComponentError
from tl_knowledge.model import Component, HookedModel, Module, has_units, layer_count
from tl_knowledge.tracing.experiment import Experiment

__all__ = ["Grid", "Semantics", "Site", "Window", "resolve_window", "unit_count", "window_layers"]

Window: TypeAlias = int | Literal["auto"]
Semantics: TypeAlias = Literal["paper", "rome_code"]


@dataclass(frozen=True)
class Site:
    """One restored run: a component at one position, in the layers ``first`` to ``last`` around ``layer``.

    Up to the output of block ``born_at`` this run equals the corrupted run (``-1``: up to the input of block 0).

    Attributes:
        run: which corrupted run of the experiment.
        severed: modules pinned to the corrupted run at this position, in all layers.
    """

    component: Component
    layer: int
    pos: int
    unit: int | None
    first: int
    last: int
    born_at: int
    run: int = 0
    severed: tuple[Module, ...] = ()


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


@dataclass(frozen=True)
class Grid:
    """The sites of one trace: a component at all layers, positions and units asked for.

    Attributes:
        severed: modules pinned to the corrupted run at the restored position.
        units: heads or neurons; ``(0,)`` for components without units.
    """

    component: Component
    window: int
    semantics: Semantics
    severed: tuple[Module, ...]
    layers: tuple[int, ...]
    positions: tuple[int, ...]
    units: tuple[int, ...] = (0,)

    def sites(self, experiment: Experiment, run: int) -> list[Site]:
        """Every site worth a run.

        Left out are sites whose effect is exactly zero: before the first corrupted token the corrupted run *is* the clean
        run, and a state of the last layer acts on no later position.
        """
        n_layers = layer_count(experiment.model)
        corrupted = experiment.runs[run]
        first_answer = experiment.prompts[corrupted.prompt].answer_positions[0]
        found: list[Site] = []
        for layer in self.layers:
            first, last = window_layers(layer, self.window, n_layers, self.semantics)
            born_at = first if self.component == "resid_post" else first - 1
            for pos in self.positions:
                if pos < corrupted.positions[0] or (first == n_layers - 1 and pos < first_answer):
                    continue
                for unit in self.units:
                    index = unit if has_units(self.component) else None
                    found.append(Site(self.component, layer, pos, index, first, last, born_at, run, self.severed))
        return found

    def arrange(
        self, sites: Sequence[Site], effect: Float[torch.Tensor, "site sample"], length: int
    ) -> Float[torch.Tensor, "sample layer pos *unit"]:
        """Effects of this grid's sites in their places: zero where no run was needed, NaN at positions not asked for."""
        table = torch.full((effect.shape[1], len(self.layers), length, len(self.units)), float("nan"), dtype=effect.dtype)
        table[:, :, list(self.positions)] = 0.0
        if sites:
            layer_at = {layer: i for i, layer in enumerate(self.layers)}
            unit_at = {unit: i for i, unit in enumerate(self.units)}
            places = torch.tensor([[layer_at[s.layer], s.pos, unit_at[s.unit] if s.unit is not None else 0] for s in sites])
            table[:, places[:, 0], places[:, 1], places[:, 2]] = effect.T.cpu()
        return table if has_units(self.component) else table.squeeze(-1)
