"""Every metric, wherever effects are measured, equals a loop of plain forwards and a metric written out here, in float64 on every architecture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support import fingerprint, hooks_left

import tl_knowledge as tlk
from tl_knowledge.circuits.paths import measure_needs
from tl_knowledge.models.protocol import layer_count
from tl_knowledge.runs.contrast import node_hooks, noise_contrast
from tl_knowledge.runs.interventions import measure_nodes
from tl_knowledge.runs.metric_arguments import resolve_metric
from tl_knowledge.runs.nodes import Node

EXACT = 1e-12
ANSWER, OTHERS = 5, (7, 11)
SAMPLES = 3
NOISE = tlk.GaussianNoise(0.7, seed=3)


def margin(logits):
    """A caller's own: how far the answer is above the likeliest other token."""
    others = logits.clone()
    others[:, ANSWER] = -torch.inf
    return logits[:, ANSWER] - others.amax(-1)


METRICS = {
    "probability": {"metric": "probability"},
    "log_probability": {"metric": "log_probability"},
    "logit": {"metric": "logit"},
    "logit_difference": {"metric": "logit_difference", "against": OTHERS},
    "kl": {"metric": "kl"},
    "rank": {"metric": "rank"},
    "function": {"metric": margin},
}


SLOWER = ("kl", "function")  # what the loop is held against, too: the one that needs the clean run, and the one that is the caller's


def slow(name: str, logits: torch.Tensor, clean: torch.Tensor, answer: int = ANSWER) -> torch.Tensor:
    """The metric of one position's logits ``[d_vocab]``, token by token; ``clean [d_vocab]`` are the clean run's."""
    exponentials, clean_exponentials = logits.exp(), clean.exp()
    p = exponentials / exponentials.sum()
    q = clean_exponentials / clean_exponentials.sum()
    if name == "probability":
        return p[answer]
    if name == "log_probability":
        return p[answer].log()
    if name == "logit":
        return logits[answer]
    if name == "logit_difference":
        return logits[answer] - (logits[OTHERS[0]] + logits[OTHERS[1]]) / 2
    if name == "kl":
        return -sum(q[token] * (q[token] / p[token]).log() for token in range(len(p)))
    if name == "rank":
        return -torch.tensor(float(sum(bool(logits[token] > logits[answer]) for token in range(len(p)))), dtype=torch.float64)
    return logits[answer] - max(logits[token] for token in range(len(p)) if token != answer)


def last_logits(model, tokens, hooks=()) -> torch.Tensor:
    with torch.no_grad():
        return model.run_with_hooks(tokens, fwd_hooks=list(hooks))[:, -1]


def slow_rows(name, logits, clean) -> torch.Tensor:
    return torch.stack([slow(name, row, clean) for row in logits])


@pytest.fixture
def one(prompt) -> tlk.Prompt:
    return tlk.Prompt.from_tokens(prompt.tokens, subject=range(1, 3), target=[ANSWER])


def restored_logits(model, prompt, component, layers) -> tuple[torch.Tensor, torch.Tensor, dict[tuple[int, int], torch.Tensor]]:
    """Of the clean run ``[d_vocab]``, of the corrupted runs ``[sample d_vocab]``, and of each restored site, one forward each."""
    noise = tlk.corrupt(prompt.subject, NOISE)
    with torch.no_grad():
        _, cache = model.run_with_cache(prompt.tokens)
    batch = prompt.batch(SAMPLES)
    restored = {
        (layer, pos): last_logits(model, batch, noise + tlk.restore(cache, component, layers=layer, positions=pos))
        for layer in layers
        for pos in range(len(prompt))
    }
    return last_logits(model, prompt.tokens)[0], last_logits(model, batch, noise), restored


