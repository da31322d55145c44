"""Rows of ``docs/what_runs_where.md`` are what happens; ``make models`` writes them all."""

from __future__ import annotations

import re
from importlib.metadata import version

import pytest
from support import BUILDERS
from support.run_page import cell, edits_row
from support.run_table import FACTORIES, MODELS, RUNS, edits_on, outcomes
from support.snippets import ROOT

from tl_knowledge import hooks
from tl_knowledge.editing import METHODS

pytestmark = pytest.mark.touches_model

PAGE = (ROOT / "docs" / "what_runs_where.md").read_text(encoding="utf-8")
SECOND = version("transformer-lens").startswith("4")
CHEAP_MODELS = [name for name in ("bridge-gpt2", "ht-gpt2") if name in BUILDERS]
CHEAP_METHODS = ["rome", "lora", "grace", "ike"]
NOT_A_ROW = {"add_low_rank"}  # of which an edit's hooks are made, so it is in every row of an editing method


def cells(row: str) -> list[str]:
    """A row of the page without its name."""
    found = re.search(rf"^\| {re.escape(row)} \| (.*) \|$", PAGE, re.MULTILINE)
    assert found is not None, row
    return found[1].split(" | ")


def mark(text: str, kind: str) -> str:
    """What a cell says of one of TransformerLens' classes, in the installed version."""
    first, _, second = text.partition(" (")
    said = second.removesuffix(")") if SECOND and second else first
    by_class = dict(part.split(": ") for part in said.split(", ") if ": " in part)
    return by_class.get(kind, said)


@pytest.mark.parametrize("name", CHEAP_MODELS)
@pytest.mark.parametrize("row", [*FACTORIES, *CHEAP_METHODS])
def test_the_page_says_what_happens(row, name):
    measured = outcomes(row, name)
    shown = [mark(text, MODELS[name]) for text in cells(row if row in FACTORIES else f"`{row}`")]
    assert shown == [cell({name: measured[run]}) for run in RUNS]


@pytest.mark.skipif(SECOND, reason="this TransformerLens has no HookedTransformer")
def test_a_model_that_refuses_most_edits():
    assert " | ".join(cells("ht-olmo2")) == edits_row(edits_on("ht-olmo2"))


def test_every_hook_and_every_method_has_its_row():
    rows = re.findall(r"^\| (`.*?) \| .* \| .* \| .* \| .* \|$", PAGE, re.MULTILINE)
    assert rows == [*FACTORIES, *(f"`{method}`" for method in METHODS)]
    factories = {name for name in dir(hooks) if callable(getattr(hooks, name)) and name.islower()} - NOT_A_ROW
    assert factories and all(any(row.startswith(f"`{name}`") for row in FACTORIES) for name in factories)


def test_nothing_on_the_page_is_wrong():
    assert "WRONG" not in PAGE and "CRASH" not in PAGE and PAGE.count("| yes |") > 50
