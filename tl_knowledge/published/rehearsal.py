"""Rehearse a published experiment: at the model's true shape, with random weights, on a few cases, with nothing downloaded."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
import torch
from typing_extensions import override

from tl_knowledge.door import public
from tl_knowledge.drawing import bar_chart
from tl_knowledge.errors import InputError, check_choice
from tl_knowledge.models.rehearsal import SHAPES, random_model
from tl_knowledge.published.driver import Run, run_experiment
from tl_knowledge.published.registry import published_experiment
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.result import TableResult
from tl_knowledge.wording import counted

__all__ = ["Rehearsal", "peak_memory", "rehearse"]

GIBIBYTE = 2**30


@dataclass(frozen=True, eq=False)
class Rehearsal(TableResult):
    """What a rehearsal took.

    Attributes:
        table: ``step seconds seconds_a_case``, with ``all`` for the whole.
        experiment: its name.
        shape: the model's shape.
        layers: how many layers of it.
        cases: how many were run.
        peak_memory: the most that the process has held, in bytes; on a GPU the most that its memory has held.
        numbers: how many numbers came out; what they are means nothing.
        provenance: the random model, the versions.
    """

    ranked_by: ClassVar[str] = "seconds"
    table: pd.DataFrame
    experiment: str
    shape: str
    layers: int
    cases: int
    peak_memory: int
    numbers: int
    provenance: Provenance

    @override
    def headline(self) -> str:
        """Seconds and memory."""
        whole = float(self.table.set_index("step").loc["all", "seconds"])  # pyright: ignore
        return (
            f"{self.experiment} at the shape of {self.shape} ({self.layers} of {counted(SHAPES[self.shape].layers, 'layer')}), "
            f"{counted(self.cases, 'case')}: "
            f"{whole:.1f} s, peak memory {self.peak_memory / GIBIBYTE:.1f} GiB, {counted(self.numbers, 'number')}"
        )

    @override
    def summary(self) -> pd.DataFrame:
        """One row a step."""
        return self.table.copy()

    def plot(self) -> go.Figure:
        """Bars: the seconds of every step."""
        title, subtitle = f"Rehearsal of {self.experiment}", self.headline()
        return bar_chart(list(self.table["step"]), list(self.table["seconds"]), None, title=title, subtitle=subtitle, value_axis="seconds")


@public
def rehearse(
    experiment: str, *, shape: str | None = None, layers: int | None = None, limit: int = 3, seed: int = 0, progress: bool = True
) -> Rehearsal:
    """Run an experiment's whole pipeline on random weights of the true shape; FactLM's facts stand in, with what the model predicts as answers.

    Key moments are taken over just enough tokens to be inverted, so their step is shorter than in a real run.

    Args:
        shape: of `random_model`; the experiment's model when ``None``.
        layers: fewer than the model has, where memory is short.
        limit: facts or edits.
        seed: of the weights.

    Raises:
        InputError: an unknown experiment or shape, or a model whose shape cannot be rehearsed.

    Example:
        >>> rehearsal = rehearse("meng2022-figure1", shape="gpt2", layers=2, limit=1, progress=False)
        >>> list(rehearsal.table["step"]), rehearsal.peak_memory > 10**8
        (['all'], True)
    """
    asked = published_experiment(experiment)
    name = asked.model if shape is None else shape
    if shape is None and name not in SHAPES:
        raise InputError(f"{experiment!r} is of {name!r}, whose shape cannot be rehearsed; pass one of {', '.join(SHAPES)}.")
    check_choice("shape", name, SHAPES)
    if limit < 1:
        raise InputError(f"limit={limit} takes no case; pass at least 1.")
    model = random_model(name, layers=layers, seed=seed)
    run: Run = run_experiment(asked, model, name, limit=limit, progress=progress, rehearsal=True)
    rows = [{"step": step, "seconds": seconds, "seconds_a_case": seconds / limit} for step, seconds in run.seconds.items()]
    made = run.reproduction
    return Rehearsal(
        pd.DataFrame(rows), asked.name, name, int(model.cfg.n_layers), limit, peak_memory(), int(made.table["ours"].notna().sum()), made.provenance
    )


def peak_memory() -> int:
    """The most bytes that this process (or, where there is one, the GPU) has held; 0 where the system does not say."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