@pytest.mark.parametrize(("component", "layers", "engines"), [("resid_post", (0, 1, 3), ("rows",)), ("attn_out", (1, 3), ("rows", "loop"))])
def test_a_trace_equals_the_loop_in_every_metric(model, one, component, layers, engines):
    before, asked = fingerprint(model), {"component": component, "layers": layers, "window": 1, "samples": SAMPLES, "progress": False}
    clean, corrupted, restored = restored_logits(model, one, component, layers)
    for name, words in METRICS.items():
        base = slow_rows(name, corrupted, clean)
        expected = torch.stack([slow_rows(name, logits, clean) - base for logits in restored.values()], dim=1)
        total = slow(name, clean, clean) - base
        assert float(total.abs().max()) > (0 if name == "rank" else 1e-4), name  # there is something to agree about
        for engine in engines if name in SLOWER else ("rows",):
            found = tlk.trace(model, one, NOISE, engine=engine, **asked, **words)
            torch.testing.assert_close(found.indirect_effect.flatten(1), expected, rtol=0, atol=EXACT, msg=lambda text, n=name: f"{n}: {text}")
            torch.testing.assert_close(found.total_effect, total, rtol=0, atol=EXACT)
            assert found.clean_score == pytest.approx(float(slow(name, clean, clean)), abs=EXACT)
            torch.testing.assert_close(found.corrupted_score, base, rtol=0, atol=EXACT)
            assert found.clean_probability == pytest.approx(float(slow("probability", clean, clean)), abs=EXACT)
    assert fingerprint(model) == before and not hooks_left(model)


@pytest.mark.parametrize("name", SLOWER)
def test_chunks_windows_units_and_severing_equal_the_loop(model, one, name):
    for kwargs in (
        {"component": "mlp_out", "window": 3, "sever": "attn_out", "memory_budget": 1.0},
        {"component": "head", "units": [0, 3], "layers": [1, 3]},
        {"component": "neuron", "units": [2, 5], "layers": [0, 2]},
    ):
        swept, looped = (
            tlk.trace(model, one, 0.7, samples=2, engine=engine, progress=False, **kwargs, **METRICS[name]) for engine in ("rows", "loop")
        )
        assert swept.provenance.engine.startswith("rows")
        torch.testing.assert_close(swept.indirect_effect, looped.indirect_effect, rtol=0, atol=EXACT, equal_nan=True)


FACTS = [tlk.Fact("w3 w4", "w1 {} w7 w2", "w9"), tlk.Fact("w8", "w1 w1 {} w5 w6 w2", "w12"), tlk.Fact("w20 w21", "{} w7", "w30")]


@pytest.mark.parametrize("name", METRICS)
def test_a_fact_of_a_set_is_its_single_trace(speaking, name):
    """Facts of unequal length in one sweep, each with its own clean run."""
    words = {"metric": METRICS[name]["metric"]} | ({"against": ["w40", 41]} if name == "logit_difference" else {})
    average = tlk.trace_facts(speaking, FACTS, 0.7, components="mlp_out", sever="attn_out", samples=2, known_only=False, progress=False, **words)
    assert len(average.facts) == len(FACTS)
    for trace in average.traces:
        prompt = tlk.Prompt.from_fact(speaking, trace.fact)
        positions = [prompt.span(trace.corrupt).last] if trace.severed else None
        single = tlk.trace(
            speaking,
            prompt,
            0.7,
            corrupt=trace.corrupt,
            component=trace.component,
            sever=trace.severed,
            samples=2,
            positions=positions,
            seed=tlk.tracing.fact_seed(trace.fact),
            progress=False,
            **words,
        )
        assert single.settings.metric == average.settings.metric
        np.testing.assert_allclose(trace.effect, single.mean_effect.numpy(), rtol=0, atol=EXACT)
        assert trace.clean_score == pytest.approx(single.clean_score, abs=EXACT)
        assert trace.total_effect == pytest.approx(float(single.total_effect.mean()), abs=EXACT)
    totals = average.total_effects()
    np.testing.assert_allclose(totals["clean"] - totals["corrupted"], totals["total_effect"], rtol=0, atol=EXACT)


def blocked_logits(model, prompt, keys, layer) -> torch.Tensor:
    """One forward in which the last position's scores of some keys are lost. (Some bridges' softmax is in single precision.)"""

    def block(scores, *, hook):
        changed = scores.clone()
        changed[:, :, -1, list(keys)] = -torch.inf
        return changed

    return last_logits(model, prompt.tokens, [(f"blocks.{layer}.attn.hook_attn_scores", block)])[0]


