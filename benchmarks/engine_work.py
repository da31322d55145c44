"""The floating-point work of each engine, counted, and the share of the machine's matrix-product rate that it reaches.

    python benchmarks/engine_work.py [--shape gpt2-small] [--class bridge] [--repeats 3] [--plain]

Every matrix product that an engine calls is written down with its shapes and strides as it runs. The same products are then run by
themselves, on random numbers of the same shapes: the seconds of these over the engine's are the share. All seconds are of one core, and of
the process, so that other programs do not count. ``--plain`` also runs the sweep without frozen prefixes and fused activations.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from math import prod
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from trace_engines import LENGTH, NOISE, SAMPLES, SHAPES, needed_flops, one_prompt, random_model

import tl_knowledge as tlk

aten = torch.ops.aten
PRODUCTS = {aten.mm.default: (0, 1), aten.addmm.default: (1, 2), aten.bmm.default: (0, 1), aten.baddbmm.default: (1, 2)}
Product = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]


class Counted(TorchDispatchMode):
    """Write down every matrix product: shapes and strides of its factors."""

    def __init__(self) -> None:
        super().__init__()
        self.products: list[Product] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS:
            left, right = (args[i] for i in PRODUCTS[func])
            self.products.append((tuple(left.shape), left.stride(), tuple(right.shape), right.stride()))
        return func(*args, **(kwargs or {}))

    @property
    def flops(self) -> float:
        """Multiplications and additions."""
        return sum(2.0 * prod(left) * right[-1] for left, _, right, _ in self.products)


def count(run: Callable[[], object]) -> Counted:
    """The products of a run, but not of the probes that a model's first run asks."""
    run()
    with Counted() as counted:
        run()
    return counted


def products_alone(products: Iterable[Product]) -> Callable[[], None]:
    """The same products on random numbers, and nothing else."""
    made: dict[Any, torch.Tensor] = {}

    def factor(shape: tuple[int, ...], stride: tuple[int, ...]) -> torch.Tensor:
        if (shape, stride) not in made:
            made[shape, stride] = torch.empty_strided(shape, stride).normal_()
        return made[shape, stride]

    pairs = [(factor(*product[:2]), factor(*product[2:])) for product in products]

    def run() -> None:
        for left, right in pairs:
            left @ right

    return run


def seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


@contextmanager
def plain() -> Iterator[None]:
    """The sweep as it is on models that refuse frozen prefixes and have no written-out GELU."""
    with patch("tl_knowledge.runs.experiment.Experiment.bank", lambda *_: None), patch("tl_knowledge.engine.rows.fused_activations", nullcontext_of):
        yield


def nullcontext_of(_: object):
    return nullcontext()


def bridge_of(shape: str):
    from transformer_lens.model_bridge.sources import build_bridge_from_module
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    module = GPT2LMHeadModel(GPT2Config(**SHAPES[shape])).eval()
    module.set_attn_implementation("eager")
    return build_bridge_from_module(module, "GPT2LMHeadModel", hf_config=module.config)


def engines(model: Any, plainly: bool) -> dict[str, Callable[[], object]]:
    prompt, fact_noise = one_prompt(model), tlk.GaussianNoise(NOISE)
    budget = 2.0**28

    def trace(engine: str) -> tlk.CausalTrace:
        return tlk.trace(model, prompt, fact_noise, samples=SAMPLES, engine=engine, memory_budget=budget, progress=False)

    def plain_trace() -> tlk.CausalTrace:
        with plain():
            return trace("rows")

    runs: dict[str, Callable[[], object]] = {"trace, rows": lambda: trace("rows")}
    if plainly:
        runs["trace, whole rows"] = plain_trace
    runs["trace, loop"] = lambda: trace("loop")
    runs["attribution"] = lambda: tlk.attribute_neurons(model, prompt, progress=False)
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="gpt2-small", choices=list(SHAPES))
    parser.add_argument("--class", dest="kind", default="own", choices=["own", "bridge"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--only", nargs="*", help="engines to measure, by the beginning of their names")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = bridge_of(args.shape) if args.kind == "bridge" else random_model(args.shape)
    print(
        f"{type(model).__name__}, {args.shape}, T = {LENGTH}, {SAMPLES} samples; needed by the trace: {needed_flops(model) / 1e9:.0f} GFLOP",
        flush=True,
    )
    wanted = {name: run for name, run in engines(model, args.plain).items() if not args.only or any(map(name.startswith, args.only))}
    counted = {name: count(run) for name, run in wanted.items()}
    alone = {name: products_alone(of_run.products) for name, of_run in counted.items()}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in wanted}
    for _ in range(args.repeats):  # interleaved: what slows the machine for a while slows all of them
        for name, run in wanted.items():
            taken[name].append((seconds(run), seconds(alone[name])))
    for name, pairs in taken.items():
        whole, products = min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)
        flops = counted[name].flops
        rate, alone_rate = (flops / taken_s / 1e9 for taken_s in (whole, products))
        print(
            f"{name:18} {flops / 1e9:8.1f} GFLOP in {len(counted[name].products)} products  {whole:6.2f} s, {rate:.0f} GFLOP/s; "
            f"the products alone {products:.2f} s, {alone_rate:.0f} GFLOP/s; share {products / whole:.0%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
