"""Editing methods under ``variant=`` against the published programs' own numbers (``editing.json``).

Each program's core was retyped as a script on the bundled model's Hugging Face form, in float64 and without BOS, and run on some of
`load_edit_cases`; what it gave is kept as losses, norms and a few entries. The programs:

- ``ft``: kmeng01/rome (commit 106c882), baselines/ft/ft_main.py, ``execute_ft``; layers, decay, bound and batch as in the test.
- ``rome``: kmeng01/rome (commit 789fab0 of rome/compute_v.py, with rome/compute_u.py and repr_tools.py), at three ``fact_token``s.
- ``emmet``: scalable-model-editing/unified-model-editing (commit 2f7c65c), emmet/emmet_main.py with compute_z.py and compute_ks.py.
- ``kn``: kmeng01/rome (commit 448f8fe), baselines/kn (EleutherAI's package as changed there), with hparams/KN/gpt2-xl.json.
- ``wei``: weiyifan1023/RaKE (commit 7a1e6f7), rome/compute_u.py and compute_v.py (``compute_u_rel``, ``compute_v_rel``), baselines/memit
  (``execute_rel_memit``); on `relation_side_cases`, since the program's data file is not public.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.first_factlm import load_first_factlm

import tl_knowledge as tlk
from tl_knowledge.editing.methods import emmet, fine_tune, rome
from tl_knowledge.editing.optimise import spread

pytestmark = pytest.mark.touches_model

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "editing.json").read_text(encoding="utf-8"))
CASES = tlk.load_edit_cases()


@pytest.fixture(scope="module")
def exact() -> Any:
    """The bundled model as the programs read it."""
    return load_first_factlm(dtype=torch.float64, prepend_bos=False)


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


@pytest.fixture
def moments(exact) -> tlk.KeyMoments:
    """Made up, and the same for the programs: a diagonal and one direction."""
    number = torch.arange(512, dtype=torch.float64)
    wave = torch.sin(number)
    moment = torch.diag(0.5 + (number % 7) / 10) + 0.1 * torch.outer(wave, wave)
    real = tlk.collect_key_moments(exact, ["one two three"], tokens=2, layers=[0], progress=False)
    return replace(real, moments=dict.fromkeys(range(8), moment), change=dict.fromkeys(range(8), 0.0))


@pytest.fixture
def same_contexts(monkeypatch) -> None:
    """The programs draw theirs without a seed, so both were given these."""
    for module in (rome, emmet):
        monkeypatch.setattr(module, "context_templates", lambda *args, **kwargs: ("{}", "I think so. {}", "You were. {}"))


ROME_AT = {"subject": "subject", "subject_first": "subject_first", "after_subject": "after_subject", "clamp_3": "subject"}


@pytest.mark.parametrize("name", ROME_AT)
def test_rome(exact, moments, same_contexts, name):
    """At the other tokens of the subject the program changes "{} is a" there too."""
    golden = GOLDEN["rome"][name]
    value = tlk.editing.ValueSettings(clamp=golden["clamp"])
    method = tlk.ROME(layer=golden["layer"], variant="meng2022_code", at=ROME_AT[name], value=value)
    edit = tlk.plan_edit(exact, CASES[golden["case"]].rewrite, method, moments=moments, progress=False)
    assert edit.notes[0]["losses"] == pytest.approx(golden["losses"], rel=1e-8)
    assert_change(edit.factors[golden["layer"]].dense, golden["change"])
    assert edit.notes[0]["clamped"] or name != "clamp_3"


@pytest.mark.parametrize("name", ["several", "single"])
def test_emmet(exact, moments, same_contexts, name):
    """A weight of 1,000 for the moments and a damping of 0.1: 100 in our units; none for one fact."""
    golden = GOLDEN["emmet"][name]
    method = replace(tlk.EMMET.for_model("factlm", layers=golden["layer"], variant="gupta2024"), damping=100.0)
    method = replace(method, value=tlk.editing.ValueSettings(steps=20, clamp=0.75))
    edit = tlk.plan_edit(exact, rewrites(golden["cases"]), method, moments=moments, progress=False)
    assert [note["losses"][-1] for note in edit.notes] == pytest.approx(golden["losses"], rel=1e-8)
    assert_change(edit.factors[golden["layer"]].dense, golden["change"])


@pytest.mark.parametrize("number", GOLDEN["kn"])
def test_knowledge_neurons(exact, number):
    """Old and new objects of one to four tokens, without their spaces; the prediction is none of them."""
    golden = GOLDEN["kn"][number]
    edit = tlk.plan_edit(exact, CASES[int(number)].rewrite, tlk.localised.KnowledgeNeuronEdit(variant="meng2022_code"), progress=False)
    assert [list(neuron) for neuron in edit.notes[0]["neurons"]] == golden["neurons"]
    assert edit.notes[0]["old_token"] == golden["predicted"]
    for layer, neuron in edit.notes[0]["neurons"]:
        row = edit.factors[layer].dense[neuron]
        assert float(row.norm()) == pytest.approx(golden["row"]["norm"]) and row[:3].tolist() == pytest.approx(golden["row"]["first"])


SEVEN = ("{}", "I think so. {}", "You were. {}", "It is so. {}", "We saw it. {}", "He said. {}", "Never. {}")


@pytest.mark.parametrize("name", GOLDEN["wei"])
def test_relation_side(exact, moments, monkeypatch, name):
    """ROME's ``u`` is of the old object's prompt, five of whose seven contexts should say "None" too; MEMIT takes all of them."""
    golden = GOLDEN["wei"][name]
    for module in (rome, spread):
        monkeypatch.setattr(module, "context_templates", lambda *args, **kwargs: SEVEN)
    sides = tlk.datasets.relation_side_cases([CASES[number] for number in golden["cases"]], tlk.datasets.load_relations())
    method = tlk.MEMIT(layers=(0, 1), moment_weight=30.0, variant="wei2024") if name == "memit" else tlk.ROME(layer=1, variant="wei2024")
    edit = tlk.plan_edit(exact, [side.rewrite for side in sides], method, moments=moments, progress=False)
    losses = [note["losses"][-1] for note in edit.notes] if name == "memit" else edit.notes[0]["losses"]
    assert losses == pytest.approx(golden["losses"], rel=1e-8)
    for layer, change in golden["change"].items():
        assert_change(edit.factors[int(layer)].dense, change)
