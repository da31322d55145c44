"""Causal tracing with nnsight: clean states saved in one trace; then a trace for every cell, or one for every layer with an invoke for every cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import nnsight
import torch
from torch import Tensor

from side_by_side.traced_cells import effects, mlps_of, states_of
from side_by_side.work import Work


def trace_states(work: Work) -> Tensor:
    return effects(work, states_of(work), a_trace_for_every_cell(work, mlps=False))


def trace_mlps(work: Work) -> Tensor:
    return effects(work, mlps_of(work), a_trace_for_every_cell(work, mlps=True))


def trace_states_by_invokes(work: Work) -> Tensor:
    return invokes(work, states_of(work), mlps=False)


def trace_mlps_by_invokes(work: Work) -> Tensor:
    return invokes(work, mlps_of(work), mlps=True)


def clean_states(model: nnsight.NNsight, work: Work, mlps: bool) -> list[Tensor]:
    """Every layer's states of the clean prompt, ``[pos d_model]``."""
    with torch.no_grad(), model.trace(input_ids=work.tokens):
        states = nnsight.save([])
        for block in model.transformer.h:
            states.append((block.mlp if mlps else block).output[0])
    return list(states)


def a_trace_for_every_cell(work: Work, *, mlps: bool) -> Callable[[Sequence[int], int], Tensor]:
    model = nnsight.NNsight(work.network)
    states, noise, subject, answer = clean_states(model, work, mlps), work.drawn_noise(), work.subject, work.answer
    tokens = work.tokens.repeat(work.samples, 1)

    def score(layers: Sequence[int], position: int) -> Tensor:
        with torch.no_grad(), model.trace(input_ids=tokens):
            model.transformer.wte.output[:, subject] += noise
            for layer in layers:
                block = model.transformer.h[layer]
                (block.mlp if mlps else block).output[:, position] = states[layer][position]
            probability = model.lm_head.output[:, -1].softmax(-1)[:, answer].mean().save()
        return probability  # noqa: RET504  # it leaves the trace by its name

    return score


def invokes(work: Work, restored: Callable[[int], range], *, mlps: bool) -> Tensor:
    """All positions of a layer as one batch."""
    model = nnsight.TransformersModel(work.network, tokenizer=work.tokenizer)
    states, noise, subject, answer = clean_states(model, work, mlps), work.drawn_noise(), work.subject, work.answer
    tokens = work.tokens.repeat(work.samples, 1)

    def scores(layers: Sequence[int], positions: range) -> Tensor:
        with torch.no_grad(), model.trace() as tracer:
            probabilities = nnsight.save({})
            for position in positions:
                with tracer.invoke(tokens):
                    model.transformer.wte.output[:, subject] += noise
                    for layer in layers:
                        block = model.transformer.h[layer]
                        (block.mlp if mlps else block).output[:, position] = states[layer][position]
                    probabilities[position] = model.lm_head.output[:, -1].softmax(-1)[:, answer].mean()
        return torch.stack([probabilities[position] for position in positions])

    everywhere = range(work.tokens.shape[1])
    return torch.stack([scores(restored(layer), everywhere) for layer in work.layers]) - scores((), range(1))
