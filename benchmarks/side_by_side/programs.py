"""Which programs do a task, and one of them run, counted, timed and measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from math import prod
from multiprocessing import get_context
from typing import Any

import torch
from engine_work import Counted
from peak import peak_mib
from torch import Tensor

from side_by_side.work import Work

aten = torch.ops.aten
OURS = "ours"


@dataclass(frozen=True)
class Task:
    """What is computed: in words, and by which function of which file under a program's name."""

    said: str
    programs: dict[str, str]


TASKS = {
    "states": Task(
        "Causal trace, each state by itself",
        {
            OURS: "ours:trace_states",
            "Meng et al.'s loop": "rome_tracing:trace_states",
            "pyvene, clean states given": "with_pyvene:trace_states",
            "pyvene, its tutorial's loop": "with_pyvene:trace_states_by_sources",
            "nnsight, a trace for each cell": "with_nnsight:trace_states",
            "nnsight, a trace for each layer": "with_nnsight:trace_states_by_invokes",
        },
    ),
    "mlps": Task(
        "Causal trace, windows of 10 MLPs",
        {
            OURS: "ours:trace_mlps",
            "Meng et al.'s loop": "rome_tracing:trace_mlps",
            "pyvene, clean states given": "with_pyvene:trace_mlps",
            "pyvene, its tutorial's loop": "with_pyvene:trace_mlps_by_sources",
            "nnsight, a trace for each cell": "with_nnsight:trace_mlps",
            "nnsight, a trace for each layer": "with_nnsight:trace_mlps_by_invokes",
        },
    ),
    "neurons": Task(
        "Knowledge neurons, integrated gradients of all MLP neurons, 20 steps",
        {OURS: "ours:neurons", "knowledge-neurons": "with_knowledge_neurons:neurons"},
    ),
    "rome": Task("ROME, one edit", {OURS: "ours:rome", "Meng et al.'s loop": "rome_editing:rome"}),
    "memit": Task("MEMIT, 20 edits", {OURS: "ours:memit", "Meng et al.'s loop": "memit_editing:memit"}),
}


def program(task: str, name: str) -> Callable[[Work], Tensor]:
    """The function that runs it.

    Raises:
        ImportError: its package is not installed, or does not fit this transformers.
    """
    file, function = TASKS[task].programs[name].split(":")
    return getattr(import_module(f"side_by_side.{file}"), function)


class CountedWithAttention(Counted):
    """Matrix products, those inside PyTorch's fused attention too: two of a forward, five of a backward, which makes one of them again."""

    def __init__(self) -> None:
        super().__init__()
        self.fused = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten._scaled_dot_product_flash_attention_for_cpu.default:
            self.fused += 2 * 2.0 * prod(args[0].shape) * args[1].shape[2]
        elif func is aten._scaled_dot_product_flash_attention_for_cpu_backward.default:
            self.fused += 5 * 2.0 * prod(args[1].shape) * args[2].shape[2]
        return super().__torch_dispatch__(func, types, args, kwargs)

    @property
    def flops(self) -> float:
        return super().flops + self.fused


def counted(run: Callable[[Work], Tensor], work: Work) -> tuple[Tensor, float]:
    """What a program gives, and the multiplications and additions of its matrix products."""
    with CountedWithAttention() as counter:
        given = run(work)
    return given, counter.flops


def seconds(run: Callable[[Work], object], work: Work) -> float:
    """Of the process, so that other programs on the machine do not count."""
    start = time.process_time()
    run(work)
    return time.process_time() - start


def peak_of(run: Callable[[Work], Tensor], work: Work, warm_up: Work) -> float:
    """A program's peak memory in MiB, above what this process holds with the models, in a child of its own.

    Args:
        warm_up: a small one, which the child runs first, so that what the program imports does not count.
    """
    context = get_context("fork")  # the models are shared with this process, not loaded again
    receiver, sender = context.Pipe(duplex=False)

    def child() -> None:
        run(warm_up.brief())
        with torch.no_grad():  # a child has the pages of weights that lie in files once it reads them
            work.network(work.tokens)
            work.model(work.tokens)
        sender.send(peak_mib(lambda: run(work.brief())))

    process = context.Process(target=child)
    process.start()
    sender.close()
    try:
        return receiver.recv()
    finally:
        process.join()


def difference(one: Tensor, other: Tensor) -> float:
    """The largest difference as a part of the largest number; in every layer by itself where they are many matrices."""
    pairs = zip(one.double(), other.double(), strict=True) if one.ndim == 3 else [(one.double(), other.double())]
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
