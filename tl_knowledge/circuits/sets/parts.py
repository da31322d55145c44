"""Parts of a fact set's circuit, in memory and in a run's folder: first the needs of each chunk of facts, then what the circuit explains of them.

A part depends on its facts, the settings, the model and (the second kind) on the circuit's nodes only: a run that was killed at any moment goes
on where it stopped, and ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
from typing_extensions import override

from tl_knowledge.circuits.sets.settings import FactSetSettings, RoleNode
from tl_knowledge.errors import DataError
from tl_knowledge.models.description import weight_fingerprint
from tl_knowledge.models.protocol import HookedModel, prepends_bos
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.results.packing import plain
from tl_knowledge.results.result import TableResult
from tl_knowledge.results.run_folder import RunFolder
from tl_knowledge.wording import counted

__all__ = ["Chunk", "NeedPart", "SharePart", "read_part", "run_key"]

Chunk = Sequence[tuple[int, Fact]]


@dataclass(frozen=True, eq=False)
class NeedPart(TableResult):
    """Needs and effects of some facts.

    Attributes:
        table: one row a fact, as `measure_fact` gives it.
        skipped: index of a fact that was left out, and why.
        settings: of the run.
        weights: fingerprint of the model's.
    """

    ranked_by: ClassVar[str] = "total_effect"
    table: pd.DataFrame
    skipped: dict[int, str]
    settings: FactSetSettings
    weights: str

    @override
    def headline(self) -> str:
        """How many facts."""
        return f"needs of {counted(len(self.table), 'fact')}"

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The table's rows."""
        return self.table.to_dict("records")  # pyright: ignore[reportReturnType]

    def check(self, facts: Chunk, settings: FactSetSettings, weights: str) -> bool:
        """Whether this is the part of these facts in a run of these settings."""
        given = dict(facts)
        there = {int(row["index"]): (row["subject"], row["template"], row["target"]) for row in self.rows}
        mine = all(index in given and texts == _texts(given[index]) for index, texts in there.items())
        return mine and {*there, *self.skipped} == set(given) and self.settings == settings and self.weights == weights


@dataclass(frozen=True, eq=False)
class SharePart(TableResult):
    """What the circuit's nodes explain of some facts.

    Attributes:
        table: one row a fact and number of nodes, as `share_rows` gives them.
        nodes: the circuit's.
        settings: of the run.
        weights: fingerprint of the model's.
    """

    ranked_by: ClassVar[str] = "faithfulness"
    table: pd.DataFrame
    nodes: tuple[RoleNode, ...]
    settings: FactSetSettings
    weights: str

    @override
    def headline(self) -> str:
        """How many rows."""
        return f"shares of {counted(len(self.table), 'fact')} and numbers of nodes"

    def check(self, indices: Sequence[int], nodes: Sequence[RoleNode], settings: FactSetSettings, weights: str) -> bool:
        """Whether this is the part of these facts and nodes in a run of these settings."""
        there = set(self.table["index"]) if len(self.table) else set[int]()
        return there == set(indices) and self.nodes == tuple(nodes) and self.settings == settings and self.weights == weights


def run_key(model: HookedModel, facts: Sequence[Fact], facts_per_part: int, settings: FactSetSettings) -> dict[str, Any]:
    """A run as `RunFolder` keeps it."""
    digest = hashlib.sha256(json.dumps([[*_texts(fact), fact.relation] for fact in facts]).encode()).hexdigest()[:16]
    return {
        "facts": digest,
        "number_of_facts": len(facts),
        "facts_per_part": facts_per_part,
        "weights": weight_fingerprint(model),
        "has_bos": prepends_bos(model),
        "settings": plain(settings),
    }


def read_part(folder: RunFolder, number: int, kind: type[Any], *fits: Any) -> Any:
    """A finished part.

    Args:
        kind: `NeedPart` or `SharePart`.
        fits: what its ``check`` takes.

    Raises:
        DataError: a damaged part, or one that is not what its place in the run wants.
    """
    part = kind.load(folder.part(number))
    if not part.check(*fits):
        raise DataError(
            f"{str(folder.part(number))!r} has other facts, nodes or settings than its place in the run; delete it to have it computed again."
        )
    return part


def _texts(fact: Fact) -> tuple[str, str, str]:
    return fact.subject, fact.template, fact.target
