"""The command line, as a user runs it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from support.places import FACTLM_LAYER
from typer.testing import CliRunner

import tl_knowledge as tlk
from tl_knowledge.cli import app
from tl_knowledge.errors import InputError

PROMPT = ["The capital of France is", "--subject", "France"]
EDIT = ["edit", PROMPT[0], "--subject", "France", "--target", " London"]
QUICK = ["--setting", "contexts=[[3, 2]]", "--setting", "steps=8"]
runner = CliRunner()


def run(*arguments: str):
    return runner.invoke(app, list(arguments), catch_exceptions=False)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A file of few texts: second moments and perplexity of all of FactLM's corpus take most of a command's time."""
    path = tmp_path_factory.mktemp("corpus") / "texts.txt"
    path.write_text("\n".join(tlk.load_corpus()[:300]), encoding="utf-8")
    return str(path)


def test_a_trace_in_another_metric_says_so():
    asked = (
        "--component",
        "mlp_out",
        "--corrupt",
        "subject",
        "--samples",
        "2",
        "--no-progress",
        "--metric",
        "logit_difference",
        "--against",
        " violin",
    )
    data = json.loads(run("trace", *asked, "--json").stdout)
    (trace,) = data["traces"]
    assert data["metric"].startswith("logit_difference against ' violin' [")
    assert trace["clean_score"] - trace["corrupted_score"] == pytest.approx(trace["total_effect"]) and trace["total_effect"] > 1
    assert "effects are in logit difference to ' violin'" in run("trace", *asked).stdout
    facts = run("trace-facts", "--limit", "2", "--component", "mlp_out", "--samples", "1", "--metric", "rank", "--json")
    assert json.loads(facts.stdout)["metric"] == "rank"


def test_trace_without_arguments_traces_a_known_fact_six_ways():
    result = run("trace", "--json", "--samples", "2")
    data = json.loads(result.stdout)
    assert result.exit_code == 0
    assert data["known"] is True
    assert [(t["corrupt"], t["component"]) for t in data["traces"]] == [
        (span, part) for part in ("resid_post", "mlp_out", "attn_out") for span in ("subject", "relation")
    ]
    assert all(t["total_effect"] > 0.3 for t in data["traces"])


def test_trace_prints_a_table_and_writes_a_page(tmp_path):
    page = tmp_path / "deep" / "trace.html"
    result = run("trace", *PROMPT, "--target", " Paris", "--corrupt", "subject", "--component", "mlp_out", "--sever", "attn_out", "--out", str(page))
    assert result.exit_code == 0
    assert "The capital of France is Paris" in result.stdout
    assert "severed" in result.stdout and "page written to" in result.stdout
    assert 'drawFigure("figure-' in page.read_text(encoding="utf-8")


def test_options_reach_the_trace():
    options = ["--corrupt", "relation", "--component", "attn_out", "--window", "3", "--samples", "2", "--noise", "0.5", "--seed", "7"]
    more = ["--layer", "2", "--layer", "3", "--sever", "mlp_out", "--variant", "meng2022_code", "--memory-budget", "1000000"]
    data = json.loads(run("trace", *PROMPT, *options, *more, "--json").stdout)
    (trace,) = data["traces"]
    assert (trace["window"], trace["corrupt"], trace["sever"]) == (3, "relation", ["mlp_out"])
    assert {row["layer"] for row in trace["top"]} == {2, 3}
    settings = data["provenance"]["settings"]
    assert data["provenance"]["seed"] == 7 and "sd=0.5" in str(settings["noise"]) and settings["variant"] == "meng2022_code"


FEW = ["--relation", "P36", "--limit", "6", "--samples", "1", "--component", "mlp_out"]


