"""Causal tracing with pyvene, as in its tutorial "Causal Tracing (ROME)": a configuration and an `IntervenableModel` for every cell.

The tutorial draws one sample of noise and hands the clean prompt as the source of every restored layer, which runs it once for each. Both is kept in
``..._by_sources``; the other form is the faster one of its introduction: the clean states are read once and given as a static source representation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyvene as pv
import torch
from torch import Tensor

from side_by_side.traced_cells import effects, mlps_of, states_of
from side_by_side.work import Work


class Noise(pv.ConstantSourceIntervention, pv.LocalistRepresentationIntervention):
    """Add fixed noise to what a block reads."""

    def __init__(self, embed_dim: Any, noise: Tensor, **settings: Any) -> None:
        super().__init__()
        self.interchange_dim, self.noise = embed_dim, noise

    def forward(self, base: Tensor, source: Any = None, subspaces: Any = None, **_: Any) -> Tensor:
        return base + self.noise


def trace_states(work: Work) -> Tensor:
    return effects(work, states_of(work), static_states(work, "block_output"))


def trace_mlps(work: Work) -> Tensor:
    return effects(work, mlps_of(work), static_states(work, "mlp_output"))


def trace_states_by_sources(work: Work) -> Tensor:
    return effects(work, states_of(work), sources(work, "block_output"))


def trace_mlps_by_sources(work: Work) -> Tensor:
    return effects(work, mlps_of(work), sources(work, "mlp_output"))


def static_states(work: Work, component: str) -> Callable[[Sequence[int], int], Tensor]:
    """With the clean states, read once, as the sources."""
    states = clean_states(work, component)
    batch, subject = {"input_ids": work.tokens.repeat(work.samples, 1)}, [work.subject] * work.samples

    def score(layers: Sequence[int], position: int) -> Tensor:
        restored = [
            pv.RepresentationConfig(
                layer, component, intervention_type=pv.VanillaIntervention, source_representation=states[layer][position].repeat(work.samples, 1, 1)
            )
            for layer in layers
        ]
        intervenable = with_noise(work, restored)
        with torch.no_grad():
            _, output = intervenable(batch, unit_locations={"base": [subject, *([[[position]] * work.samples] * len(layers))]})
        return mean_probability(work, output)

    return score


def sources(work: Work, component: str) -> Callable[[Sequence[int], int], Tensor]:
    """With the clean prompt as the source of every restored layer, as in the tutorial, but for all samples of noise at once."""
    batch, subject = {"input_ids": work.tokens.repeat(work.samples, 1)}, [work.subject] * work.samples

    def score(layers: Sequence[int], position: int) -> Tensor:
        restored = [pv.RepresentationConfig(layer, component, intervention_type=pv.VanillaIntervention) for layer in layers]
        at = [[[position]] * work.samples] * len(layers)
        intervenable = with_noise(work, restored)
        with torch.no_grad():
            _, output = intervenable(batch, [None, *([batch] * len(layers))], {"sources->base": ([None, *at], [subject, *at])})
        return mean_probability(work, output)

    return score


def with_noise(work: Work, restored: Sequence[Any]) -> Any:
    noise = Noise(embed_dim=work.network.config.n_embd, noise=work.drawn_noise())
    noised = pv.RepresentationConfig(0, "block_input", intervention=noise)
    return pv.IntervenableModel(pv.IntervenableConfig(model_type=type(work.network), representations=[noised, *restored]), work.network)


def clean_states(work: Work, component: str) -> list[Tensor]:
    """Every layer's states of the clean prompt, ``[pos d_model]``."""
    layers, width = range(work.network.config.n_layer), work.network.config.n_embd
    places = [pv.RepresentationConfig(layer, component, intervention=pv.CollectIntervention(embed_dim=width, keep_last_dim=True)) for layer in layers]
    intervenable = pv.IntervenableModel(pv.IntervenableConfig(model_type=type(work.network), representations=places), work.network)
    everywhere = [[list(range(work.tokens.shape[1]))]] * len(places)
    with torch.no_grad():
        (_, states), _ = intervenable({"input_ids": work.tokens}, unit_locations={"base": everywhere})
    return [each.reshape(work.tokens.shape[1], -1) for each in states]


def mean_probability(work: Work, output: Any) -> Tensor:
    return output.logits[:, -1].softmax(-1)[:, work.answer].mean()
