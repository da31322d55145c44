"""``"hase2023"`` against Hase et al.'s program (github.com/google/belief-localization, Apache-2.0), whose numbers lie beside this file.

Each ``hase_*.json`` says which file and commit of the program its numbers are of, and how they were made: the program's core was retyped as a script
and run once, in float64.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from support.first_factlm import load_first_factlm

import tl_knowledge as tlk
from tl_knowledge.editing import ValueSettings
from tl_knowledge.editing.optimise.fact_rows import rows_of
from tl_knowledge.editing.optimise.keys import keys_and_outputs
from tl_knowledge.editing.optimise.values import optimise_values
from tl_knowledge.evaluation import Answer, Candidates, hase_scores
from tl_knowledge.evaluation.scores import case_scores
from tl_knowledge.models.hook_names import block_output
from tl_knowledge.models.weights import output_hook
from tl_knowledge.results.provenance import Provenance

HERE = Path(__file__).parent
MADE = Provenance("m", "b", {}, False, "float64", "cpu", 0, "e", {})


def golden(name: str) -> dict[str, Any]:
    return json.loads((HERE / f"hase_{name}.json").read_text())


def test_regressions_are_the_notebooks():
    numbers = golden("regressions")
    effect = pd.Series(numbers["fraction_restored"])
    table = pd.DataFrame(
        {"case_id": "1", "layer": numbers["layer"], "score": numbers["score"], "fraction_restored": effect, "tracing_effect": effect.clip(upper=1)}
    )
    sweep = tlk.localised.LayerSweep(table, {}, tlk.localised.SweepSettings("ROME", "error_injection", (0, 4, 8, 12)), MADE)
    fit = sweep.regressions(variant="hase2023")
    expected = (numbers["r2_layer"], numbers["r2_trace"], numbers["r2_both"], numbers["f"], numbers["p"])
    assert (fit.first, fit.second, fit.both, fit.f, fit.p) == pytest.approx(expected, rel=1e-9)
    ours = sweep.regressions()
    assert ours.first == pytest.approx(fit.first) and ours.both < fit.both - 0.2  # one slope, and effects of at most 1


def test_scores_are_the_programs():
    def reading(side):
        return {kind: [Candidates(Answer(p["target_new"], (1,), (1,)), Answer(p["true"], (2,), (1,))) for p in rows] for kind, rows in side.items()}

    for case in golden("scores")["cases"]:
        before, after = reading(case["pre"]), reading(case["post"])
        for erase, name in ((False, "write"), (True, "erase")):
            assert hase_scores(before, after, variant="hase2023", erase=erase) == pytest.approx(case[name], rel=1e-12)
        scores = case_scores(before, after)
        assert scores["hase2023_paraphrase"] == pytest.approx(100 * case["write"]["paraphrase"], rel=1e-12)
        assert scores["hase2023_erasure"] == pytest.approx(100 * case["erase"]["rewrite"], rel=1e-12, abs=1e-12)
        assert scores["hase_paraphrase"] != pytest.approx(scores["hase2023_paraphrase"], rel=0.01)  # all prompts, not clipped


@pytest.fixture(scope="module")
def without_bos():
    model = load_first_factlm(dtype=torch.float64)
    model.cfg.default_prepend_bos = False
    return model


@pytest.mark.parametrize("number", range(8))
def test_values_are_the_programs(without_bos, number):
    """Eight runs: ROME's value and MEMIT's, writing, erasing and forcing, of three target tokens and of one."""
    numbers = golden("values")
    run, layer = numbers["runs"][number], numbers["layer"]
    site = output_hook(without_bos, layer) if run["site"] == "mlp" else block_output(layer)
    noise = tlk.GaussianNoise(numbers["sd"], variant="meng2022_code") if run["forcing"] else None
    objective = tlk.editing.Objective(erase=run["erase"], noise=noise, variant="hase2023")
    fact = tlk.Fact(numbers["subject"], numbers["template"], run["target"])
    rows = rows_of(without_bos, fact, numbers["contexts"], "subject", objective)
    (value,) = optimise_values(without_bos, [rows], layer, site, ValueSettings(steps=numbers["steps"]))
    assert value.losses == pytest.approx(run["losses"], rel=1e-9)
    assert value.delta[:4].tolist() == pytest.approx(run["delta"], rel=1e-7) and float(value.delta.norm()) == pytest.approx(run["norm"], rel=1e-9)
    assert value.start[:2].tolist() == pytest.approx(run["start"], rel=1e-9)
    if run["site"] == "mlp":
        keys, _ = keys_and_outputs(without_bos, rows, layer, site)
        assert keys.mean(0)[:3].tolist() == pytest.approx(run["key"], rel=1e-9)


def test_facts_under_fresh_noise_get_together_what_they_get_alone(without_bos):
    """Each fact has its own stream, and its own positions."""
    objective = tlk.editing.Objective(noise=tlk.GaussianNoise(0.4, variant="meng2022_code"), variant="hase2023")
    facts, templates = [case.rewrite for case in tlk.load_edit_cases()[:3]], ("{}", "It rained. {}")
    rows = [rows_of(without_bos, fact, templates, "subject", objective) for fact in facts]
    site, settings = output_hook(without_bos, 3), ValueSettings(steps=4)
    together = optimise_values(without_bos, rows, 3, site, settings)
    for one, value in zip(rows, together, strict=True):
        (alone,) = optimise_values(without_bos, [one], 3, site, settings)
        assert value.losses == pytest.approx(alone.losses, rel=1e-9)
        torch.testing.assert_close(value.delta, alone.delta, rtol=1e-7, atol=1e-9)
    assert len({tuple(value.losses) for value in together}) == 3
