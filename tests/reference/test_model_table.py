"""Some rows of ``docs/models.md`` are what happens; ``make models`` writes them all."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest
from support.model_table import METHODS, SIGNS, outcomes

pytestmark = pytest.mark.touches_model

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
ROWS = ["Qwen3", "OLMo 2", "OPT", "BLOOM", "Falcon", "Granite", "Mamba", "OpenAI GPT", "ht-qk-norm"]


@pytest.mark.parametrize("name", ROWS)
def test_the_page_says_what_happens(name):
    second = version("transformer-lens").startswith("4")
    cells = re.search(rf"^\| {re.escape(name)} \| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)[1].split(" | ")
    if name.startswith("ht-") and second:
        assert all(cell.endswith("n/a") for cell in cells)
        return
    for cell, (method, outcome) in zip(cells, outcomes(name).items(), strict=True):
        mark = cell.replace("n/a", "n-a").split(" / ")[-1 if second else 0]
        if outcome.startswith("refused"):
            assert mark.isdigit(), (method, outcome)
        else:
            assert mark == SIGNS[outcome], (method, outcome)


def test_nothing_on_the_page_is_wrong():
    text = PAGE.read_text(encoding="utf-8")
    assert "WRONG" not in text and "CRASH" not in text
    rows = [line for line in text.splitlines() if line.count(" | ") == len(METHODS)]
    assert len(rows) - 1 >= 40
