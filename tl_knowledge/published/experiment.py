"""What a published experiment is: its data, its protocol, and the rows that its paper prints."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from tl_knowledge.errors import InputError
from tl_knowledge.models.bundled import is_bundled
from tl_knowledge.published.data import DataSet
from tl_knowledge.published.protocol import Protocol
from tl_knowledge.wording import counted

__all__ = ["Experiment", "PublishedValue", "printed"]

_CELL = re.compile(r"(?P<value>-?\d+(\.\d+)?)( \((?P<half>\d+(\.\d+)?)\))?")


@dataclass(frozen=True)
class PublishedValue:
    """One number of a paper.

    Attributes:
        row, column: where it stands, under the names that the protocol gives its own numbers.
        value: in the paper's units.
        half_width: of the interval that the paper prints, if it does.
    """

    row: str
    column: str
    value: float
    half_width: float | None = None


def printed(table: str) -> tuple[PublishedValue, ...]:
    """A table as a paper prints it: columns between bars, ``-`` for nothing, half widths in brackets.

    Raises:
        InputError: a cell that is no number, or a row of another length.

    Example:
        >>> printed('''
        ... row  | ES         | NS
        ... ROME | 99.8 (0.1) | -
        ... ''')
        (PublishedValue(row='ROME', column='ES', value=99.8, half_width=0.1),)
    """
    lines = [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]
    columns = lines[0][1:]
    values: list[PublishedValue] = []
    for row, *cells in lines[1:]:
        if len(cells) != len(columns):
            raise InputError(
                f"row {row!r} has {counted(len(cells), 'cell')} for {counted(len(columns), 'column')}; write '-' where the paper prints nothing."
            )
        for column, cell in zip(columns, cells, strict=True):
            if cell == "-":
                continue
            parts = _CELL.fullmatch(cell)
            if parts is None:
                raise InputError(f"cell {cell!r} of row {row!r} is no number; write it as 22.2 or 22.2 (0.9).")
            values.append(PublishedValue(row, column, float(parts["value"]), None if parts["half"] is None else float(parts["half"])))
    return tuple(values)


@dataclass(frozen=True)
class Experiment:
    """A published table or figure, and how to make it again.

    Attributes:
        name: what it is called on the command line.
        title: what it shows.
        source: paper, and table or figure.
        data: what it is measured on.
        cases: how many facts or edits, by model (as in ``"gpt2-xl"``); the first is the model when none is named.
        protocol: how it is measured.
        expected: the paper's numbers by model; none where it prints only a figure.
        interval: what the paper's half widths are.
        without: rows of the paper that have no editor here, with the reason.
        differs: what is known to differ from the authors' program.
        prepend_bos: whether prompts begin with BOS; the original programs do not prepend it to GPT-2's.
        factlm_cases: how many of FactLM's own cases make its expected rows.
    """

    name: str
    title: str
    source: str
    data: DataSet
    cases: Mapping[str, int]
    protocol: Protocol
    expected: Mapping[str, tuple[PublishedValue, ...]] = field(default_factory=dict[str, tuple[PublishedValue, ...]])
    interval: str = "none printed"
    without: Mapping[str, str] = field(default_factory=dict[str, str])
    differs: tuple[str, ...] = ()
    prepend_bos: bool | None = False
    factlm_cases: int = 20

    @property
    def model(self) -> str:
        """The model that is meant when none is named."""
        return next(iter(self.cases))

    def published_cases(self, model: str) -> int:
        """How many facts or edits the paper has of a model, named as in ``"gpt2-xl"``; of a model that it does not have, as of its first."""
        return self.cases.get(model, self.cases[self.model])

    def cases_of(self, model: str, limit: int | None) -> int:
        """How many are run: the paper's number (FactLM's own for FactLM), or at most ``limit``."""
        if is_bundled(model):
            return limit or self.factlm_cases
        published = self.published_cases(model)
        return published if limit is None else min(limit, published)
