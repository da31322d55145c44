"""Causal tracing as in Meng et al.'s program (``experiments/causal_trace.py``), written out on the network's own modules.

A batch whose first row is clean and whose other rows have noise on the subject's embeddings; the first row's states are copied into them, one forward
for every layer and position.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor

from side_by_side.traced_cells import effects, mlps_of, states_of
from side_by_side.work import Work


def trace_states(work: Work) -> Tensor:
    return effects(work, states_of(work), score(work, list(work.network.transformer.h)))


def trace_mlps(work: Work) -> Tensor:
    return effects(work, mlps_of(work), score(work, [block.mlp for block in work.network.transformer.h]))


def score(work: Work, modules: Sequence[Any]) -> Callable[[Sequence[int], int], Tensor]:
    run = partial(noised_rows, work.network, work.tokens, work.subject, work.drawn_noise(), work.answer)
    return lambda layers, position: run([(position, modules[layer]) for layer in layers]).mean()


def noised_rows(
    network: Any, tokens: Tensor, subject: Sequence[int], noise: Tensor, answer: int, restored: Sequence[tuple[int, torch.nn.Module]]
) -> Tensor:
    """The answer's probability in every noised row.

    Args:
        tokens: the prompt's, ``[1 pos]``.
        subject: positions of the noise, ``[row token d_model]``.
        restored: positions and modules, each once, whose output is the clean row's there.
    """

    def add_noise(module: Any, inputs: Any, output: Tensor) -> None:
        output[1:, list(subject)] += noise

    def copy_clean(position: int, module: Any, inputs: Any, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        states[1:, position] = states[0, position]

    hooks = [(network.transformer.wte, add_noise), *((module, partial(copy_clean, position)) for position, module in restored)]
    with ExitStack() as stack:
        for module, hook in hooks:
            stack.callback(module.register_forward_hook(hook).remove)
        with torch.no_grad():
            logits = network(tokens.repeat(1 + len(noise), 1)).logits
    return torch.softmax(logits[1:, -1], dim=1)[:, answer]
