"""The metric object: its name says what it is, a caller's function is checked, and what cannot be known again is not stored."""

from __future__ import annotations

import functools
import json

import numpy as np
import pandas as pd
import pytest
import torch
from support import fingerprint, hooks_left

import tl_knowledge as tlk
from tl_knowledge import errors
from tl_knowledge.engine.batches import text_log_probabilities
from tl_knowledge.metrics import answer_log_probability, answer_logit, answer_probability, answer_rank, divergence_from, next_log_probabilities
from tl_knowledge.prompts.targets import target_tokens
from tl_knowledge.results.digest import function_digest
from tl_knowledge.results.packing import packed_fields, plain, unpack
from tl_knowledge.runs.metric import PROBABILITY, Metric
from tl_knowledge.runs.metric_arguments import resolve_metric
from tl_knowledge.runs.scoring import row_scores

FACTS = [fact for fact in tlk.load_facts("factlm") if fact.relation == "P36"][:2]
QUIET = {"samples": 2, "progress": False}
TOKEN = 5


def of_paris(logits):
    return logits[:, 5]


def test_a_function_of_equal_code_and_values_has_one_name():
    def made(token):
        return lambda logits: logits[:, token]

    assert made(5) is not made(5) and function_digest(made(5)) == function_digest(made(5))
    assert function_digest(made(5)) != function_digest(made(6))
    same, other = (eval(f"{blank}lambda logits: logits[:, {token}]") for blank, token in (("\n\n", 5), ("", 6)))
    assert function_digest(same) == function_digest(lambda logits: logits[:, 5]) != function_digest(other)  # wherever it stands
    held = torch.arange(3.0)
    weighed = [lambda logits, w=weights: logits @ w for weights in (held, held.clone(), held + 1)]
    assert function_digest(weighed[0]) == function_digest(weighed[1]) != function_digest(weighed[2])
    parts = [functools.partial(lambda logits, token: logits[:, token], token=token) for token in (1, 2)]
    assert function_digest(parts[0]) != function_digest(parts[1])
    assert Metric.of_function(of_paris).name == f"function of_paris [{function_digest(of_paris)}]"


def test_a_global_that_a_function_reads_is_part_of_it(monkeypatch):
    def reads(logits):
        return logits[:, TOKEN]

    before = function_digest(reads)
    monkeypatch.setitem(globals(), "TOKEN", 6)
    assert function_digest(reads) != before


def test_what_cannot_be_looked_into_never_has_a_name_twice():
    class Callable:
        def __call__(self, logits):
            return logits[:, 0]

    one = Callable()
    assert function_digest(one) != function_digest(one)


@pytest.mark.parametrize("metric", [PROBABILITY, Metric("kl"), Metric("logit_difference against ' [1]', 'b' [7, 11]", (7, 11))])
def test_a_metric_is_packed_as_its_name(metric):
    settings = tlk.neurons.AttributionSettings(metric=metric)
    assert plain(settings)["metric"] == metric.name and json.dumps(plain(settings))
    again = unpack(tlk.neurons.AttributionSettings, packed_fields(settings, {}), {})
    assert again == settings and again.metric.against == metric.against


def test_settings_of_files_without_a_metric_are_of_probabilities():
    fields = packed_fields(tlk.neurons.AttributionSettings(), {})
    del fields["metric"]
    assert unpack(tlk.neurons.AttributionSettings, fields, {}).metric == PROBABILITY


def test_a_fact_sets_settings_of_files_without_units_are_of_all(factlm):
    survey = tlk.trace_facts(factlm, FACTS[:1], components="mlp_out", layers=[0], **QUIET).settings
    fields = packed_fields(survey, {})
    del fields["units"], fields["metric"]
    assert unpack(type(survey), fields, {}) == survey


def test_a_function_does_not_come_back_from_a_file(gpt2, prompt, tmp_path):
    trace = tlk.trace(gpt2, prompt, 0.5, metric=of_paris, **QUIET)
    again = tlk.CausalTrace.load(trace.save(tmp_path / "trace"))
    assert again.settings == trace.settings and "of_paris" in again.provenance.settings["metric"]
    assert tlk.trace(gpt2, prompt, 0.5, metric=trace.settings.metric, **QUIET).settings == trace.settings
    with pytest.raises(errors.InputError, match="comes from a file, which holds no function"):
        tlk.trace(gpt2, prompt, 0.5, metric=again.settings.metric, **QUIET)


