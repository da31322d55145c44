"""The commands of the published questions: what they print is what the functions return."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pytest
from typer.testing import CliRunner

import tl_knowledge as tlk
from tl_knowledge.cli import app
from tl_knowledge.errors import InputError

pytestmark = pytest.mark.slow  # the functions themselves are tested with every TransformerLens

FT = ["--method", "ft:steps=2"]
CASES = tlk.load_edit_cases()
runner = CliRunner()


def run(*arguments: str):
    result = runner.invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def data_of(*arguments: str):
    return json.loads(run(*arguments, "--json").stdout)


def assert_rows(rows, expected: pd.DataFrame):
    """JSON has ``null`` for what is no number."""
    pd.testing.assert_frame_equal(pd.DataFrame(rows).astype(expected.dtypes), expected.reset_index(drop=True))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A file of few texts for the key moments."""
    path = tmp_path_factory.mktemp("corpus") / "texts.txt"
    path.write_text("\n".join(tlk.load_corpus()[:200]), encoding="utf-8")
    return str(path)


@pytest.fixture
def method(factlm):
    return replace(tlk.FineTune.for_model(factlm), steps=2)


def test_growth(factlm, method, tmp_path):
    page, table, store = tmp_path / "page.html", tmp_path / "growth.csv", tmp_path / "run"
    options = ["growth", *FT, "--size", "1", "--size", "3", "--store", str(store)]
    printed = run(*options, "--out", str(page), "--table", str(table), "--no-progress").stdout
    assert "ft:steps=2 with 1, 3 edits at once" in printed and "table written to" in printed
    expected = tlk.evaluation.measure_growth(factlm, CASES[:3], {"ft:steps=2": method}, [1, 3], progress=False)
    assert_rows(data_of(*options)["rows"], expected.table)
    pd.testing.assert_frame_equal(pd.read_csv(table), expected.table, rtol=1e-6)
    assert "What is left of the edits" in page.read_text(encoding="utf-8") and len(list(store.glob("part-*"))) == 2


def test_growth_takes_powers_of_ten():
    assert [row["edits"] for row in data_of("growth", *FT, "--limit", "2", "--protocol", "batch")["summary"]] == [1, 2]


def test_sweep(factlm, method, tmp_path):
    page = tmp_path / "page.html"
    options = ["sweep", *FT, "--limit", "3", "--layer", "0", "--layer", "4", "--samples", "1", "--window", "3", "--seed", "2"]
    data = data_of(*options, "--problem", "fact_amplification", "--problem", "error_injection", "--out", str(page))
    moved = tlk.localised.move_method(factlm, method, layers=[0, 4])
    sweeps = [
        tlk.localised.sweep_layers(factlm, CASES[:3], moved, problem=problem, layers=[0, 4], samples=1, window=3, seed=2, progress=False)
        for problem in ("fact_amplification", "error_injection")
    ]
    assert_rows(data["rows"], tlk.localised.compare_sweeps(*sweeps, names=("ft:steps=2",) * 2).table)
    assert page.read_text(encoding="utf-8").count('drawFigure("figure-') == 5


def test_a_sweep_moves_methods_of_several_layers(corpus):
    with pytest.raises(InputError, match="chooses its layers itself"):
        run("sweep", "--method", "cne", "--limit", "1")
    quick = "memit:contexts=[[3, 2]],steps=2"
    data = data_of("sweep", "--method", quick, "--limit", "3", "--layer", "0", "--layer", "1", "--samples", "1", "--corpus", corpus)
    assert [row["method"] for row in data["summary"]] == [quick] and data["summary"][0]["facts"] == 3


