"""What every result can do: be a table, be drawn, be ranked, be saved and loaded, and show itself in one line or in a notebook."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import Field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import jinja2
import pandas as pd
import pyarrow as pa
import torch

from tl_knowledge.results.packing import packed_fields, unpack
from tl_knowledge.results.plain_text import printable
from tl_knowledge.results.statistics import largest_rows
from tl_knowledge.results.storage import read_result, read_table, write_result, write_table

__all__ = ["Result", "TableResult"]

AnyResult = TypeVar("AnyResult", bound="Result")  # typing.Self is refused by the test suite's type checker

# The class keeps a notebook from reading formulas into the dollars of a label.
_IN_A_NOTEBOOK = jinja2.Environment(autoescape=True).from_string(
    "<div class='tex2jax_ignore mathjax_ignore'><b>{{ name }}</b><br><small>{{ headline }}</small>{{ table | safe }}</div>"
)
SHOWN = 10


class Result(ABC):
    """A frozen dataclass that somebody will look at.

    A class sets ``ranked_by``, the column of its dataframe that `top` ranks by, with ``either_sign`` when a large loss counts like a large gain.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    ranked_by: ClassVar[str]
    either_sign: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__repr__ = Result.__repr__  # a dataclass would print every tensor

    @abstractmethod
    def headline(self) -> str:
        """What this is, in one line: what was measured, of what, how many."""

    @abstractmethod
    def to_dataframe(self) -> pd.DataFrame:
        """One row for each thing that was measured."""

    def top(self, k: int = 10) -> pd.DataFrame:
        """The k rows that stand out most.

        Raises:
            ComponentError: k smaller than 1.
        """
        return largest_rows(self.to_dataframe(), k, self.ranked_by, either_sign=self.either_sign)

    def summary(self) -> pd.DataFrame:
        """The result in a few rows."""
        return self.top(SHOWN)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to one ``.safetensors`` file (everything but tensors in its header); returns the path."""
        tensors: dict[str, torch.Tensor] = {}
        fields = packed_fields(self, tensors)
        return write_result(path, type(self).__name__, tensors, fields)

    @classmethod
    def load(cls: type[AnyResult], path: str | os.PathLike[str]) -> AnyResult:
        """Read what `save` wrote.

        Raises:
            DataError: not such a file.
        """
        tensors, fields = read_result(path, cls.__name__)
        return unpack(cls, fields, tensors)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.headline()}>"

    def _repr_html_(self) -> str:
        table = self.summary().to_html(index=False, border=0, float_format=lambda value: f"{value:.4g}", max_rows=SHOWN)
        return printable(_IN_A_NOTEBOOK.render(name=type(self).__name__, headline=self.headline(), table=table))


class TableResult(Result):
    """A result that is one ``table``, its ``provenance``, and otherwise plain fields."""

    table: pd.DataFrame

    def to_dataframe(self) -> pd.DataFrame:
        """The table, as a copy."""
        return self.table.copy()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to one ``.parquet`` file; returns the path."""
        tensors: dict[str, torch.Tensor] = {}
        fields = packed_fields(self, tensors)
        assert set(tensors) == {"table"}, f"{type(self).__name__} holds tensors; it is a Result, not a TableResult"
        table = pa.Table.from_pandas(self.table.reset_index(drop=True), preserve_index=False)
        return write_table(path, type(self).__name__, table, {name: value for name, value in fields.items() if name != "table"})

    @classmethod
    def load(cls: type[AnyResult], path: str | os.PathLike[str]) -> AnyResult:
        """Read what `save` wrote.

        Raises:
            DataError: not such a file.
        """
        table, fields = read_table(path, cls.__name__)
        numbers = [column.name for column in table.schema if pa.types.is_floating(column.type)]
        frame = pd.DataFrame(table.to_pylist()).astype(dict.fromkeys(numbers, float))  # also a column of which no row has a number
        return unpack(cls, fields | {"table": frame}, {})
