"""The measurements as a table in Markdown, and where it stands in a page."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from side_by_side.programs import OURS, TASKS

PACKAGES = ("torch", "transformers", "transformer-lens", "pyvene", "nnsight", "knowledge-neurons")
MOST_DIFFERENT = 1e-3  # float32 and twenty steps of an optimisation; beyond this two programs do not compute the same
HEADER = "| task | program | CPU seconds | times ours | memory | matrix products | difference |\n|---|---|---|---|---|---|---|"


@dataclass
class Row:
    """One program's line.

    Attributes:
        seconds: of every timed run.
        gflop: of its matrix products.
        difference: the largest, from ours; ``None`` of ours.
        mib: peak memory, above that of both loaded models; ``None`` where it was not measured.
        failed: why there are no numbers.
    """

    seconds: list[float] = field(default_factory=list)
    gflop: float = 0.0
    difference: float | None = None
    mib: float | None = None
    failed: str | None = None

    @property
    def least(self) -> float:
        return min(self.seconds)

    @property
    def same(self) -> bool:
        return self.failed is None and (self.difference is None or self.difference <= MOST_DIFFERENT)


def line(task: str, name: str, row: Row, ours: Row) -> str:
    """One row of the table."""
    first = TASKS[task].said if name == OURS else ""
    if row.failed is not None:
        return f"| {first} | {name} | {row.failed} | | | | |"
    ratio = "" if name == OURS else f"**{row.least / ours.least:.1f}x**"
    memory = "" if row.mib is None else f"{row.mib:,.0f} MiB"
    apart = "" if row.difference is None else f"{row.difference:.0e}" if row.same else f"{row.difference:.0e}: NOT THE SAME"
    return f"| {first} | {name} | {row.least:.2f} | {ratio} | {memory} | {row.gflop:,.1f} GFLOP | {apart} |"


def table(rows: Mapping[str, Mapping[str, Row]]) -> Iterable[str]:
    """All rows, task by task, ours first."""
    yield HEADER
    for task, programs in rows.items():
        for name, row in programs.items():
            yield line(task, name, row, programs[OURS])


def measured_on(said: str, repeats: int) -> str:
    """A sentence about the run."""
    cores = f"one thread of {os.cpu_count()} CPU cores with other work on them, no accelerator"
    runs = f"the fewest seconds of at most {repeats} runs in turn" if repeats else "one run"
    return f"{said}. {datetime.datetime.now(datetime.timezone.utc):%-d %B %Y}; {cores}; {runs}; {versions()}."


def versions() -> str:
    return ", ".join(f"{name} {installed(name)}" for name in PACKAGES)


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def write_between(page: Path, shape: str, text: str) -> None:
    """Replace what stands between a shape's markers in a page.

    Raises:
        ValueError: the page does not have them.
    """
    begin, end = f"<!-- {shape}: begin, by benchmarks/peers.py -->", f"<!-- {shape}: end -->"
    before = page.read_text(encoding="utf-8")
    after, found = re.subn(f"({re.escape(begin)}\n).*?({re.escape(end)})", lambda match: f"{match[1]}{text}\n{match[2]}", before, flags=re.DOTALL)
    if found != 1:
        raise ValueError(f"{page} does not have the lines {begin!r} and {end!r} once; add them where the table belongs.")
    page.write_text(after, encoding="utf-8")