def test_ranks_and_logits_of_broken_rows_are_no_numbers():
    logits = torch.tensor([[[1.0, 3.0, 2.0]], [[1.0, torch.nan, 2.0]], [[1.0, -torch.inf, 2.0]]])
    for score in (answer_rank, answer_logit):
        values = score(logits, torch.tensor([[2]]))
        assert values.isnan().tolist() == [False, True, False]
    assert answer_rank(logits, torch.tensor([[2]]))[[0, 2]].tolist() == [1.0, 0.0]
    called = row_scores(Metric.of_function(lambda rows: rows[:, 0]), logits, torch.tensor([[2]]))
    assert called.isnan().tolist() == [False, True, False]


def test_a_divergence_counts_no_token_that_the_clean_run_excludes():
    clean = next_log_probabilities(torch.tensor([[[0.0, 0.0, -torch.inf]]]))
    run = torch.tensor([[[0.0, 0.0, -torch.inf]], [[0.0, 0.0, 0.0]]], requires_grad=True)
    found = divergence_from(clean, run)
    torch.testing.assert_close(found, torch.tensor([0.0, np.log(1.5)], dtype=found.dtype))
    (gradient,) = torch.autograd.grad(found.sum(), run)
    assert bool(gradient[:, :, :2].isfinite().all())


def test_halves_are_scored_in_single_precision():
    logits = torch.tensor([[[1.0, 300.0, 2.0]]], dtype=torch.bfloat16)
    for name in ("logit", "rank"):
        assert row_scores(Metric(name), logits, torch.tensor([[2]])).dtype == torch.float32