def test_blimp(factlm, tmp_path):
    page = tmp_path / "page.html"
    options = ["blimp", "--limit", "8", "--steps", "4", "--threshold", "0.3", "--factor", "2", "--by", "determiner"]
    printed = run(*options, "--out", str(page), "--no-progress").stdout
    assert "minimal pairs decided rightly" in printed and "neurons: this" in printed
    pairs = tlk.datasets.load_blimp(tlk.datasets.BLIMP_SAMPLE, paradigm="determiner_noun_agreement_1", limit=8)
    by = tlk.neurons.determiner
    located = tlk.locate_neurons(factlm, tlk.neurons.agreement_groups(factlm, pairs, by=by), threshold=0.3, steps=4, progress=False)
    expected = tlk.neurons.measure_reliability(factlm, pairs, located, by=by, factor=2.0, progress=False)
    assert_rows(data_of(*options)["rows"], expected.table)
    assert page.read_text(encoding="utf-8").count('drawFigure("figure-') == 2


def test_perturb(factlm, tmp_path):
    page = tmp_path / "page.html"
    options = ["perturb", "--relation", "P36", "--limit", "5", "--samples", "2", "--noise", "1subject-sd", "--out", str(page)]
    data = data_of(*options)
    facts = tlk.sample_facts(tlk.known_facts(factlm, tlk.datasets.of_relation(tlk.load_facts(), "P36"), progress=False), 5, seed=0)
    sd = tlk.tracing.subject_embedding_sd(factlm, [fact.subject for fact in facts])
    assert_rows(data["rows"], tlk.tracing.perturb_embeddings(factlm, facts, sd, samples=2, progress=False).table)
    assert 'drawFigure("figure-' in page.read_text(encoding="utf-8")


def test_symmetry(factlm, method, tmp_path):
    page, table = tmp_path / "page.html", tmp_path / "scores.csv"
    data = data_of("symmetry", *FT, "--limit", "2", "--out", str(page), "--table", str(table))
    back = tlk.evaluation.INVERSE_TEMPLATES
    cases = [case for case in CASES if case.fact.relation in back][:2]
    measure = tlk.evaluation.symmetry_accuracies(tlk.load_facts(), reverse=back)
    scores = tlk.evaluate(factlm, cases, method, measures=measure, progress=False).scores
    assert len(measure.columns) == 7
    for name in measure.columns:
        assert data["scores"]["ft:steps=2"][name]["mean"] == pytest.approx(scores[name].mean), name
        assert name in table.read_text() and name in page.read_text(encoding="utf-8")


def test_perspectives(factlm, tmp_path):
    page = tmp_path / "page.html"
    options = ["perspectives", "--method", "ft", "--limit", "2", "--template", "{} and [object] are related by", "--out", str(page)]
    expected = tlk.localised.measure_relation_side(
        factlm, CASES[:2], relations=tlk.datasets.load_relations(), methods="ft", templates=["{} and [object] are related by"], progress=False
    )
    assert_rows(data_of(*options)["rows"], expected.table)
    assert 'drawFigure("figure-' in page.read_text(encoding="utf-8")


def test_categories(factlm, method):
    report = tlk.evaluate(factlm, CASES[:4], method, progress=False)
    expected = tlk.evaluation.compare_categories(report, names=("ft:steps=2",), interval="meng2022_code")
    assert_rows(data_of("categories", *FT, "--limit", "4", "--interval", "meng2022_code")["rows"], expected.table)


def test_layer_ranges(corpus):
    quick = ["--setting", "contexts=[[3, 2]]", "--setting", "steps=3", "--corpus", corpus, "--limit", "2"]
    data = data_of("layer-ranges", "--range", "0", "--range", "0-1", *quick)
    assert [row["layers"] for row in data["summary"]] == ["0", "0-1"] and set(data["summary"][0]) == {"layers", "S", "ES", "PS", "NS"}
    with pytest.raises(InputError, match="edits no range of layers"):
        run("layer-ranges", "--range", "0", "--method", "rome", "--limit", "1")