def test_trace_facts_prints_averages_and_writes_a_page_a_table_and_a_store(tmp_path):
    page, table, store = tmp_path / "page.html", tmp_path / "averages.csv", tmp_path / "store"
    result = run(
        "trace-facts", *FEW, "--component", "resid_post", "--sever", "mlp_out", "--out", str(page), "--table", str(table), "--store", str(store)
    )
    assert result.exit_code == 0
    assert "6 facts" in result.stdout and "last subject token" in result.stdout and "page written to" in result.stdout
    assert page.read_text(encoding="utf-8").count('drawFigure("figure-') == 4
    assert table.read_text().startswith("corrupt,component,severed,window,role,layer,effect,low,high,facts,tokens")
    assert [path.name for path in sorted(store.iterdir())] == [".lock", "part-00000.parquet", "run.json"]


def test_a_table_of_another_metric_says_which(tmp_path):
    assert run("trace-facts", *FEW, "--metric", "kl", "--table", str(tmp_path / "kl.csv")).exit_code == 0
    assert set(pd.read_csv(tmp_path / "kl.csv")["metric"]) == {"kl"}
    assert run("trace-facts", *FEW, "--table", str(tmp_path / "probability.csv")).exit_code == 0
    assert "metric" not in pd.read_csv(tmp_path / "probability.csv")


def test_trace_facts_takes_every_component_that_the_function_takes(tmp_path):
    """A state inside a block and heads together; heads alone, which have no sides to compare; few neurons, of one layer."""
    few = ["--relation", "P36", "--limit", "6", "--samples", "1", "--layer", "4"]
    data = json.loads(run("trace-facts", *few, "--component", "resid_pre", "--component", "z", "--json").stdout)
    units = {part: {row["unit"] for row in data["averages"] if row["component"] == part} for part in ("resid_pre", "z")}
    assert units == {"resid_pre": {None}, "z": set(range(tlk.load_model("factlm").cfg.n_heads))}
    assert {row["component"] for row in data["sides"]} == {"resid_pre"}
    page = tmp_path / "page.html"
    alone = run("trace-facts", *few, "--component", "head", "--out", str(page))
    assert alone.exit_code == 0 and ", head " in alone.stdout and page.read_text(encoding="utf-8").count('drawFigure("figure-') == 1
    assert json.loads(run("trace-facts", *few, "--component", "pattern", "--json").stdout)["sides"] == []


def test_trace_facts_from_a_file_as_json(tmp_path):
    rows = [{"subject": "France", "attribute": answer, "prompt": "The capital of France is"} for answer in ("Paris", "Oslo")]
    (tmp_path / "known.json").write_text(json.dumps(rows))
    options = ["--dataset", "known_1000", "--source", str(tmp_path / "known.json"), "--corrupt", "relation", "--samples", "1", "--json"]
    data = json.loads(run("trace-facts", *options).stdout)
    assert (data["facts"], data["given"], data["sides"]) == (1, 2, [])
    assert data["skipped"] == {"1": "not known: the model predicts ' Paris'"}
    assert data["total_effects"][0]["corrupt"] == "relation"


def test_neurons_of_one_fact(tmp_path):
    wordings = ["The capital of France is", "France, whose capital is"]
    options = ["--target", " Paris", "--steps", "5", "--out", str(tmp_path / "page.html"), "--save", str(tmp_path / "set")]
    printed = run("neurons", *wordings, *options).stdout
    neurons = tlk.NeuronSet.load(tmp_path / "set.json")
    assert f"{len(neurons)} neurons shared by 2 wordings" in printed and "P(answer) of every wording" in printed
    assert (tmp_path / "page.html").read_text(encoding="utf-8").count('drawFigure("figure-') == 1
    data = json.loads(run("neurons", *wordings, *options[:4], "--factor", "0", "--json").stdout)
    assert {(row["layer"], row["neuron"]) for row in data["neurons"]} == neurons.neurons
    assert set(data["effects"][0]) == {"prompt", "clean", "x 0", "random x 0"}


