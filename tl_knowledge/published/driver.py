"""Make a published experiment again: the model, the data, the protocol, and the paper's numbers beside ours."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from tl_knowledge.door import public
from tl_knowledge.errors import InputError, check_choice
from tl_knowledge.models.bundled import is_bundled
from tl_knowledge.models.loading import AnyModel, as_model, load_model
from tl_knowledge.models.protocol import HookedModel, is_masked, model_name
from tl_knowledge.published.experiment import Experiment, PublishedValue
from tl_knowledge.published.page import reproduction_page
from tl_knowledge.published.protocol import Measured
from tl_knowledge.published.registry import published_experiment
from tl_knowledge.published.reproduction import ReproducedExperiment, Reproduction
from tl_knowledge.published.workbench import Workbench
from tl_knowledge.results.packing import plain
from tl_knowledge.results.provenance import provenance_of
from tl_knowledge.results.storage import write_text
from tl_knowledge.results.writable import check_writable_file, check_writable_folder
from tl_knowledge.runs.parts import Runner
from tl_knowledge.wording import counted

__all__ = ["Run", "factlm_rows", "reproduce", "run_experiment"]

FACTLM = "factlm"
FACTLM_ROWS = "factlm_rows.json"


@dataclass(frozen=True, eq=False)
class Run:
    """A reproduction with what is drawn of it: more than a table can keep.

    Attributes:
        reproduction: the numbers.
        figures: of the protocol's own results.
        seconds: by step.
    """

    reproduction: Reproduction
    figures: tuple[go.Figure, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict[str, float])


@public
def reproduce(
    model: AnyModel,
    experiment: str,
    *,
    source: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    corpus: str = "wikipedia",
    store: str | os.PathLike[str] | None = None,
    page: str | os.PathLike[str] | None = None,
    runner: Runner = "local",
    workers: int = 2,
    progress: bool = True,
) -> Reproduction:
    """Make a published table or figure again.

    On FactLM its own facts, edits and corpus stand in, and its own committed rows are what is compared with.

    Args:
        model: a model, or its name or directory. The paper's numbers are shown only beside the model they are of. A published model that is
            loaded by name has no BOS before its prompts where the program had none.
        experiment: a name of `EXPERIMENTS`, such as ``"meng2022-table4"``.
        source: where the data is read; where the experiment says when ``None``.
        limit: how many facts or edits; the paper's number when ``None``.
        corpus: what the key moments of editors are taken over: ``"wikipedia"``, ``"wikitext"`` or a text file.
        store: a folder: a run that was killed goes on from there.
        page: a file for a self-contained HTML page of the numbers and the figures.
        runner, workers: ``"ray"`` shares the facts out, where the protocol's steps can be; pass the model's name then.

    Raises:
        InputError: an unknown experiment, or a limit below 1.
        DataError: data that cannot be had, or a store of another run.
        ModelError: as `load_model`.

    Example:
        >>> import tl_knowledge as tlk
        >>> made = tlk.published.reproduce("factlm", "meng2022-figure1", progress=False)
        >>> made.settings.compared_with, sorted(set(made.table["column"]))
        ("FactLM's own rows", ['P clean', 'P corrupted', 'effect', 'layer', 'token'])
    """
    asked = published_experiment(experiment)
    if page is not None:
        check_writable_file(page)
    if store is not None:
        check_writable_folder(store)
    named = isinstance(model, str | os.PathLike)
    loaded = load_model(model, prepend_bos=asked.prepend_bos) if named and not _is_bundled(model) else as_model(model, masked=True)
    run = run_experiment(
        asked, loaded, model, source=source, limit=limit, corpus=corpus, store=store, runner=runner, workers=workers, progress=progress
    )
    if page is not None:
        write_text(page, reproduction_page(run.reproduction, run.figures))
    return run.reproduction


def run_experiment(
    experiment: Experiment,
    model: HookedModel,
    name: AnyModel,
    *,
    source: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    corpus: str = "wikipedia",
    store: str | os.PathLike[str] | None = None,
    runner: Runner = "local",
    workers: int = 2,
    progress: bool = True,
    rehearsal: bool = False,
) -> Run:
    """`reproduce` on a loaded model, with the figures and the seconds."""
    check_choice("runner", runner, Runner)
    if limit is not None and limit < 1:
        raise InputError(f"limit={limit} takes no case; pass at least 1, or nothing for the paper's number.")
    own_data = rehearsal or is_bundled(model_name(model))
    if runner == "ray" and not own_data and experiment.prepend_bos is not None and not is_masked(model):
        raise InputError(
            f"{experiment.name!r} has prompts {'with' if experiment.prepend_bos else 'without'} BOS, but the workers of runner='ray' load "
            f"{str(name)!r} with its own default; pass runner='local'."
        )
    bench = Workbench(
        model=model,
        source=name,
        data=experiment.data,
        place=None if source is None else os.fspath(source),
        limit=experiment.cases_of(_short(model), limit),
        own_data=own_data,
        rehearsal=rehearsal,
        store=None if store is None else Path(store),
        corpus=FACTLM if own_data else corpus,
        runner=runner,
        workers=workers,
        progress=progress,
    )
    with bench.timed("all"):
        measured = experiment.protocol.measure(bench)
    expected, compared_with = ((), "nothing") if rehearsal else _expected(experiment, model, bench.limit)
    settings = ReproducedExperiment(
        experiment=experiment.name,
        title=experiment.title,
        source=experiment.source,
        data=FACTLM if own_data else experiment.data.name,
        cases=bench.limit,
        published_cases=experiment.published_cases(_short(model)),
        protocol={"name": type(experiment.protocol).__name__} | plain(experiment.protocol),
        interval=experiment.interval,
        compared_with=compared_with,
        without=dict(experiment.without),
        differs=tuple(experiment.differs) + _of_this_run(experiment, bench),
        rehearsal=rehearsal,
    )
    provenance = provenance_of(model, engine="as the protocol's steps", settings=settings)
    reproduction = Reproduction(_joined(expected, measured), settings, tuple(measured.notes), provenance)
    return Run(reproduction, tuple(measured.figures), bench.seconds)


@cache
def factlm_rows() -> dict[str, Any]:
    """FactLM's committed rows: by experiment, ``cases`` and ``rows`` of ``row column value``."""
    return json.loads((files("tl_knowledge.published") / FACTLM_ROWS).read_text(encoding="utf-8"))