def test_evaluate_with_measures(factlm, method, tmp_path):
    """The options are the calls: the same questions, the same numbers, and a figure more on the page."""
    page, table = tmp_path / "page.html", tmp_path / "scores.csv"
    measures = ["--measures", "extraction", "--measures", "subject-facts", "--measures", "multi-hop", "--measures", "ripples"]
    options = ["evaluate", *FT, "--dataset", "factlm_chains", "--limit", "2", *measures]
    data = data_of(*options, "--out", str(page), "--table", str(table))
    e, known = tlk.evaluation, {"facts": tlk.load_facts(), "relations": tlk.datasets.load_relations(), "reverse": tlk.evaluation.INVERSE_TEMPLATES}
    cases = tlk.datasets.with_ripples(tlk.datasets.chained_edit_cases(**known, limit=2), **known)
    asked = [e.subject_facts(known["facts"]), e.ripple_scores(), e.multi_hop_scores(), e.ExtractionAttacks()]
    scores = tlk.evaluate(factlm, cases, method, measures=asked, progress=False).scores
    for name in ("subject_kept", "ripple", "ripple_compositionality_1", "single_hop", "multi_hop", "extracted", "old_rank"):
        assert data["scores"]["ft:steps=2"][name] == pytest.approx(vars(scores[name]), nan_ok=True), name
        assert name in table.read_text() and name in page.read_text(encoding="utf-8")
    assert data["scores"]["ft:steps=2"]["ripple_forgetfulness"]["cases"] == 0 and "ripple_forgetfulness" not in table.read_text()
    text = page.read_text(encoding="utf-8")
    assert "2 cases" in text and "95% bootstrap over cases" in text and text.count('drawFigure("figure-') == 3


def test_measures_of_the_public_files(tmp_path):
    source = tmp_path / "MQuAKE-CF-3k.json"
    rewrite = {"prompt": "The capital of {} is", "target_new": {"str": "Rome"}, "target_true": {"str": "Paris"}, "subject": "France"}
    hops = [{"cloze": "The capital of France is", "answer": "Rome"}, {"cloze": "Rome is in the country of", "answer": "Italy"}]
    row = {"requested_rewrite": [rewrite], "questions": ["Where is the capital of France?"], "answer": "France", "new_answer": "Italy"}
    source.write_text(json.dumps([row | {"new_single_hops": hops}]))
    data = data_of("evaluate", "--method", "ft", "--dataset", "mquake", "--source", str(source), "--measures", "multi-hop", "--measures", "ability")
    assert data["cases"] == 1 and {"single_hop", "multi_hop", "blimp"} <= set(data["scores"]["ft"]) and data["scores"]["ft"]["ES"]["mean"] == 100
    assert data["scores"]["ft"]["next_token_KL"]["cases"] == 0  # no facts about anybody else


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--measures", "multi-hop"], "multi-hop has nothing to ask of these 3 cases of 'factlm'; pass --dataset factlm_chains"),
        (["--measures", "portability", "--dataset", "factlm_chains"], "portability has nothing to ask"),
        (["--measures", "ripple"], "measures 'ripple' is unknown, did you mean 'ripples'"),
        (["--dataset", "mquake"], "data set 'mquake' has no default source; pass its file as --source"),
        (["--dataset", "factlm_chains", "--source", "x.json"], "is bundled and takes no source"),
    ],
)
def test_measures_that_do_not_fit(options, message):
    with pytest.raises(InputError, match=message):
        run("evaluate", "--limit", "3", *options)


def test_report_with_measures(tmp_path):
    page = tmp_path / "report.html"
    prompt = ["report", "The capital of France is", "--subject", "France", "--target", " Paris"]
    edited = ["--edit-to", " London", "--method", "ft", "--samples", "1", "--limit", "4", "--out", str(page)]
    run(*prompt, *edited, "--measures", "subject-facts", "--measures", "ripples", "--measures", "extraction", "--no-progress")
    text = page.read_text(encoding="utf-8")
    assert "What this edit moved" in text and "France has the official language" in text and "old_rank" in text
    with pytest.raises(InputError, match="--measures belong to an edit"):
        run(*prompt, "--measures", "subject-facts")
    with pytest.raises(InputError, match="which have it in 0 relations"):
        run("report", "The capital of Atlantis is", "--subject", "Atlantis", "--target", " Paris", *edited, "--measures", "ripples")
