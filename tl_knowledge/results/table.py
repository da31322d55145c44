"""Results that are one table: shown as a dataframe, ranked, saved and loaded in one way."""

from __future__ import annotations

import os
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pandas as pd
import pyarrow as pa

from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.statistics import largest_rows
from tl_knowledge.results.storage import read_table, write_table

__all__ = ["TableResult"]

Result = TypeVar("Result", bound="TableResult")  # typing.Self is refused by the test suite's type checker


class TableResult:
    """A dataclass with a ``table``, its ``provenance``, and otherwise plain fields.

    A class sets ``ranked_by``, the column that `top` ranks by, with ``either_sign`` when a large loss counts like a large gain.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    ranked_by: ClassVar[str]
    either_sign: ClassVar[bool] = False
    table: pd.DataFrame
    provenance: Provenance

    def to_dataframe(self) -> pd.DataFrame:
        """The table, as a copy."""
        return self.table.copy()

    def top(self, k: int = 10) -> pd.DataFrame:
        """The k rows that stand out most.

        Raises:
            ComponentError: k smaller than 1.
        """
        return largest_rows(self.table, k, self.ranked_by, either_sign=self.either_sign)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to one ``.parquet`` file; returns the path."""
        table = pa.Table.from_pandas(self.table.reset_index(drop=True), preserve_index=False)
        return write_table(path, type(self).__name__, table, self._packed() | {"provenance": self.provenance.to_dict()})

    @classmethod
    def load(cls: type[Result], path: str | os.PathLike[str]) -> Result:
        """Read what `save` wrote.

        Raises:
            DataError: not such a file.
        """
        table, packed = read_table(path, cls.__name__)
        provenance = Provenance(**packed.pop("provenance"))
        return cls(table=pd.DataFrame(table.to_pylist()), provenance=provenance, **cls._unpacked(packed))  # pyright: ignore[reportCallIssue]

    def _packed(self) -> dict[str, Any]:
        """The other fields as JSON has them."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name not in ("table", "provenance")}

    @classmethod
    def _unpacked(cls, packed: dict[str, Any]) -> dict[str, Any]:
        """The other fields from JSON."""
        return packed