def _expected(experiment: Experiment, model: HookedModel, cases: int) -> tuple[tuple[PublishedValue, ...], str]:
    """The numbers to stand beside ours, and whose they are."""
    if model_name(model) == FACTLM:
        known = factlm_rows().get(experiment.name, {"cases": None, "rows": []})
        return tuple(PublishedValue(*row) for row in known["rows"]), "FactLM's own rows"
    expected = experiment.expected.get(_short(model), ())
    return expected, "the paper" if expected else "nothing"


def _of_this_run(experiment: Experiment, bench: Workbench) -> tuple[str, ...]:
    """What differs because of how this run was asked for."""
    if bench.rehearsal:
        return ("the weights are random: only seconds and memory mean something",)
    if bench.own_data:
        own = ("FactLM's own facts stand in for the paper's data",)
        if model_name(bench.model) != FACTLM:  # its sibling has no committed rows
            return own
        known = factlm_rows().get(experiment.name, {"cases": bench.limit})["cases"]
        return own if known == bench.limit else (*own, f"the committed rows are of {counted(known, 'case')}")
    published = experiment.published_cases(_short(bench.model))
    return () if bench.limit == published else (f"the first {bench.limit} of the paper's {counted(published, 'case')}",)


def _joined(expected: Iterable[PublishedValue], measured: Measured) -> pd.DataFrame:
    """Both sides' numbers by row and column, in our order; what only the paper has stands below."""
    theirs = pd.DataFrame([vars(value) for value in expected], columns=["row", "column", "value", "half_width"])
    theirs = theirs.rename(columns={"value": "theirs"}).astype({"theirs": float, "half_width": float})
    ours = measured.table.astype({"ours": float, "low": float, "high": float})
    both = ours.merge(theirs, on=["row", "column"], how="outer", sort=False)
    keys = [key for side in (ours, theirs) for key in zip(side["row"], side["column"], strict=True)]
    first = {key: at for at, key in reversed(list(enumerate(keys)))}
    both["at"] = [first[key] for key in zip(both["row"], both["column"], strict=True)]
    both = both.sort_values("at", kind="stable").reset_index(drop=True)
    both["difference"] = both["ours"] - both["theirs"]
    both["n"] = both["n"].fillna(0).astype(int)
    return both[["row", "column", "theirs", "half_width", "ours", "low", "high", "difference", "n"]]


def _short(model: HookedModel) -> str:
    return model_name(model).rsplit("/", maxsplit=1)[-1].lower()


def _is_bundled(model: AnyModel) -> bool:
    return is_bundled(os.fspath(model) if isinstance(model, str | os.PathLike) else model_name(model))
