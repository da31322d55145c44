"""Published experiments: the registry, the pipeline of every one of them on FactLM, going on after a kill, rehearsals and plans."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.killed import kill_once, run_here
from typer.testing import CliRunner

import tl_knowledge as tlk
import tl_knowledge.evaluation.driver as evaluation_driver
from tl_knowledge.cli import app
from tl_knowledge.published import EXPERIMENTS
from tl_knowledge.published.driver import factlm_rows
from tl_knowledge.published.experiment import printed

FAST = ("meng2022-figure1", "meng2022-figure3", "wei2024-figure2", "wen-bai-figure5", "wen-bai-section5.4", "wen-bai-table2", "dai2022-table3")
SLOW = ("meng2022-table1", "meng2023-table2", "fang2025-table1", "niu2024-symmetry", "wen-bai-figure4")


def reproduce(name: str, **arguments):
    return tlk.published.reproduce("factlm", name, progress=False, **arguments)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_says_where_it_is_from_and_has_rows_of_factlm(name):
    experiment = EXPERIMENTS[name]
    assert experiment.source and experiment.title and experiment.cases
    assert set(experiment.expected) <= set(experiment.cases)
    rows = factlm_rows()[name]
    assert rows["cases"] == experiment.factlm_cases and rows["rows"]
    assert all(np.isfinite(value) for _, _, value in rows["rows"])


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_papers_rows_have_the_names_of_ours(name):
    """What a paper prints stands beside a number of ours, or the experiment says why there is none."""
    experiment = EXPERIMENTS[name]
    ours = {(row, column) for row, column, _ in factlm_rows()[name]["rows"]}
    columns = {column for _, column in ours} | {"GE", "RS"}  # FactLM's cases have no beginnings to go on from
    rows = {row for row, _ in ours} | set(experiment.without)
    for values in experiment.expected.values():
        for value in values:
            assert value.column in columns, value
            of_data = value.row.startswith(("P1", "dna_", "det_n_agr_2"))  # relations and paradigms that FactLM is not asked about
            assert value.row in rows or of_data, value


@pytest.mark.parametrize("name", FAST)
def test_factlm_gives_its_committed_rows(name):
    """The whole of FactLM's own run: other machines round otherwise, so near, not equal."""
    made = reproduce(name)
    both = made.compared
    assert made.settings.compared_with == "FactLM's own rows"
    assert len(both) == len(factlm_rows()[name]["rows"])
    np.testing.assert_allclose(both["ours"], both["theirs"], rtol=0.02, atol=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_the_pipeline_runs_on_a_few_cases(name):
    made = reproduce(name, limit=2)
    assert made.settings.cases == 2
    assert made.table["ours"].notna().any()


def test_a_table_as_a_paper_prints_it():
    values = printed("row | ES | NS\nROME | 99.8 (0.1) | -\nKN | -3.4 | 7")
    assert [(v.row, v.column, v.value, v.half_width) for v in values] == [
        ("ROME", "ES", 99.8, 0.1),
        ("KN", "ES", -3.4, None),
        ("KN", "NS", 7.0, None),
    ]
    for wrong in ("row | ES\nROME | 1 | 2", "row | ES\nROME | high"):
        with pytest.raises(tlk.errors.InputError):
            printed(wrong)


def test_numbers_of_a_model_stand_beside_that_model_only():
    other = tlk.published.rehearse("meng2022-figure1", shape="gpt2", layers=1, limit=1, progress=False)
    assert other.provenance.model == "random-1-of-12-layers/gpt2"
    assert reproduce("meng2022-figure1").settings.compared_with == "FactLM's own rows"


def test_a_plan_fetches_nothing_and_reckons_by_a_pace():
    plan = tlk.published.plan_reproduction("meng2022-table4", shape="gpt2-xl", limit=100)
    said = plan.table.set_index("what")["value"]
    assert plan.cases == 100 and np.isnan(plan.hours)
    assert "azhx/counterfact" in said["data"] and "GiB" in said["weights"] and "KE" in said["rows without an editor here"]
    pace = tlk.published.rehearse("meng2022-figure1", shape="gpt2", layers=1, limit=1, progress=False)
    reckoned = tlk.published.plan_reproduction("meng2022-figure1", shape="gpt2-xl", pace=pace)
    seconds = float(pace.table.set_index("step").loc["all", "seconds"])
    assert reckoned.hours == pytest.approx(48 * seconds / 3600)


KILLED = """
import sys
import tl_knowledge as tlk
import tl_knowledge.evaluation.driver
tl_knowledge.evaluation.driver.CASES_PER_PART = 2
tlk.published.reproduce("factlm", sys.argv[1], store=sys.argv[2], limit=int(sys.argv[3]), progress=False)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "limit"), [("meng2022-figure2", 20), ("hase2023-table1", 3), ("meng2022-table1", 5)])
def test_a_run_that_was_killed_goes_on_to_the_same_bytes(name, limit, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation_driver, "CASES_PER_PART", 2)  # three parts an editor, as the program has it
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_here(KILLED, name, whole, limit)
    kill_once(KILLED, name, broken, limit, ready=lambda: bool(list(broken.rglob("part-*.parquet"))))
    run_here(KILLED, name, broken, limit)
    parts = sorted(path.relative_to(whole) for path in whole.rglob("part-*.parquet"))
    assert parts and parts == sorted(path.relative_to(broken) for path in broken.rglob("part-*.parquet"))
    assert all((whole / part).read_bytes() == (broken / part).read_bytes() for part in parts)


def test_the_command_shows_plans_rehearses_and_writes(tmp_path: Path):
    command = CliRunner()

    def said(*arguments: str) -> dict:
        done = command.invoke(app, ["reproduce", *arguments, "--json", "--no-progress"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    assert [row["name"] for row in said("--list")["experiments"]] == list(EXPERIMENTS)
    assert "cases" in said("meng2022-table4", "--plan", "--model", "gpt2-xl")["plan"]
    assert said("meng2022-figure1", "--rehearse", "--model", "gpt2", "--depth", "1", "--limit", "1")["peak_memory"] > 0
    made = said("meng2022-figure1", "--model", "factlm", "--store", str(tmp_path / "run"), "--table", str(tmp_path / "table.md"))
    assert made["compared_with"] == "FactLM's own rows"
    page = (tmp_path / "run" / "page.html").read_text(encoding="utf-8")
    assert "rows and ours" in page and "What is known to differ" in page
    assert len(pd.read_csv(tmp_path / "run" / "table.csv")) == len(made["rows"])
    assert (tmp_path / "table.md").read_text(encoding="utf-8").startswith("|")


def test_moments_of_another_model_need_a_corpus():
    from tl_knowledge.cli.methods import needed_corpus

    with pytest.raises(tlk.errors.InputError, match="--corpus"):
        needed_corpus(None, "gpt2")
    assert needed_corpus("wikitext", "gpt2") == "wikitext"
