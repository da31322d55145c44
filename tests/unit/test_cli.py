"""The command line, as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import tl_knowledge as tlk
from tl_knowledge.cli import app
from tl_knowledge.errors import InputError, SubjectNotFoundError, TLKnowledgeError

PROMPT = ["The capital of France is", "--subject", "France"]
runner = CliRunner()


def run(*arguments: str):
    return runner.invoke(app, list(arguments), catch_exceptions=False)


def test_trace_without_arguments_traces_a_known_fact_six_ways():
    result = run("trace", "--json", "--samples", "2")
    found = json.loads(result.stdout)
    assert result.exit_code == 0
    assert found["known"] is True
    assert [(t["corrupted"], t["component"]) for t in found["traces"]] == [
        (span, part) for part in ("resid_post", "mlp_out", "attn_out") for span in ("subject", "relation")
    ]
    assert all(t["total_effect"] > 0.3 for t in found["traces"])


def test_trace_prints_a_table_and_writes_a_page(tmp_path):
    page = tmp_path / "deep" / "trace.html"
    result = run("trace", *PROMPT, "--target", " Paris", "--corrupt", "subject", "--component", "mlp_out", "--sever", "attn_out", "--out", str(page))
    assert result.exit_code == 0
    assert "The capital of France is Paris" in result.stdout
    assert "severed" in result.stdout and "page written to" in result.stdout
    assert "Plotly.newPlot" in page.read_text(encoding="utf-8")


def test_options_reach_the_trace():
    options = ["--corrupt", "relation", "--component", "attn_out", "--window", "3", "--samples", "2", "--noise", "0.5", "--seed", "7"]
    found = json.loads(run("trace", *PROMPT, *options, "--json").stdout)
    assert (found["traces"][0]["window"], found["traces"][0]["corrupted"]) == (3, "relation")
    assert found["provenance"]["seed"] == 7 and "sd=0.5" in found["provenance"]["settings"]["noise"]


FEW = ["--relation", "P36", "--limit", "6", "--samples", "1", "--component", "mlp_out"]


def test_trace_facts_prints_averages_and_writes_a_page_a_table_and_a_store(tmp_path):
    page, table, store = tmp_path / "page.html", tmp_path / "averages.csv", tmp_path / "store"
    result = run(
        "trace-facts", *FEW, "--component", "resid_post", "--sever", "mlp_out", "--out", str(page), "--table", str(table), "--store", str(store)
    )
    assert result.exit_code == 0
    assert "6 facts" in result.stdout and "last subject token" in result.stdout and "page written to" in result.stdout
    assert page.read_text(encoding="utf-8").count("Plotly.newPlot") == 4
    assert table.read_text().startswith("corrupt,component,severed,window,role,layer,effect,low,high,facts,tokens")
    assert [path.name for path in sorted(store.iterdir())] == ["part-00000.parquet", "run.json"]


def test_trace_facts_from_a_file_as_json(tmp_path):
    rows = [{"subject": "France", "attribute": answer, "prompt": "The capital of France is"} for answer in ("Paris", "Oslo")]
    (tmp_path / "known.json").write_text(json.dumps(rows))
    options = ["--dataset", "known_1000", "--source", str(tmp_path / "known.json"), "--corrupt", "relation", "--samples", "1", "--json"]
    found = json.loads(run("trace-facts", *options).stdout)
    assert (found["facts"], found["asked"], found["sides"]) == (1, 2, [])
    assert found["skipped"] == {"1": "not known: the model predicts ' Paris'"}
    assert found["total_effects"][0]["corrupt"] == "relation"


def test_neurons_of_one_fact(tmp_path):
    wordings = ["The capital of France is", "France, whose capital is"]
    options = ["--target", " Paris", "--steps", "5", "--out", str(tmp_path / "page.html"), "--save", str(tmp_path / "set")]
    printed = run("neurons", *wordings, *options).stdout
    neurons = tlk.NeuronSet.load(tmp_path / "set.json")
    assert f"{len(neurons)} neurons shared by 2 wordings" in printed and "P(answer) of every wording" in printed
    assert (tmp_path / "page.html").read_text(encoding="utf-8").count("Plotly.newPlot") == 1
    found = json.loads(run("neurons", *wordings, *options[:4], "--factor", "0", "--json").stdout)
    assert {(row["layer"], row["neuron"]) for row in found["neurons"]} == neurons.neurons
    assert set(found["effects"][0]) == {"prompt", "clean", "x 0", "random x 0"}


def test_neurons_of_a_fact_set(tmp_path):
    options = ["--limit", "8", "--steps", "3", "--seed", "1"]
    printed = run("neurons", *options, "--out", str(tmp_path / "page.html"), "--save", str(tmp_path / "located")).stdout
    located = tlk.neurons.LocatedNeurons.load(tmp_path / "located")
    assert "8 facts on factlm" in printed and "random control" in printed and len(located.sets) == 8
    assert (tmp_path / "page.html").read_text(encoding="utf-8").count("Plotly.newPlot") == 4
    found = json.loads(run("neurons", *options, "--json").stdout)
    assert [len(fact["neurons"]) for fact in found["facts"]] == [len(neurons) for neurons in located.sets]
    assert set(found["effects"]) == {"0", "2"} and len(found["layers"]) == 8


@pytest.mark.parametrize(
    ("arguments", "message"), [(["The capital of France is"], "no answer was given"), (["--target", " Paris"], "--target belongs to wordings")]
)
def test_neurons_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(InputError, match=message):
        run("neurons", *arguments)


def test_moments_are_written_and_kept(tmp_path):
    options = ["--layer", "0", "--tokens", "600", "--cache", str(tmp_path / "kept")]
    printed = run("moments", str(tmp_path / "m.safetensors"), *options).stdout
    assert "condition number" in printed and "moments written to" in printed
    found = json.loads(run("moments", str(tmp_path / "m.safetensors"), *options, "--json").stdout)
    assert [(row["layer"], row["tokens"]) for row in found["layers"]] == [(0, 600)] and tlk.KeyMoments.load(found["path"]).tokens == 600
    assert [path.suffix for path in (tmp_path / "kept").iterdir()] == [".safetensors"]


EDIT = ["edit", PROMPT[0], "--subject", "France", "--target", " London"]


def test_edit_shows_before_and_after(tmp_path):
    printed = run(*EDIT, "--text", "The capital of Italy is", "--save", str(tmp_path / "edit")).stdout
    assert "before" in printed and "London" in printed and "perplexity" in printed
    edit = tlk.Edit.load(tmp_path / "edit")
    assert edit.layers == (0,) and edit.notes[0]["target"] == " London"
    found = json.loads(run(*EDIT, "--method", "memit", "--layer", "0", "--setting", "moment_weight=50", "--setting", "steps=5", "--json").stdout)
    assert found["texts"][0]["before"][0][0] == " Paris" and not found["health"]["disabling"]
    assert found["provenance"]["settings"]["moment_weight"] == 50 and found["provenance"]["settings"]["value"]["steps"] == 5


def test_report_writes_a_page_and_prints_the_circuits(tmp_path):
    page = tmp_path / "report.html"
    result = run("report", *PROMPT, "--target", " Paris", "--samples", "2", "--out", str(page))
    assert result.exit_code == 0 and "faithfulness" in result.stdout and "relation" in result.stdout
    assert "The capital of France is" in page.read_text(encoding="utf-8")


def test_report_of_an_edit_as_json(tmp_path):
    page = tmp_path / "report.html"
    result = run("report", *PROMPT, "--edit-to", " London", "--layer", "0", "--samples", "2", "--out", str(page), "--json")
    found = json.loads(result.stdout)
    assert found["target"] == " Paris" and found["circuits"]["edit (log P)"]["faithfulness"] > 0.5
    assert "What an edit changes: Paris to London" in page.read_text(encoding="utf-8")


def test_report_needs_the_subject_once():
    with pytest.raises(InputError, match="stands 0 times"):
        run("report", "The capital of France is", "--subject", "Spain")


def test_evaluate_scores_methods_side_by_side(tmp_path):
    options = ["--method", "ft", "--method", "cne", "--limit", "2", "--store", str(tmp_path / "runs")]
    table, page = tmp_path / "scores.tex", tmp_path / "page.html"
    printed = run("evaluate", *options, "--table", str(table), "--out", str(page)).stdout
    assert "2 cases on factlm" in printed and "unedited" in printed
    assert "\\begin{tabular}" in table.read_text() and page.read_text(encoding="utf-8").count("Plotly.newPlot") == 3
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["cne", "ft"]
    found = json.loads(run("evaluate", *options, "--json").stdout)
    assert found["cases"] == 2 and set(found["scores"]) == {"unedited", "ft", "cne"} and found["scores"]["unedited"]["ES"]["mean"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["edit", PROMPT[0], "--subject", "Spain", "--target", " London"], "stands 0 times"),
        ([*EDIT, "--method", "magic"], "method 'magic' is unknown"),
        ([*EDIT, "--setting", "steps"], "setting 'steps' is not understood"),
        ([*EDIT, "--layer", "0", "--layer", "1"], "edits one layer, not 2"),
        ([*EDIT, "--corpus", "nowhere.txt"], "cannot read 'nowhere.txt' as text"),
        (["evaluate", "--dataset", "known_1000"], "has no edit cases"),
        (["evaluate", "--limit", "0"], "limit=0 takes no case"),
        (["evaluate", "--table", "scores.doc"], "has no known form"),
    ],
)
def test_editing_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(TLKnowledgeError, match=message):
        run(*arguments)


def test_info():
    found = json.loads(run("info", "--json").stdout)
    assert found["bundled_models"]["factlm"]["facts"] >= 1500
    assert "transformer-lens" in found["versions"]
    assert "factlm" in run("info").stdout


def test_our_errors_pass_through_the_app():
    with pytest.raises(SubjectNotFoundError, match="'Spain' does not occur"):
        run("trace", PROMPT[0], "--subject", "Spain")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([PROMPT[0], "--subject", "Spain"], "SubjectNotFoundError: subject 'Spain' does not occur"),
        ([PROMPT[0]], "pass --subject"),
        ([*PROMPT, "--window", "wide"], "window 'wide' is no number of layers"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(arguments, message):
    done = subprocess.run([sys.executable, "-m", "tl_knowledge", "trace", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