def test_attention_knockout_equals_one_forward_each_in_every_metric(speaking):
    facts = FACTS[:2]
    for name in METRICS:
        words = {"metric": METRICS[name]["metric"]} | ({"against": OTHERS} if name == "logit_difference" else {})
        try:
            found = tlk.measure_attention_knockout(speaking, facts, window=1, progress=False, **words)
        except tlk.errors.UnsupportedModelError as error:
            assert "ignores what is written" in str(error)  # GPT-J's bridge only shows its scores
            return
        for row, fact in enumerate(facts):
            prompt = tlk.Prompt.from_fact(speaking, fact)
            clean = last_logits(speaking, prompt.tokens)[0]
            sets = {"subject": prompt.subject, "relation": [p for p in prompt.relation if p != prompt.last.last], "last": prompt.last}
            for index, span in enumerate(found.at):
                for layer in range(layer_count(speaking)):
                    answer = ANSWER if name == "function" else prompt.target_token
                    before, after = (slow(name, logits, clean, answer) for logits in (clean, blocked_logits(speaking, prompt, sets[span], layer)))
                    expected = (after - before) / (before if name == "probability" else 1)
                    assert found.change[row, index, layer] == pytest.approx(float(expected), abs=EXACT), name


@pytest.mark.parametrize("name", [name for name in METRICS if name != "rank"])
def test_integrated_gradients_equal_the_slow_loop_in_every_metric(model, one, name):
    result = tlk.attribute_neurons(model, one, steps=4, progress=False, **METRICS[name])
    clean = last_logits(model, one.tokens)[0]
    for layer in range(layer_count(model)):
        hook_name = f"blocks.{layer}.mlp.hook_post"
        with torch.no_grad():
            _, cache = model.run_with_cache(one.tokens, names_filter=[hook_name])
        end = cache[hook_name][0, -1].detach()

        def value(activation, hook_name=hook_name):
            def put(whole, *, hook):
                changed = whole.clone()
                changed[:, -1] = activation
                return changed

            return slow(name, model.run_with_hooks(one.tokens, fwd_hooks=[(hook_name, put)])[0, -1], clean)

        points = [(k / 4 * end).requires_grad_(True) for k in (1, 2, 3, 4)]
        expected = end / 4 * sum(torch.autograd.grad(value(point), point)[0] for point in points)
        largest = float(expected.abs().max())
        assert largest > 1e-10  # a divergence is of second order
        assert float((result.scores[0, layer] - expected).abs().max()) < 1e-10 * largest + 1e-14
        gap = (expected.sum() - (value(end) - value(torch.zeros_like(end)))).abs().detach()
        assert float(result.completeness_gap[0, layer]) == pytest.approx(float(gap), abs=1e-10)
    assert float(result.clean_probability[0]) == pytest.approx(float(slow("probability", clean, clean)), abs=EXACT)


def test_integrated_gradients_of_many_prompts_have_each_its_own_clean_run(model, one):
    other = tlk.Prompt.from_tokens([9, 4, 33, 1, 2, 8, 8], target=[8])
    together = tlk.attribute_neurons(model, [one, other], steps=3, metric="kl", progress=False)
    for row, prompt in enumerate((one, other)):
        alone = tlk.attribute_neurons(model, prompt, steps=3, metric="kl", memory_budget=1.0, progress=False)
        torch.testing.assert_close(together.scores[row], alone.scores[0], rtol=0, atol=EXACT)


def test_masked_models_attribute_in_every_metric(masked_model):
    prompt = tlk.Prompt.from_tokens([1, 9, 4, 33, 12, 2], target=ANSWER, last=3)
    gaps = {}
    for name, words in METRICS.items():
        if name != "rank":
            found = tlk.attribute_neurons(masked_model, prompt, steps=60, progress=False, **words)
            gaps[name] = float((found.completeness_gap / found.scores.sum(-1).abs()).max())
    assert all(gap < 0.1 for gap in gaps.values()), gaps  # the sums are what the metric changes by


