"""Traces of a fact set on disk: a folder with one parquet file for each finished part of the facts.

A part's file appears whole or not at all, and is computed the same way whenever it is computed; so a run that was killed at any
moment goes on where it stopped and ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pyarrow as pa
from more_itertools import unique_everseen

from tl_knowledge.errors import DataError
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.results.packing import packed_fields, plain, unpack_file
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.run_folder import RunFolder
from tl_knowledge.results.storage import read_table, write_table
from tl_knowledge.tracing.sets.settings import Execution, Survey
from tl_knowledge.tracing.sets.survey import FactTrace

__all__ = ["KIND", "PartHeader", "PartResult", "TraceStore", "join_parts", "read_part"]

KIND = "TraceAverage"
FACT_COLUMNS = ("subject", "template", "target", "relation")


@dataclass(frozen=True, eq=False)
class PartHeader:
    """What a part says of itself, beside its traces.

    Attributes:
        given: how many facts it was given.
        skipped: index of a fact that was left out, and why.
        settings: what was traced, with the noise's scale and the layers of this model.
        executions: how it was computed; several where parts were joined that were computed in different ways.
        weights: fingerprint of the model's weights.
    """

    given: int
    skipped: dict[int, str]
    settings: Survey
    executions: tuple[Execution, ...]
    weights: str
    provenance: Provenance


@dataclass(frozen=True, eq=False)
class PartResult:
    """A finished part: its traces, and what it says of itself."""

    traces: tuple[FactTrace, ...]
    header: PartHeader

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write to one parquet file, in one step."""
        return write_table(path, KIND, pa.Table.from_pylist([_row(trace) for trace in self.traces], schema=_SCHEMA), packed_fields(self.header, {}))


def read_part(path: str | os.PathLike[str]) -> PartResult:
    """Read what `PartResult.write` wrote.

    Raises:
        DataError: not such a file.
    """
    table, packed = read_table(path, KIND)
    header = unpack_file(PartHeader, packed, {}, path)
    return PartResult(tuple(_trace(row, len(header.settings.layers or ())) for row in table.to_pylist()), header)


def join_parts(parts: Sequence[PartResult]) -> PartResult:
    """Several parts of one run as one.

    Raises:
        DataError: no part, or parts of different models.
    """
    if not parts:
        raise DataError("there is no finished part to read; pass the folder of a trace_facts() run that has finished at least one.")
    headers = [part.header for part in parts]
    weights = {header.weights for header in headers}
    if len(weights) > 1:
        raise DataError(f"the parts were computed with different weights ({', '.join(sorted(weights))}); use one folder for each model.")
    if any(not _same_but_resolved(header.settings, headers[0].settings) for header in headers):
        raise DataError("the parts were traced with different settings; use one folder for each run.")
    indices = [index for part in parts for index in sorted({trace.index for trace in part.traces} | set(part.header.skipped))]
    if len(indices) != len(set(indices)):
        raise DataError("two parts have the same facts; take the copy out of the folder.")
    first = headers[0]
    header = PartHeader(
        given=sum(header.given for header in headers),
        skipped={index: reason for header in headers for index, reason in header.skipped.items()},
        settings=first.settings,
        executions=tuple(unique_everseen(execution for header in headers for execution in header.executions)),
        weights=first.weights,
        provenance=_joined_provenance(headers),
    )
    return PartResult(tuple(sorted((trace for part in parts for trace in part.traces), key=lambda trace: trace.index)), header)


def _joined_provenance(headers: Sequence[PartHeader]) -> Provenance:
    """The first part's, which says also how the others were computed where that was another way."""
    first = headers[0].provenance
    ways = list(unique_everseen((header.provenance.engine, execution.memory_budget) for header in headers for execution in header.executions))
    if len(ways) == 1:
        return first
    return replace(first, engine="some parts by " + ", others by ".join(f"{engine} (memory_budget={budget:g})" for engine, budget in ways))


