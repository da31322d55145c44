"""Sites: what one restored run of a causal trace restores, and which sites cannot matter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float

from tl_knowledge.engine.cuts import cheapest_cuts
from tl_knowledge.models.hook_names import Component, Module, has_units
from tl_knowledge.models.protocol import layer_count
from tl_knowledge.runs.experiment import Experiment
from tl_knowledge.runs.windows import TraceVariant, window_layers

__all__ = ["Grid", "Site", "group_sites"]

PASS_COST = 32  # tokens whose work in a layer takes as long as reading and rearranging its weights: 20 to 50, measured
OUTSIDE = 0.4  # what a token costs that only goes through norms and attention


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

    @property
    def parts_run_whole(self) -> tuple[str, ...]:
        """The parts of a block that are written inside, and so have to keep their shape: ``"mlp"``, ``"attention"``."""
        touched = {self.component, *self.severed}
        return ("mlp",) * ("neuron" in touched) + ("attention",) * bool(touched & {"head", "z"})


@dataclass(frozen=True)
class Grid:
    """The sites of one trace: a component at some layers, positions and units.

    Attributes:
        severed: modules pinned to the corrupted run at the restored position.
        units: heads or neurons; ``(0,)`` for components without units.
    """

    component: Component
    window: int
    variant: TraceVariant
    severed: tuple[Module, ...]
    layers: tuple[int, ...]
    positions: tuple[int, ...]
    units: tuple[int, ...] = (0,)

    def sites(self, experiment: Experiment, run: int) -> list[Site]:
        """Every site worth a run.

        Left out are sites whose effect is exactly zero: before the first corrupted token the corrupted run *is* the clean
        run, and in the last layer only what attention reads (keys, values, and the state they are made of) acts on later positions.
        """
        n_layers = layer_count(experiment.model)
        read_later = self.component in ("resid_pre", "k", "v")  # by attention, at later positions
        corrupted = experiment.runs[run]
        first_answer = experiment.prompts[corrupted.prompt].answer_positions[0]
        sites: list[Site] = []
        for layer in self.layers:
            first, last = window_layers(layer, self.window, n_layers, self.variant)
            born_at = first if self.component == "resid_post" else first - 1
            for pos in self.positions:
                if pos < corrupted.positions[0] or (first == n_layers - 1 and pos < first_answer and not read_later):
                    continue
                for unit in self.units:
                    index = unit if has_units(self.component) else None
                    sites.append(Site(self.component, layer, pos, index, first, last, born_at, run, self.severed))
        return sites

    def arrange(
        self, sites: Sequence[Site], effect: Float[torch.Tensor, "site sample"], length: int
    ) -> Float[torch.Tensor, "sample layer pos *unit"]:
        """Effects of this grid's sites in their places: zero where no run was needed, NaN at positions that are not of this grid."""
        table = torch.full((effect.shape[1], len(self.layers), length, len(self.units)), float("nan"), dtype=effect.dtype)
        table[:, :, list(self.positions)] = 0.0
        if sites:
            layer_at = {layer: i for i, layer in enumerate(self.layers)}
            unit_at = {unit: i for i, unit in enumerate(self.units)}
            places = torch.tensor([[layer_at[s.layer], s.pos, unit_at[s.unit] if s.unit is not None else 0] for s in sites])
            table[:, places[:, 0], places[:, 1], places[:, 2]] = effect.T.cpu()
        return table if has_units(self.component) else table.squeeze(-1)


def group_sites(sites: Sequence[Site], length: int, n_layers: int, samples: int) -> list[tuple[int, list[int]]]:
    """Which sites run together, as ``(first position, indices)``, where a row need not run what lies before the first position of its group.

    A group for each position runs the fewest tokens, but every forward reads all weights: of all ways to cut the positions into neighbours, the
    one with the least work.

    Example:
        >>> at = lambda pos: Site("resid_post", 0, pos, None, 0, 0, born_at=0)
        >>> [start for start, group in group_sites([at(pos) for pos in range(40)], length=40, n_layers=4, samples=10)]
        [0, 5, 10, 15, 20, 25, 30, 35]
    """
    positions = sorted({site.pos for site in sites})
    work = dict.fromkeys(positions, 0)
    for site in sites:
        work[site.pos] += samples * (n_layers - 1 - site.born_at)

    def costs(first: int) -> Iterator[float]:
        tokens = 0.0
        for pos in positions[first:]:
            tokens += work[pos] * (length - pos + OUTSIDE * (pos - positions[first]))
            yield tokens + PASS_COST * n_layers

    groups: list[tuple[int, list[int]]] = []
    for group in cheapest_cuts(len(positions), costs):
        among = {positions[i] for i in group}
        groups.append((positions[group.start], [k for k, site in enumerate(sites) if site.pos in among]))
    return groups