@pytest.mark.parametrize("name", METRICS)
def test_a_circuits_effects_and_needs_equal_one_forward_each(model, one, name):
    metric = resolve_metric(model, METRICS[name]["metric"], METRICS[name].get("against"))
    contrast = noise_contrast(model, one, torch.tensor([ANSWER]), one.subject.positions, NOISE, 2, node_hooks(model, ["mlp_out"]), metric)
    nodes = [Node("mlp_out", 0, 2), Node("attn_out", 1, 4), Node("mlp_out", 2, 6), Node("attn_out", 3, 6)]
    effects, needs = measure_nodes(contrast, nodes, 2.0**30), measure_needs(contrast, nodes, 2.0**30)
    clean, batch = last_logits(model, one.tokens)[0], one.batch(2)
    noise = tlk.corrupt(one.subject, NOISE)
    hooks = {"mlp_out": "blocks.{}.hook_mlp_out", "attn_out": "blocks.{}.hook_attn_out"}
    with torch.no_grad():
        caches = [model.run_with_cache(one.tokens)[1]]
        with model.hooks(fwd_hooks=noise):
            caches.append(model.run_with_cache(batch)[1])
    base = slow_rows(name, last_logits(model, batch, noise), clean)
    torch.testing.assert_close(contrast.total_effect, slow(name, clean, clean) - base, rtol=0, atol=EXACT)
    for i, node in enumerate(nodes):
        site = hooks[node.component].format(node.layer)

        def put(values, pos=node.pos):
            def write(activation, *, hook):
                changed = activation.clone()
                changed[:, pos] = values[:, pos]
                return changed

            return write

        restored = slow_rows(name, last_logits(model, batch, [*noise, (site, put(caches[0][site]))]), clean)
        held = slow_rows(name, last_logits(model, batch, [(site, put(caches[1][site]))]), clean)
        torch.testing.assert_close(effects[i], restored - base, rtol=0, atol=1e-11)
        torch.testing.assert_close(needs[i], slow(name, clean, clean) - held, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ["log_probability", "logit", "logit_difference", "function"])
def test_the_screen_is_the_derivative_of_the_effect(gpt2, one, name):
    errors = []
    for sd in (1e-2, 1e-3):
        kwargs = {"component": "mlp_out", "window": 1, "samples": 2, "progress": False} | METRICS[name]
        exact, estimate = tlk.trace(gpt2, one, sd, **kwargs), tlk.trace(gpt2, one, sd, engine="screen", verify=0, **kwargs)
        errors.append(float((exact.indirect_effect - estimate.indirect_effect).abs().max() / exact.indirect_effect.abs().max()))
    assert errors[1] < 0.25 * errors[0] + 0.01 and errors[1] < 0.05, errors


def test_the_screen_of_a_divergence_is_its_gradient_in_the_corrupted_run(gpt2, one):
    """A divergence is of second order around the clean run, so that no small noise makes the estimate the effect; the gradient is what it is."""
    layer, site, noise = 1, "blocks.1.hook_mlp_out", tlk.corrupt(one.subject, NOISE)
    estimate = tlk.trace(gpt2, one, NOISE, component="mlp_out", window=1, layers=layer, samples=1, engine="screen", verify=0, metric="kl")
    clean = last_logits(gpt2, one.tokens)[0]
    with torch.no_grad():
        wanted = gpt2.run_with_cache(one.tokens)[1][site]
        with gpt2.hooks(fwd_hooks=noise):
            there = gpt2.run_with_cache(one.tokens)[1][site]
    leaf = there.clone().requires_grad_(True)
    score = slow("kl", gpt2.run_with_hooks(one.tokens, fwd_hooks=[*noise, (site, lambda x, *, hook: leaf)])[0, -1], clean)
    (gradient,) = torch.autograd.grad(score, leaf)
    expected = ((wanted - there) * gradient).sum(-1)
    assert float(expected.abs().max()) > 1e-6
    torch.testing.assert_close(estimate.indirect_effect[:, 0, 1:], expected[:, 1:], rtol=0, atol=EXACT)