def test_neurons_of_a_fact_set(tmp_path):
    options = ["--relation", "P36", "--relation", "P37", "--limit", "4", "--steps", "2", "--seed", "1"]
    printed = run("neurons", *options, "--factor", "0", "--out", str(tmp_path / "page.html"), "--save", str(tmp_path / "located")).stdout
    located = tlk.neurons.LocatedNeurons.load(tmp_path / "located")
    assert "4 facts on factlm" in printed and "random control" in printed and len(located.sets) == 4
    assert set(located.relations) == {"P36", "P37"}
    assert (tmp_path / "page.html").read_text(encoding="utf-8").count('drawFigure("figure-') == 3
    data = json.loads(run("neurons", *options, "--json").stdout)
    assert [len(fact["neurons"]) for fact in data["facts"]] == [len(neurons) for neurons in located.sets]
    assert set(data["effects"]) == {"0", "2"} and len(data["layers"]) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["The capital of France is"], "no answer was given"),
        (["--target", " Paris"], "--target belongs to wordings"),
        (["The capital of France is", "--target", " Paris", "--at", "subject"], "--at belongs to a fact set"),
        (["--threshold", "2"], "threshold=2.0 does not fit kind 'max'"),
    ],
)
def test_neurons_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(InputError, match=message):
        run("neurons", *arguments)


def test_moments_are_written_and_kept(tmp_path):
    options = ["--layer", "0", "--tokens", "600", "--store", str(tmp_path / "kept")]
    printed = run("moments", str(tmp_path / "m.safetensors"), *options).stdout
    assert "condition number" in printed and "moments written to" in printed
    data = json.loads(run("moments", str(tmp_path / "m.safetensors"), *options, "--json").stdout)
    assert [(row["layer"], row["tokens"]) for row in data["layers"]] == [(0, 600)] and tlk.KeyMoments.load(data["path"]).tokens == 600
    assert sorted(path.suffix for path in (tmp_path / "kept").iterdir()) == [".lock", ".safetensors"]


def test_edit_shows_before_and_after(tmp_path, corpus):
    printed = run(*EDIT, "--text", "The capital of Italy is", "--save", str(tmp_path / "edit"), "--corpus", corpus, *QUICK).stdout
    assert "before" in printed and "London" in printed and "perplexity" in printed and "edit written to" in printed
    edit = tlk.Edit.load(tmp_path / "edit")
    assert edit.layers == (FACTLM_LAYER,) and edit.notes[0]["target"] == " London"
    options = ["--method", "memit", "--layer", str(FACTLM_LAYER), "--setting", "moment_weight=50", "--corpus", corpus, *QUICK]
    data = json.loads(run(*EDIT, *options, "--json").stdout)
    assert data["texts"][0]["before"][0][0] == " Paris" and not data["health"]["disabling"]
    assert data["provenance"]["settings"]["moment_weight"] == 50 and data["provenance"]["settings"]["value"]["steps"] == 8


def test_report_writes_a_page_and_prints_the_circuits(tmp_path):
    page = tmp_path / "report.html"
    result = run("report", *PROMPT, "--target", " Paris", "--limit", "6", "--samples", "1", "--out", str(page))
    assert result.exit_code == 0 and "faithfulness" in result.stdout and "relation" in result.stdout
    assert "The capital of France is" in page.read_text(encoding="utf-8")


def test_report_of_an_edit_as_json(tmp_path, corpus):
    page = tmp_path / "report.html"
    edit = ["--edit-to", " London", "--layer", str(FACTLM_LAYER), "--corpus", corpus, *QUICK]
    result = run("report", *PROMPT, *edit, "--limit", "6", "--samples", "1", "--out", str(page), "--json")
    data = json.loads(result.stdout)
    assert data["target"] == " Paris" and data["circuits"]["edit (log P)"]["faithfulness"] > 0.5
    assert "What an edit changes: Paris to London" in page.read_text(encoding="utf-8")


