"""What making an experiment again would take, before anything is fetched or computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
from typing_extensions import override

from tl_knowledge.door import public
from tl_knowledge.drawing import bar_chart
from tl_knowledge.errors import InputError
from tl_knowledge.models.rehearsal import SHAPES
from tl_knowledge.published.driver import factlm_rows
from tl_knowledge.published.experiment import Experiment
from tl_knowledge.published.registry import published_experiment
from tl_knowledge.published.rehearsal import GIBIBYTE, Rehearsal
from tl_knowledge.results.provenance import Provenance, installed_versions
from tl_knowledge.results.result import TableResult
from tl_knowledge.wording import counted

__all__ = ["ReproductionPlan", "plan_reproduction"]

FLOAT32, FLOAT64 = 4, 8


@dataclass(frozen=True, eq=False)
class ReproductionPlan(TableResult):
    """A run that has not been done.

    Attributes:
        table: ``what value``: in words, one line each.
        experiment, model: of what.
        cases: how many facts or edits.
        hours: on this machine, from the pace that was measured; NaN where none was.
        provenance: the versions.
    """

    ranked_by: ClassVar[str] = "what"
    table: pd.DataFrame
    experiment: str
    model: str
    cases: int
    hours: float
    provenance: Provenance

    @override
    def headline(self) -> str:
        """How many cases of what, and how long."""
        hours = "pace not measured" if self.hours != self.hours else f"about {self.hours:.2g} hours on this machine"
        return f"{self.experiment} on {self.model}: {counted(self.cases, 'case')}, {hours}"

    @override
    def summary(self) -> pd.DataFrame:
        """All lines."""
        return self.table.copy()

    def plot(self) -> go.Figure:
        """Bars: the cases of the run, beside those of the paper's models."""
        cases = {**published_experiment(self.experiment).cases, f"this run ({self.model})": self.cases}
        title, subtitle = f"{self.experiment}: number of cases", self.headline()
        return bar_chart(list(cases), [float(count) for count in cases.values()], None, title=title, subtitle=subtitle, value_axis="facts or edits")


@public
def plan_reproduction(experiment: str, *, shape: str | None = None, limit: int | None = None, pace: Rehearsal | None = None) -> ReproductionPlan:
    """What a run would take: data and where it is from, memory, and hours by a measured pace.

    Args:
        shape: the model's name, as in ``"gpt2-xl"``; the paper's first when ``None``. Nothing is loaded.
        limit: how many facts or edits; the paper's number when ``None``.
        pace: a rehearsal of the experiment, from whose seconds a case the hours are reckoned. Moments are reckoned by their tokens.

    Raises:
        InputError: an unknown experiment, or a pace of another.

    Example:
        >>> plan = plan_reproduction("meng2022-table4", shape="gpt2-xl")
        >>> plan.cases, plan.table.set_index("what").loc["weights", "value"]
        (7500, '5.8 GiB in float32')
    """
    asked = published_experiment(experiment)
    name = (shape or asked.model).rsplit("/", maxsplit=1)[-1].lower()
    if pace is not None and pace.experiment != asked.name:
        raise InputError(f"the pace is of {pace.experiment!r}, not of {asked.name!r}; rehearse that.")
    cases = asked.cases_of(name, limit)
    hours = float("nan") if pace is None else _hours(pace, cases, name)
    lines = {
        "shows": asked.title,
        "published in": asked.source,
        "model": f"{name}, {'with' if asked.prepend_bos else 'without'} BOS",
        "data": f"{asked.data.name}, from {asked.data.place or 'a folder that you pass'}: {asked.data.how}; licence {asked.data.licence}",
        "cases": f"{cases} of the paper's {asked.published_cases(name)}",
        "protocol": repr(asked.protocol),
        **_memory(name),
        "published numbers": f"{len(asked.expected.get(name, ()))} for this model" + ("" if name != "factlm" else _own_rows(asked)),
        **({"rows without an editor here": "; ".join(f"{row}: {why}" for row, why in asked.without.items())} if asked.without else {}),
        **({"known to differ": "; ".join(asked.differs)} if asked.differs else {}),
        "time": "not measured: pass pace=rehearse(...), on the command line --rehearse" if pace is None else _time_words(pace, hours),
    }
    table = pd.DataFrame({"what": list(lines), "value": list(lines.values())})
    return ReproductionPlan(
        table, asked.name, name, cases, hours, Provenance(name, "", {}, bool(asked.prepend_bos), "", "", 0, "none", {}, installed_versions())
    )


def _memory(name: str) -> dict[str, str]:
    if name not in SHAPES:
        return {}
    shape = SHAPES[name]
    moments = FLOAT64 * shape.d_mlp**2
    return {
        "weights": f"{FLOAT32 * shape.parameters() / GIBIBYTE:.1f} GiB in float32",
        "key moments": f"{moments / GIBIBYTE:.2f} GiB a layer, three times that while they are collected (editors that need them)",
    }


def _own_rows(experiment: Experiment) -> str:
    known = factlm_rows().get(experiment.name)
    return "" if known is None else f"; {len(known['rows'])} of FactLM's own, of {counted(known['cases'], 'case')}"


def _hours(pace: Rehearsal, cases: int, name: str) -> float:
    """Seconds a case, as many times as there are cases and deeper by as many layers; moments by their tokens."""
    seconds = pace.table.set_index("step")["seconds"]
    moments = float(seconds.get("key moments", 0.0))  # pyright: ignore
    per_case = (float(seconds["all"]) - moments) / pace.cases  # pyright: ignore
    depth = SHAPES[name].layers / pace.layers if name in SHAPES else 1.0
    return depth * (per_case * cases + moments * 10 / 1.1) / 3600


def _time_words(pace: Rehearsal, hours: float) -> str:
    deeper = "" if pace.layers == SHAPES[pace.shape].layers else ", scaled to all layers"
    return f"about {hours:.2g} hours on this machine: {counted(pace.cases, 'case')} were measured{deeper}; other facts take longer or shorter"
