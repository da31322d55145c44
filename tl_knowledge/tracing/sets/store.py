"""Traces of a fact set on disk: a folder with one parquet file for each finished part of the facts.

A part's file appears whole or not at all, and is computed the same way whenever it is computed; so a run that was killed at any
moment goes on where it stopped and ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tl_knowledge.errors import DataError
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.results.run_folder import RunFolder
from tl_knowledge.results.storage import read_table, write_table
from tl_knowledge.tracing.sets.survey import FactTrace, Survey

__all__ = ["KIND", "PartResult", "TraceStore", "join_parts", "read_part"]

KIND = "TraceAverage"

_SCHEMA = pa.schema(
    [
        ("index", pa.int32()),
        ("subject", pa.string()),
        ("template", pa.string()),
        ("target", pa.string()),
        ("relation", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("subject_positions", pa.list_(pa.int32())),
        ("relation_positions", pa.list_(pa.int32())),
        ("corrupt", pa.string()),
        ("component", pa.string()),
        ("severed", pa.list_(pa.string())),
        ("window", pa.int32()),
        ("seed", pa.int64()),
        ("known", pa.bool_()),
        ("clean_probability", pa.float64()),
        ("corrupted_probability", pa.list_(pa.float64())),
        ("effect", pa.list_(pa.float64())),
    ]
)


@dataclass(frozen=True, eq=False)
class PartResult:
    """A finished part: its traces, which facts were skipped and why, and how it was computed.

    Attributes:
        fields: ``asked`` (number of facts), ``skipped`` (index to reason), ``layers``, ``weights`` (the model's fingerprint) and
            ``provenance``, as plain data.
    """

    traces: tuple[FactTrace, ...]
    fields: dict[str, Any]

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write to one parquet file, in one step."""
        return write_table(path, KIND, pa.Table.from_pylist([_row(trace) for trace in self.traces], schema=_SCHEMA), self.fields)


def read_part(path: str | os.PathLike[str]) -> PartResult:
    """Read what `PartResult.write` wrote.

    Raises:
        DataError: not such a file.
    """
    table, fields = read_table(path, KIND)
    return PartResult(tuple(_trace(row, len(fields["layers"])) for row in table.to_pylist()), fields)


def join_parts(parts: Sequence[PartResult]) -> PartResult:
    """Several parts of one run as one.

    Raises:
        DataError: no part, or parts of different models.
    """
    if not parts:
        raise DataError("there is no finished part to read; pass the folder of a trace_facts() run that has finished at least one.")
    weights = {part.fields["weights"] for part in parts}
    if len(weights) > 1:
        raise DataError(f"the parts were computed with different weights ({', '.join(sorted(weights))}); use one folder for each model.")
    skipped = {index: reason for part in parts for index, reason in part.fields["skipped"].items()}
    fields = parts[0].fields | {"asked": sum(part.fields["asked"] for part in parts), "skipped": skipped}
    return PartResult(tuple(sorted((t for part in parts for t in part.traces), key=lambda trace: trace.index)), fields)


class TraceStore:
    """The folder of one run: ``run.json`` says which, ``part-*.parquet`` hold what is finished."""

    def __init__(self, directory: str | os.PathLike[str], survey: Survey, facts: Sequence[Fact], facts_per_part: int) -> None:
        """Open or create the folder.

        Raises:
            DataError: the folder holds another run, or something else.
        """
        run = {"facts": _digest(facts), "number_of_facts": len(facts), "facts_per_part": facts_per_part, "settings": json.loads(survey.key())}
        self.folder = RunFolder(directory, run, "trace_facts()")
        self._weights: str | None = None

    def finished(self) -> list[int]:
        """Numbers of the parts that are there."""
        return self.folder.finished()

    def write(self, number: int, part: PartResult) -> None:
        """Add a finished part.

        Raises:
            DataError: the part was computed with other weights than those already there.
        """
        self.check_weights(part.fields["weights"])
        part.write(self.folder.part(number))

    def read(self, number: int) -> PartResult:
        """One finished part."""
        return read_part(self.folder.part(number))

    def check_weights(self, weights: str) -> None:
        """Refuse a model other than the one whose traces are already here."""
        if self._weights is None:
            finished = self.finished()
            self._weights = self.read(finished[0]).fields["weights"] if finished else weights
        if self._weights != weights:
            raise DataError(f"{str(self.folder.directory)!r} holds traces of other weights ({self._weights}, now {weights}); pass a new folder.")


def _digest(facts: Sequence[Fact]) -> str:
    text = json.dumps([[f.subject, f.template, f.target, f.relation] for f in facts])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _row(trace: FactTrace) -> dict[str, Any]:
    row = {name: getattr(trace, name) for name in _SCHEMA.names if name not in ("subject", "template", "target", "relation", "effect")}
    fact = {name: getattr(trace.fact, name) for name in ("subject", "template", "target", "relation")}
    return row | fact | {"effect": trace.effect.ravel().tolist()}


def _trace(row: dict[str, Any], layers: int) -> FactTrace:
    fact = Fact(row.pop("subject"), row.pop("template"), row.pop("target"), row.pop("relation"))
    effect = np.array(row.pop("effect"), dtype=np.float64).reshape(layers, -1)
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    return FactTrace(fact=fact, effect=effect, **fields)