def test_a_function_may_write_on_what_it_is_given(gpt2, prompt):
    def greedy(logits):
        values = logits[:, 5].clone()
        logits.zero_()
        return values

    torch.testing.assert_close(
        tlk.trace(gpt2, prompt, 0.5, metric=greedy, **QUIET).indirect_effect,
        tlk.trace(gpt2, prompt, 0.5, metric="logit", **QUIET).indirect_effect,
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("call", ["trace", "screen", "attribute"])
def test_a_function_that_fails_leaves_the_model_as_it_was(gpt2, prompt, error, call):
    calls = iter(range(100))

    def fail(logits):
        if next(calls) == 2:
            raise error
        return logits[:, 5]

    before = fingerprint(gpt2)
    with pytest.raises(error):
        for _ in range(3):
            if call == "attribute":
                tlk.attribute_neurons(gpt2, prompt, steps=2, metric=fail, progress=False)
            else:
                tlk.trace(gpt2, prompt, 0.5, engine="rows" if call == "trace" else "screen", metric=fail, **QUIET)
    assert fingerprint(gpt2) == before and not hooks_left(gpt2)


def test_a_store_of_another_metric_is_refused(factlm, tmp_path):
    asked = {"components": "mlp_out", "layers": [0], "store": tmp_path / "run", **QUIET}
    first = tlk.trace_facts(factlm, FACTS, metric="kl", **asked)
    again = tlk.trace_facts(factlm, FACTS, metric="kl", **asked)
    np.testing.assert_array_equal(first.traces[0].effect, again.traces[0].effect)
    assert first.settings.metric.name == json.loads((tmp_path / "run" / "run.json").read_text())["settings"]["metric"] == "kl"
    for words in ({}, {"metric": "logit_difference", "against": " Rome"}):
        with pytest.raises(errors.DataError, match="a run with other metric"):
            tlk.trace_facts(factlm, FACTS, **words, **asked)


def test_other_answers_are_told_apart_in_a_store(factlm, tmp_path):
    asked = {"components": "mlp_out", "layers": [0], "store": tmp_path / "run", "metric": "logit_difference", **QUIET}
    tlk.trace_facts(factlm, FACTS, against=" Rome", **asked)
    with pytest.raises(errors.DataError, match="a run with other metric"):
        tlk.trace_facts(factlm, FACTS, against=" Oslo", **asked)


def test_a_fact_that_would_be_measured_against_itself_is_left_out(factlm):
    against = FACTS[0].target
    average = tlk.trace_facts(factlm, FACTS, components="mlp_out", layers=[0], metric="logit_difference", against=[against, " Rome"], **QUIET)
    assert list(average.skipped) == [0] and "measured against itself" in average.skipped[0]
    circuit = tlk.circuits.from_facts(factlm, FACTS, limit=2, metric="logit_difference", against=[against], **QUIET)
    assert list(circuit.skipped) == [0]


def test_a_fact_in_which_the_corruption_raises_the_metric_has_no_shares(factlm):
    def wrong_way(logits):
        return -logits.log_softmax(-1)[:, tokens].amax(-1)

    tokens = [target_tokens(factlm, fact.target)[0] for fact in FACTS]
    with pytest.raises(errors.DataError, match=r"does not lower wrong_way\(logits\) \(it rises by"):
        tlk.circuits.from_facts(factlm, FACTS, limit=2, metric=wrong_way, **QUIET)


def test_another_answers_texts_and_tokens_are_the_same(factlm):
    (paris,) = target_tokens(factlm, " Paris")
    text, token = (resolve_metric(factlm, "logit_difference", against) for against in (" Paris", [paris, paris]))
    assert text == token and text.against == (paris,) and text.name == f"logit_difference against ' Paris' [{paris}]"
    assert resolve_metric(factlm, text, None) == text
    assert Metric.from_word(text.name) == text and Metric.from_word(text.name).against == (paris,)


def test_figures_and_pages_say_the_metric(factlm):
    prompt, asked = tlk.Prompt.from_fact(factlm, FACTS[0]), {"component": "mlp_out", **QUIET}
    kl, logit = (tlk.trace(factlm, prompt, metric=metric, **asked) for metric in ("kl", "logit"))
    assert kl.plot().data[0].colorbar.title.text.replace("<br>", " ") == "indirect effect (fall of KL, nats)"
    assert "the negative KL from the clean run: clean 0 nats, corrupted -" in kl.headline()
    assert tlk.compare(kl, kl).plot().layout.meta["title"].startswith("What restores the negative KL from the clean run")
    page = tlk.tracing.trace_page([kl])
    assert "Effects are measured in kl" in page and "by how much the negative KL from the clean run rises" in page
    with pytest.raises(errors.ComponentError, match="measured in kl and logit; pass traces of one metric"):
        tlk.compare(kl, logit)
    with pytest.raises(errors.ComponentError, match="pass traces of one metric"):
        tlk.tracing.trace_page([kl, logit])
    average = tlk.trace_facts(factlm, FACTS, components="mlp_out", metric="rank", **QUIET)
    assert average.plot().layout.yaxis.title.text == "average indirect effect (ranks gained)"
    assert "(ranks gained)" in average.headline() and "the negative rank of the answer rises" in average.to_html()
    knockout = tlk.measure_attention_knockout(factlm, FACTS, metric="logit", progress=False)
    assert knockout.plot().layout.yaxis.title.text == "change of the logit of the answer, logits" and "logit" in knockout.headline()
    scores = tlk.attribute_neurons(factlm, prompt, steps=2, metric="log_probability", progress=False)
    assert (
        scores.plot().data[0].colorbar.title.text.replace("<br>", " ") == "score (log-probability, nats)"
        and "(log-probability, nats)" in scores.headline()
    )
    circuit = tlk.circuits.from_trace(factlm, prompt, kl, metric="kl", limit=3, progress=False)
    assert circuit.plot().layout.meta["title"].startswith("What carries the negative KL from the clean run") and circuit.metric == "kl"


def test_circuits_are_compared_in_one_metric(factlm):
    prompt = tlk.Prompt.from_fact(factlm, FACTS[0])
    traces = {m: tlk.trace(factlm, prompt, component="mlp_out", metric=m, **QUIET) for m in ("rank", "logit")}
    built = {m: tlk.circuits.from_trace(factlm, prompt, trace, metric=m, limit=2, progress=False) for m, trace in traces.items()}
    with pytest.raises(errors.ComponentError, match="other metric: rank and logit; compare two that were built with one metric="):
        tlk.circuits.compare(built["rank"], built["logit"], names=("rank", "logit"))
    both = tlk.circuits.compare(built["logit"], built["logit"], names=("one", "other"))
    for words in (both.headline(), both.plot().layout.meta["subtitle"]):
        assert "% (logit)" not in words and "; effects in logit; " in words


def test_modules_are_compared_in_the_metric(factlm):
    facts = [fact for fact in tlk.load_facts("factlm") if fact.relation == "P36"][:6]
    asked = {"components": ("attn_out", "mlp_out"), "layers": [0], "window": 1, "corrupt": "subject", **QUIET}
    logits, default = (tlk.trace_facts(factlm, facts, **words, **asked).compare_modules() for words in ({"metric": "logit"}, {}))
    assert logits.plot().layout.yaxis.title.text == "average indirect effect (logit)" and " (logit); " in logits.headline()
    assert default.plot().layout.yaxis.title.text == "average indirect effect (probability)" and "(probability)" not in default.headline()


def test_a_sweeps_tracing_effect_is_in_its_metric(factlm):
    case = tlk.load_edit_cases("factlm")[0]
    for metric in ("kl", "log_probability"):
        sweep = tlk.localised.sweep_layers(
            factlm, [case], lambda layer, _: tlk.FineTune(layer=layer, steps=1), layers=[0, 3], metric=metric, samples=2, progress=False
        )
        prompt = tlk.Prompt.from_fact(factlm, case.fact)
        traced = tlk.trace(factlm, prompt, component="mlp_out", window=5, layers=[0, 3], metric=metric, multi_token=metric != "kl", **QUIET)
        expected = traced.mean_effect.nan_to_num(nan=-1.0).amax(1) / traced.total_effect.mean()
        np.testing.assert_allclose(sweep.table["fraction_restored"], expected.clamp(min=0).numpy(), rtol=1e-5)
        assert sweep.headline().split("; ")[0].endswith(f"in 2 layers, tracing effect{sweep.settings.metric.remark}")
        assert sweep.settings.metric.name == metric and isinstance(sweep.table, pd.DataFrame)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_probabilities_of_halves_are_taken_in_single_precision(dtype):
    """A softmax in bfloat16 has two or three digits: 0.9961 and 1 are neighbours there."""
    logits = torch.randn(300, 2, 50, generator=torch.Generator().manual_seed(0)).mul(4).to(dtype)
    answer = torch.randint(0, 50, (300, 2), generator=torch.Generator().manual_seed(1))
    log_p = logits.double().log_softmax(-1).gather(-1, answer[..., None])[..., 0].sum(-1)
    found = answer_probability(logits, answer)
    assert found.dtype == answer_log_probability(logits, answer).dtype == torch.float32
    torch.testing.assert_close(found.double(), log_p.exp(), rtol=1e-5, atol=0)
    torch.testing.assert_close(answer_log_probability(logits, answer).double(), log_p, rtol=1e-6, atol=1e-5)


def test_a_lens_and_a_texts_probability_of_halves_too():
    """What the model's own halves say, no more of them rounded away: probabilities of a row sum to one."""
    model = tlk.load_model("factlm", backend="bridge", dtype=torch.bfloat16)
    prompt = tlk.Prompt.from_text(model, "The capital of France is", subject="France", target=" Paris")
    table = tlk.logit_lens(model, prompt).table
    with torch.no_grad():
        logits = model(prompt.tokens).double()
    expected = logits[0, -1].softmax(-1)[prompt.target_token]
    last = table[(table["layer"] == 7) & (table["pos"] == len(prompt) - 1)]["probability"].iloc[0]
    assert last == pytest.approx(float(expected), rel=1e-5) and last != float(expected.bfloat16())
    texts = logits[0, :-1].log_softmax(-1).gather(-1, prompt.tokens[0, 1:, None]).sum()
    assert float(text_log_probabilities(model, [prompt], [])[0]) == pytest.approx(float(texts), rel=1e-6)
