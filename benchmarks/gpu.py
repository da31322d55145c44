"""Every engine on a CUDA device beside the CPU: whether it gives the same numbers, and how long both take.

    python benchmarks/gpu.py [--quick] [--model factlm] [--device cuda] [--only NAME ...]

The reference is the CPU in float32. A device passes with what `device_checks.py` allows each engine: in float32, sums are taken in another order,
which an optimisation's steps enlarge; bfloat16 has 8 bits, so every state is rounded to 0.4%, and 16 of them stand between FactLM's embedding and
its answer, whose logits are exponentiated. Which neurons pass a threshold may turn on one rounding.
Where there are two GPUs, a model is also split over them. The exit status is 0 where everything passes, 1 where something does not,
and 2 where there is no CUDA; ``--device cpu`` then holds the CPU's bfloat16 against its float32, which tests this script.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from device_checks import ENGINES, Engine, Numbers, Work, difference

import tl_knowledge as tlk
from tl_knowledge.models.bundled import FACTLM_DIRECTORY

FULL = 5
DTYPES = (torch.float32, torch.bfloat16)
NO_CUDA = "no CUDA device was found; run this on a machine with one, or pass --device cpu to hold the CPU's bfloat16 against its float32."


def load(name: str, device: str, dtype: torch.dtype) -> Any:
    """A model by name; ``random`` has GPT-2 small's shape, and FactLM's words."""
    if name != "random":
        return tlk.load_model(name, device=device, dtype=dtype)
    from trace_engines import random_model
    from transformers import AutoTokenizer

    model = random_model("gpt2-small")
    model.tokenizer = AutoTokenizer.from_pretrained(FACTLM_DIRECTORY)
    return tlk.load_model(model.requires_grad_(False).to(device).to(dtype))


def split(model: Any, parts: int) -> Any:
    """The same ``HookedTransformer`` with its layers over several devices."""
    from transformer_lens import HookedTransformer

    config = deepcopy(model.cfg)
    config.n_devices = parts  # after it was made: it refuses more devices than there are GPUs, and --device cpu has none
    over = HookedTransformer(config, tokenizer=model.tokenizer, move_to_device=False)
    over.load_state_dict(deepcopy(model.state_dict()))
    over.move_model_modules_to_device()
    return tlk.load_model(over.eval().requires_grad_(False))


def timed(engine: Engine, work: Work) -> tuple[Numbers | Exception, float]:
    """An engine's numbers, or what it raised, and the seconds of the last run: the first tries the model, unless there is only one."""
    seconds = 0.0
    numbers: Numbers | Exception = {}
    for _ in range(1 if work.size == 1 else 2):
        _wait(work)
        start = time.perf_counter()
        try:
            numbers = engine.run(work)
        except Exception as error:  # one engine's failure is a line of the table, not its end
            return error, time.perf_counter() - start
        _wait(work)
        seconds = time.perf_counter() - start
    return numbers, seconds


def _wait(work: Work) -> None:
    if next(work.model.parameters()).is_cuda:
        torch.cuda.synchronize()


def check(title: str, tried: Work, dtype: torch.dtype, known: dict[str, tuple[Numbers, float]], names: list[str]) -> list[str]:
    """One table: every engine on the tried model beside the reference; the names of those that do not pass."""
    print(f"\n{title}\n{'engine':<28}{'difference':>12}{'allowed':>10}{'seconds':>10}{'CPU':>9}{'ratio':>8}", flush=True)
    failed: list[str] = []
    for name in names:
        engine, (reference, before) = ENGINES[name], known[name]
        numbers, seconds = timed(engine, tried)
        apart = float("inf") if isinstance(numbers, Exception) else difference(reference, numbers)
        allowed = engine.tolerance[dtype]
        passed = apart <= allowed
        failed += [] if passed else [f"{title}: {name}"]
        why = f"  {type(numbers).__name__}: {numbers}" if isinstance(numbers, Exception) else "" if passed else "  TOO FAR"
        print(f"{name:<28}{apart:>12.1e}{allowed:>10.3g}{seconds:>10.2f}{before:>9.2f}{before / seconds:>7.1f}x{why}", flush=True)
    return failed


def references(work: Work, names: list[str]) -> dict[str, tuple[Numbers, float]]:
    """What every engine gives on the CPU in float32, and its seconds."""
    known: dict[str, tuple[Numbers, float]] = {}
    for name in names:
        numbers, seconds = timed(ENGINES[name], work)
        if isinstance(numbers, Exception):
            raise numbers
        known[name] = numbers, seconds
    return known


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu: bfloat16 against float32")
    parser.add_argument("--model", default="factlm", help="a name or directory, or random: GPT-2 small's shape with random weights")
    parser.add_argument("--quick", action="store_true", help="the smallest work that runs everything, once")
    parser.add_argument("--only", nargs="*", choices=list(ENGINES), metavar="NAME", help=f"some of: {'; '.join(ENGINES)}")
    args = parser.parse_args(arguments)
    if args.device != "cpu" and not torch.cuda.is_available():
        print(NO_CUDA, file=sys.stderr)
        return 2
    size, names = 1 if args.quick else FULL, args.only or list(ENGINES)
    where = "CPU" if args.device == "cpu" else torch.cuda.get_device_name(torch.device(args.device))
    print(f"{args.model}, size {size}; {where} beside the CPU ({torch.get_num_threads()} threads) in float32; torch {torch.__version__}", flush=True)
    on_cpu = load(args.model, "cpu", torch.float32)
    known = references(Work(on_cpu, size), names)
    failed: list[str] = []
    for dtype in DTYPES[1:] if args.device == "cpu" else DTYPES:
        failed += check(f"{where}, {str(dtype).removeprefix('torch.')}", Work(load(args.model, args.device, dtype), size), dtype, known, names)
    several = 2 if args.device == "cpu" else torch.cuda.device_count()
    if several > 1 and type(on_cpu).__name__ == "HookedTransformer":
        model = split(load(args.model, args.device.partition(":")[0], torch.float32), 2)
        failed += check("two devices, float32", Work(model, size), torch.float32, known, names)
    print(f"\n{len(failed)} did not pass: {'; '.join(failed)}" if failed else "\nall passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
