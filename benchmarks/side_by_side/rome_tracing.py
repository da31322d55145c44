"""Causal tracing as in Meng et al.'s program (``experiments/causal_trace.py``), written out on the network's own modules.

A batch whose first row is clean and whose other rows have noise on the subject's embeddings; the first row's states are copied into them, one forward
for every layer and position.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from side_by_side.traced_cells import effects, mlps_of, states_of
from side_by_side.work import Work
from torch import Tensor


def trace_states(work: Work) -> Tensor:
    return effects(work, states_of(work), score(work, list(work.network.transformer.h)))


def trace_mlps(work: Work) -> Tensor:
    return effects(work, mlps_of(work), score(work, [block.mlp for block in work.network.transformer.h]))


def score(work: Work, modules: Sequence[Any]) -> Callable[[Sequence[int], int], Tensor]:
    probabilities = noised_rows(work, modules)
    return lambda layers, position: probabilities(layers, position).mean()


def noised_rows(work: Work, modules: Sequence[Any]) -> Callable[[Sequence[int], int], Tensor]:
    """The answer's probability in every noised row, with some of the modules restored at a position."""
    network, subject, noise, answer = work.network, work.subject, work.drawn_noise(), work.answer
    tokens = work.tokens.repeat(1 + work.samples, 1)

    def add_noise(module: Any, inputs: Any, output: Tensor) -> None:
        output[1:, subject] = noise_on(output[1:, subject], noise)

    def run(layers: Sequence[int], position: int) -> Tensor:
        def copy_clean(module: Any, inputs: Any, output: Any) -> None:
            states = output[0] if isinstance(output, tuple) else output
            states[1:, position] = states[0, position]

        with ExitStack() as stack:
            for module, hook in [(network.transformer.wte, add_noise), *((modules[layer], copy_clean) for layer in layers)]:
                stack.callback(module.register_forward_hook(hook).remove)
            with torch.no_grad():
                logits = network(tokens).logits
        return torch.softmax(logits[1:, -1], dim=1)[:, answer]

    return run


def noise_on(embeddings: Tensor, noise: Tensor) -> Tensor:
    return embeddings + noise
