"""A trace and an attribution of two checkouts of this package in turns: seconds, floating-point work, share of the products' rate, same numbers.

    git worktree add ../before COMMIT
    python benchmarks/before_after.py ../before [--shape gpt2-small] [--class bridge] [--repeats 3]

Each checkout runs in a process of its own with this checkout's benchmarks and one thread; seconds are of that process. The model has random
weights of one seed, so that both trace the same one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from trace_engines import SHAPES

HERE = Path(__file__).resolve().parent
TASKS = ("trace, rows", "attribution")


def work(shape: str, kind: str) -> None:
    """What a checkout's process does: for each line read, run that task; at first count, then time."""
    import engine_work

    torch.set_num_threads(1)
    model = engine_work.bridge_of(shape) if kind == "bridge" else engine_work.random_model(shape)
    runs = engine_work.engines(model, plainly=False)
    alone: dict[str, Any] = {}
    for line in sys.stdin:
        task, file = line.rstrip("\n").split("\t")
        if file:
            counted = engine_work.count(runs[task])
            alone[task] = engine_work.products_alone(counted.products)
            torch.save(numbers(runs[task]()), file)
            print(counted.flops, len(counted.products), flush=True)
        else:
            print(engine_work.seconds(runs[task]), engine_work.seconds(alone[task]), flush=True)


def numbers(result: Any) -> torch.Tensor:
    return result.mean_effect if hasattr(result, "mean_effect") else result.scores


class Checkout:
    """The process of one checkout."""

    def __init__(self, tree: Path, shape: str, kind: str) -> None:
        environment = os.environ | {"PYTHONPATH": f"{tree}:{HERE}", "OMP_NUM_THREADS": "1"}
        code = f"import before_after; before_after.work({shape!r}, {kind!r})"
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code], cwd=tree, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, task: str, file: str = "") -> tuple[float, float]:
        assert self.process.stdin and self.process.stdout
        print(f"{task}\t{file}", file=self.process.stdin, flush=True)
        first, second = self.process.stdout.readline().split()
        return float(first), float(second)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, help="the other checkout")
    parser.add_argument("--shape", default="gpt2-small-wide", choices=list(SHAPES))
    parser.add_argument("--class", dest="kind", default="own", choices=["own", "bridge"])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    checkouts = {"before": Checkout(args.before.resolve(), args.shape, args.kind), "after": Checkout(HERE.parent, args.shape, args.kind)}
    print(f"{args.shape}, {args.kind}, {torch.__version__}, the best of {args.repeats} in turns", flush=True)
    for task in TASKS:
        with tempfile.TemporaryDirectory() as folder:
            counted = {name: checkout.ask(task, f"{folder}/{name}") for name, checkout in checkouts.items()}
            first, second = (torch.load(f"{folder}/{name}") for name in checkouts)
        apart = float((first - second).abs().max() / first.abs().max())
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in checkouts}
        for _ in range(args.repeats):
            for name, checkout in checkouts.items():
                taken[name].append(checkout.ask(task))
        best = {name: (min(whole for whole, _ in pairs), min(alone for _, alone in pairs)) for name, pairs in taken.items()}
        for name, (whole, alone) in best.items():
            flops, products = counted[name]
            print(f"{task:12} {name:7}{flops / 1e9:8.1f} GFLOP in {products:.0f} products {whole:7.2f} s, share {alone / whole:.0%}", flush=True)
        print(f"{task:12} {best['before'][0] / best['after'][0]:.2f} times as fast; largest difference {apart:.0e} of the largest number", flush=True)


if __name__ == "__main__":
    main()