def test_evaluate_scores_methods_side_by_side(tmp_path):
    options = ["--method", "ft", "--method", "cne", "--limit", "2", "--store", str(tmp_path / "runs")]
    table, page = tmp_path / "scores.tex", tmp_path / "page.html"
    printed = run("evaluate", *options, "--table", str(table), "--out", str(page)).stdout
    assert "2 cases on factlm" in printed and "unedited" in printed
    assert "\\begin{tabular}" in table.read_text() and page.read_text(encoding="utf-8").count('drawFigure("figure-') == 3
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["cne", "ft"]
    data = json.loads(run("evaluate", *options, "--json").stdout)
    assert data["cases"] == 2 and set(data["scores"]) == {"unedited", "ft", "cne"} and data["scores"]["unedited"]["ES"]["mean"] == 0


def test_evaluate_gives_the_programs_intervals(tmp_path):
    options = ["--method", "ft", "--limit", "4", "--store", str(tmp_path / "runs"), "--interval", "meng2022_code"]
    printed = run("evaluate", *options).stdout
    assert "1.96 sd / sqrt(n) over cases" in printed and "bootstrap" not in printed
    data = json.loads(run("evaluate", *options, "--json").stdout)
    report = tlk.evaluate("factlm", tlk.load_edit_cases()[:4], tlk.FineTune.for_model("factlm"), progress=False)
    column = report.table["NS"]
    half = 1.96 * column.std(ddof=0) / 2
    assert data["interval"] == "meng2022_code" and half > 0
    assert data["scores"]["ft"]["NS"] == pytest.approx({"mean": column.mean(), "low": column.mean() - half, "high": column.mean() + half, "cases": 4})


def test_info():
    data = json.loads(run("info", "--json").stdout)
    assert data["bundled_models"]["factlm"]["facts"] >= 1500
    assert "transformer-lens" in data["versions"]
    assert "factlm" in run("info").stdout


def test_the_version():
    assert run("--version").stdout == f"tl-knowledge {tlk.__version__}\n"


TRAIN = ["--limit", "6", "--setting", "validate_every=4", "--setting", "steps=8", "--setting", "accumulate=2", "--setting", "validation_samples=2"]


def test_an_editor_is_trained_kept_and_evaluated(tmp_path, corpus):
    file, page = tmp_path / "mend.safetensors", tmp_path / "curve.html"
    options = [*TRAIN, "--setting", "rank=8", "--layer", "6", "--layer", "7", "--corpus", corpus]
    result = run("train", "mend", *options, "--store", str(tmp_path / "run"), "--save", str(file), "--out", str(page), "--json")
    data = json.loads(result.stdout)
    assert [row["step"] for row in data["curve"] if row["split"] == "validation"] == [4, 8] and Path(data["path"]) == file
    assert 'drawFigure("figure-' in page.read_text(encoding="utf-8")
    scores = json.loads(run("evaluate", "--method", f"mend:editor={file}", "--limit", "2", "--json").stdout)
    assert scores["cases"] == 2 and scores["provenance"][0]["settings"]["method_settings"]["editor"] == data["editor"]
    assert "MEND" in run(*EDIT, "--method", "mend", "--setting", f"editor={file}", "--setting", "scale=0.5", "--corpus", corpus).stdout.upper()
    for arguments, words in [
        (["evaluate", "--method", "mend"], "edits with trained networks, and these settings have none"),
        (["evaluate", "--method", f"ke:editor={file}"], "holds a trained MEND, not a KE"),
        (["evaluate", "--method", f"mend:editor={file},layers=[0,1]"], "trained with other layers"),
        (["evaluate", "--method", f"rome:editor={file}"], "setting 'editor' is unknown"),
        (["train", "rome", "--save", str(file)], "method 'rome' is unknown"),
    ]:
        with pytest.raises(InputError, match=re.escape(words)):
            run(*arguments)


def test_train_prints_the_curve(tmp_path, corpus):
    out = run("train", "ke", *TRAIN, "--setting", "hidden=8", "--layer", "7", "--corpus", corpus, "--save", str(tmp_path / "ke")).stdout
    assert "KE trained for 8 steps" in out and "validation" in out and "editor written to" in out and (tmp_path / "ke.safetensors").is_file()
