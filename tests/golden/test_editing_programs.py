"""Editing methods under ``variant=`` against the published programs' own numbers (``editing.json``).

Each program's core was retyped as a script on the bundled model's Hugging Face form, in float64 and without BOS, and run on some of
`load_edit_cases`; what it gave is kept as losses, norms and a few entries. The programs:

- ``ft``: kmeng01/rome (commit 106c882), baselines/ft/ft_main.py, ``execute_ft``; layers, decay, bound and batch as in the test.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import tl_knowledge as tlk
from tl_knowledge.editing.methods import fine_tune

pytestmark = pytest.mark.touches_model

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "editing.json").read_text(encoding="utf-8"))
CASES = tlk.load_edit_cases()


@pytest.fixture(scope="module")
def exact() -> Any:
    """The bundled model as the programs read it."""
    return tlk.load_model("factlm", dtype=torch.float64, prepend_bos=False)


def rewrites(numbers: list[int]) -> list[tlk.Fact]:
    return [CASES[number].rewrite for number in numbers]


def assert_change(change: torch.Tensor, expected: dict[str, Any]) -> None:
    """A change of weights has the program's norm and first entries."""
    assert float(change.norm()) == pytest.approx(expected["norm"], rel=1e-8)
    assert change.flatten()[: len(expected["first"])].tolist() == pytest.approx(expected["first"], rel=1e-7, abs=1e-10)


@pytest.mark.parametrize(
    ("name", "settings", "facts_of_a_step"),
    [
        ("ft_one", {"layer": 1}, 128),  # a target of two tokens, both asked for at the prompt's end
        ("ft_several", {"layer": (1, 3), "weight_decay": 0.1}, 128),
        ("ft_l", {"layer": 0, "most_change": 2e-3}, 128),
        ("ft_batches", {"layer": 2}, 2),
    ],
)
def test_fine_tuning(exact, monkeypatch, name, settings, facts_of_a_step):
    golden = GOLDEN["ft"][name]
    monkeypatch.setattr(fine_tune, "FACTS_OF_A_STEP", facts_of_a_step)
    edit = tlk.plan_edit(exact, rewrites(golden["cases"]), tlk.FineTune(variant="meng2022_code", **settings), progress=False)
    assert edit.notes[0]["losses"] == pytest.approx(golden["losses"], rel=1e-9)
    for layer in edit.layers:
        assert_change(edit.factors[layer].dense, golden["change"][f"transformer.h.{layer}.mlp.c_proj.weight"])
        assert_change(edit.biases[layer], golden["change"][f"transformer.h.{layer}.mlp.c_proj.bias"])
