"""Ours beside published loops and other packages: same weights, same prompts, same noise, one run; the tables of docs/speed.md.

    python benchmarks/peers.py [--shapes gpt2-small factlm] [--layers 12] [--tasks states rome] [--write docs/speed.md]

Every program first runs once: its numbers are compared with ours, and its matrix products are counted. Then all run in turn, on one thread, and each
one's fewest seconds of the process count. Peak memory is measured in a child process of its own. pyvene, nnsight and knowledge-neurons are the extra
``peers`` (``pip install -e ".[peers]"``); the rows of a package that is not there say so. The status is 1 where two programs' numbers differ.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from side_by_side.programs import OURS, TASKS, counted, difference, peak_of, program, seconds
from side_by_side.table import Row, measured_on, table, write_between
from side_by_side.work import Work, load_work, write_network
from trace_engines import SHAPES

LONG = 60.0  # seconds of all of a program's runs, after which it runs no more


def main(arguments: Sequence[str] | None = None) -> int:
    args = parsed(arguments)
    torch.set_num_threads(1)
    same, small = True, loaded("tiny", 2, args)
    for shape in args.shapes:
        work = loaded(shape, args.layers, args)
        for method in (work.rome, work.memit):
            work.contexts(method)  # drawn once a model: no program pays for it
        memory = {} if args.no_memory else peaks(work, small, args)  # before anything has run, so that no memory is left over
        rows: dict[str, dict[str, Row]] = {}
        for task in args.tasks:
            rows[task] = measured(work, task, args)
            for name, row in rows[task].items():
                row.mib = memory.get((task, name))
            text = "\n".join([measured_on(described(work, shape, args.steps), args.repeats), "", *table(rows)])
            if args.write:
                write_between(args.write, shape, text)
        print(text, flush=True)
        same &= all(row.same or row.failed for programs in rows.values() for row in programs.values())
    return 0 if same else 1


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=["gpt2-small", "factlm"], choices=[*SHAPES, "tiny"])
    parser.add_argument("--layers", type=int, default=12, help="of a random network")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--repeats", type=int, default=3, help="timed runs, fewer where they take over a minute; 0: the run that counts")
    parser.add_argument("--steps", type=int, nargs=2, default=[20, 25], metavar=("ROME", "MEMIT"), help="of the optimisations, at most")
    parser.add_argument("--leave-out", nargs="*", default=[], metavar="PROGRAM", help="programs, by the beginning of their names")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--write", type=Path, help="a page with the markers of the tables; written after every task")
    return parser.parse_args(arguments)


def loaded(shape: str, layers: int, args: argparse.Namespace) -> Work:
    with tempfile.TemporaryDirectory() as folder:
        return load_work(write_network(Path(folder), shape, layers), steps=tuple(args.steps))


def described(work: Work, shape: str, steps: Sequence[int]) -> str:
    config = work.network.config
    what = {"factlm": "FactLM", "tiny": "Random weights"}.get(shape, "Random weights as wide as GPT-2 small's")
    sizes = f"{config.n_layer} layers, d_model {config.n_embd}, {config.vocab_size:,} tokens, float32"
    return (
        f"{what} ({sizes}); {work.tokens.shape[1]} tokens, {work.samples} samples of noise; at most {steps[0]} steps of ROME, {steps[1]} of MEMIT; "
        f"ours on `{type(work.model).__name__}`"
    )


def measured(work: Work, task: str, args: argparse.Namespace) -> dict[str, Row]:
    """All programs of a task: compared, then timed in turn."""
    rows: dict[str, Row] = {}
    runs: dict[str, Callable[[Work], torch.Tensor]] = {}
    given: dict[str, torch.Tensor] = {}
    for name in [name for of_task, name in asked(args) if of_task == task]:
        rows[name] = Row()
        start = time.process_time()
        try:
            run = program(task, name)
            given[name], flops = counted(run, work)
        except Exception as error:  # a package that is not there, or does not fit: said in its row
            if name == OURS:
                raise
            rows[name].failed = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            continue
        if args.repeats == 0:
            rows[name].seconds.append(time.process_time() - start)
        rows[name].gflop, runs[name] = flops / 1e9, run
        rows[name].difference = None if name == OURS else difference(given[name], given[OURS])
        print(f"{task}, {name}: {rows[name].gflop:.1f} GFLOP, difference {rows[name].difference}", flush=True)
    for _ in range(args.repeats):
        for name, run in runs.items():
            if sum(rows[name].seconds) < LONG:
                rows[name].seconds.append(seconds(run, work))
                print(f"{task}, {name}: {rows[name].seconds[-1]:.2f} s", flush=True)
    return rows


def peaks(work: Work, warm_up: Work, args: argparse.Namespace) -> dict[tuple[str, str], float]:
    """Every program's peak memory, by task and name; those that fail have none."""
    found: dict[tuple[str, str], float] = {}
    for task, name in asked(args):
        try:
            found[task, name] = peak_of(program(task, name), work, warm_up)
        except (ImportError, EOFError):  # not installed; or the child ended early, and the run says why
            continue
        print(f"{task}, {name}: {found[task, name]:.0f} MiB", flush=True)
    return found


def asked(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Tasks and programs."""
    for task in args.tasks:
        for name in TASKS[task].programs:
            if not any(map(name.startswith, args.leave_out)):
                yield task, name


if __name__ == "__main__":
    sys.exit(main())