class TraceStore:
    """The folder of one run: ``run.json`` says which, ``part-*.parquet`` hold what is finished."""

    def __init__(self, directory: str | os.PathLike[str], survey: Survey, facts: Sequence[Fact], facts_per_part: int) -> None:
        """Open or create the folder.

        Raises:
            DataError: the folder holds another run, or something else.
        """
        run = {"facts": _digest(facts), "number_of_facts": len(facts), "facts_per_part": facts_per_part, "settings": plain(survey)}
        self.survey = survey
        self.folder = RunFolder(directory, run, "trace_facts()")
        self._weights: str | None = None

    def close(self) -> None:
        """Let others at the folder."""
        self.folder.close()

    def finished(self, parts: Mapping[int, Sequence[tuple[int, Fact]]]) -> dict[int, PartResult]:
        """The parts that are there, by number.

        Args:
            parts: the facts that each should have, with their index.

        Raises:
            DataError: a part that has other facts.
        """
        results = {number: read_part(self.folder.part(number)) for number in self.folder.finished()}
        for number, part in results.items():
            there = sorted({trace.index for trace in part.traces} | set(part.header.skipped))
            own = dict(parts.get(number, ()))
            facts_fit = there == sorted(own) and all(_columns(trace.fact) == _columns(own[trace.index]) for trace in part.traces)
            if not facts_fit or not _same_but_resolved(part.header.settings, self.survey):
                raise DataError(
                    f"{str(self.folder.part(number))!r} has other facts than its place in the run, or other settings; "
                    "delete it to have it computed again."
                )
        return results

    def write(self, number: int, part: PartResult) -> None:
        """Add a finished part.

        Raises:
            DataError: the part was computed with other weights than those already there.
        """
        self.check_weights(part.header.weights)
        part.write(self.folder.part(number))

    def check_weights(self, weights: str) -> None:
        """Refuse a model other than the one whose traces are already here."""
        if self._weights is None:
            finished = self.folder.finished()
            self._weights = read_part(self.folder.part(finished[0])).header.weights if finished else weights
        if self._weights != weights:
            raise DataError(f"{str(self.folder.directory)!r} holds traces of other weights ({self._weights}, now {weights}); pass a new folder.")

    def warn_of_other_execution(self, finished: Mapping[int, PartResult], execution: Execution) -> None:
        """Say that the rest of the run is computed in another way than what is here: its numbers are the same to rounding, not to the last bit."""
        others = {other for part in finished.values() for other in part.header.executions} - {execution}
        if others:
            there = ", ".join(f"{other.engine!r} and memory_budget={other.memory_budget:g}" for other in sorted(others, key=str))
            warnings.warn(
                f"{str(self.folder.directory)!r} holds parts computed with engine {there}; it goes on with engine {execution.engine!r} and "
                f"memory_budget={execution.memory_budget:g}: effects of old and new parts agree to rounding.",
                stacklevel=4,
            )


def _same_but_resolved(stored: Survey, asked: Survey) -> bool:
    """Whether two settings ask the same; a model turns noise into numbers and ``None`` into all layers."""
    layers = stored.layers if asked.layers is None else asked.layers
    return stored == replace(asked, noise=stored.noise, layers=layers)


def _digest(facts: Sequence[Fact]) -> str:
    text = json.dumps([_columns(fact) for fact in facts])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _columns(fact: Fact) -> list[str]:
    return [getattr(fact, column) for column in FACT_COLUMNS]


def _schema() -> Any:
    """The table's columns: a `FactTrace`'s fields in their order, with the fact's own in the fact's place."""
    columns: list[tuple[str, Any]] = []
    for name, kind in get_type_hints(FactTrace).items():
        columns += [(column, pa.string()) for column in FACT_COLUMNS] if kind is Fact else [(name, _column_type(kind))]
    return pa.schema(columns)


def _column_type(kind: Any) -> Any:
    """The column type of a field's type; arrays are flattened."""
    origin = get_origin(kind)
    if origin is tuple:
        return pa.list_(_column_type(get_args(kind)[0]))
    if origin is np.ndarray:
        return pa.list_(pa.float64())
    if origin is Literal:
        return pa.string()
    return {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), str: pa.string()}[kind]


_SCHEMA = _schema()


def _row(trace: FactTrace) -> dict[str, Any]:
    row = {field.name: getattr(trace, field.name) for field in fields(trace)}
    fact = row.pop("fact")
    return row | {column: getattr(fact, column) for column in FACT_COLUMNS} | {"effect": trace.effect.ravel().tolist()}


def _trace(row: dict[str, Any], layers: int) -> FactTrace:
    fact = Fact(*(row.pop(column) for column in FACT_COLUMNS))
    for what in ("clean", "corrupted"):  # files of versions that measured probabilities only
        row.setdefault(f"{what}_score", row[f"{what}_probability"])
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    effect = np.array(values.pop("effect"), dtype=np.float64).reshape(layers, -1, *((len(values["units"]),) if values.get("units") else ()))
    return FactTrace(fact=fact, effect=effect, **values)
