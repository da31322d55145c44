"""Knowledge attribution on a frozen prefix equals the obvious loop: every layer by itself, full sequences, one forward a step."""

from __future__ import annotations

import pytest
import torch
from support import hooks_left

import tl_knowledge as tlk
from tl_knowledge.engine.prefix import freeze_prefix, run_on_prefix
from tl_knowledge.models.hook_names import block_input, block_output
from tl_knowledge.models.protocol import layer_count

RELATIVE = 1e-10


def slow_scores(model, tokens, answer, *, site="hook_post", alphas, start=None, pos=-1, answered=None) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores ``[layer d_mlp]`` and completeness gaps, written out."""
    scores, gaps = [], []
    for layer in range(layer_count(model)):
        name = f"blocks.{layer}.mlp.{site}"
        with torch.no_grad():
            _, cache = model.run_with_cache(tokens, names_filter=[name])
        clean = cache[name][0, pos].detach()
        first = torch.zeros_like(clean) if start is None else start[layer]

        def probability(value, name=name):
            def put(activation, *, hook):
                changed = activation.clone()
                changed[:, pos] = value
                return changed

            return model.run_with_hooks(tokens, fwd_hooks=[(name, put)])[0, pos if answered is None else answered].softmax(-1)[answer]

        total = torch.zeros_like(clean)
        for alpha in alphas:
            point = (first + alpha * (clean - first)).requires_grad_(True)
            total += torch.autograd.grad(probability(point), point)[0]
        score = (clean - first) * total / len(alphas)
        scores.append(score)
        gaps.append((score.sum() - (probability(clean) - probability(first))).abs().detach())
    return torch.stack(scores), torch.stack(gaps)


def assert_close(scores, expected) -> None:
    assert float((scores - expected).abs().max()) < RELATIVE * float(expected.abs().max()) + 1e-16


def test_rows_on_a_prefix_equal_full_sequences(model, prompt):
    """Rows born anywhere, again and again on one prefix."""
    prefix = freeze_prefix(model, prompt.tokens)
    sites = [block_input(0), *(block_output(layer) for layer in range(layer_count(model) - 1))]
    hooks = [(site, lambda x, *, hook: torch.cat([x, x[:1], x[:1]])) for site in sites]
    expected = model(prompt.tokens)[0, -1]
    for _ in range(2):
        logits = run_on_prefix(model, prefix, hooks, rows=1 + 2 * len(sites))
        assert logits.shape[0] == 1 + 2 * len(sites)
        torch.testing.assert_close(logits[:, -1], expected.expand(logits.shape[0], -1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("budget", [1.0, 2.0**30], ids=["layer by layer", "all layers at once"])
def test_integrated_gradients_equal_the_slow_loop(model, prompt, budget):
    result = tlk.attribute_neurons(model, prompt, steps=5, memory_budget=budget)
    expected, gaps = slow_scores(model, prompt.tokens, prompt.target_token, alphas=[0.2, 0.4, 0.6, 0.8, 1.0])
    assert_close(result.scores[0], expected)
    torch.testing.assert_close(result.completeness_gap[0], gaps, rtol=0, atol=1e-10)
    assert result.clean_probability[0] == pytest.approx(float(model(prompt.tokens)[0, -1].softmax(-1)[5].detach()), rel=1e-6)


@pytest.mark.parametrize(
    ("variant", "site", "alphas"),
    [
        ("dai2022", "hook_post", [0, 0.25, 0.5, 0.75]),
        ("eleutherai2022", "hook_pre", [0, 1 / 3, 2 / 3, 1]),
        ("niu2024", "hook_pre", [0, 1 / 3, 2 / 3, 1]),
    ],
)
def test_variant(model, prompt, variant, site, alphas):
    result = tlk.attribute_neurons(model, prompt, steps=4, variant=variant)
    assert_close(result.scores[0], slow_scores(model, prompt.tokens, 5, site=site, alphas=alphas)[0])


@pytest.mark.parametrize("budget", [1.0, 2.0**30], ids=["one by one", "together"])
def test_many_prompts_equal_each_alone(model, prompt, budget):
    """Prompts of several lengths, two of one length, in one call."""
    others = [tlk.Prompt.from_tokens(tokens, target=target) for tokens, target in (([9, 4, 33], 8), ([2, 7, 7, 11, 30, 8, 1], 40), ([5], 3))]
    result = tlk.attribute_neurons(model, [prompt, *others], steps=3, memory_budget=budget)
    for scores, one in zip(result.scores, [prompt, *others], strict=True):
        assert_close(scores, slow_scores(model, one.tokens, one.target_token, alphas=[1 / 3, 2 / 3, 1.0])[0])


@pytest.mark.parametrize(
    ("variant", "site", "alphas"), [("dai2022", "hook_post", [0, 0.25, 0.5, 0.75]), ("eleutherai2022", "hook_post", [0, 1 / 3, 2 / 3, 1])]
)
def test_masked_models_answer_at_their_mask(masked_model, variant, site, alphas):
    """On BERT EleutherAI's program hooks ``intermediate``, whose output has gone through the non-linearity."""
    prompts = [tlk.Prompt.from_tokens([1, 9, 4, 33, 12, 2], target=8, last=pos) for pos in (3, 1)]
    result = tlk.attribute_neurons(masked_model, prompts, steps=4, variant=variant)
    for k, pos in enumerate((3, 1)):
        expected, gaps = slow_scores(masked_model, prompts[k].tokens, 8, site=site, alphas=alphas, pos=pos)
        assert_close(result.scores[k], expected)
        torch.testing.assert_close(result.completeness_gap[k], gaps, rtol=0, atol=1e-10)
    assert result.provenance.engine == "full sequences"
    mean = tlk.neurons.mean_activation(masked_model, prompts)
    both = tlk.attribute_neurons(masked_model, prompts, method="activation").scores
    torch.testing.assert_close(mean, both.mean(0))


def test_nothing_stays_on_the_model(model, prompt):
    tlk.attribute_neurons(model, prompt, steps=2)
    assert hooks_left(model) == []


def test_hooks_after_the_unembedding_are_seen(gpt2, prompt):
    """A hook on the logits changes the probability, and so the scores; the closed form must not be used then."""
    shift: list = [("unembed.hook_out", lambda logits, *, hook: 0.5 * logits)]
    with gpt2.hooks(fwd_hooks=shift):
        result = tlk.attribute_neurons(gpt2, prompt, steps=2)
        expected = slow_scores(gpt2, prompt.tokens, 5, alphas=[0.5, 1.0])[0]
    assert_close(result.scores[0], expected)
    assert not torch.allclose(result.scores, tlk.attribute_neurons(gpt2, prompt, steps=2).scores)


@pytest.mark.parametrize("at", ["last", "subject"])
def test_on_factlm(at):
    """The bundled model in float64, on a real fact."""
    factlm = tlk.load_model("factlm", dtype=torch.float64)
    prompt = tlk.Prompt.from_fact(factlm, tlk.load_facts()[7])
    result = tlk.attribute_neurons(factlm, prompt, at=at, steps=3)
    expected, _ = slow_scores(factlm, prompt.tokens, prompt.target_token, alphas=[1 / 3, 2 / 3, 1.0], pos=prompt.span(at).last, answered=-1)
    assert_close(result.scores[0], expected)


def test_neurons_of_another_position(model, prompt):
    """At the subject's last token: every row is the tokens from there on; and the prompts' subjects end in different places."""
    others = [tlk.Prompt.from_tokens([9, 4, 33, 7], subject=[0], target=8), tlk.Prompt.from_tokens([2, 7, 7, 11, 30, 8, 1], subject=[4], target=40)]
    result = tlk.attribute_neurons(model, [prompt, *others], at="subject", steps=3)
    for k, one in enumerate([prompt, *others]):
        expected, gaps = slow_scores(model, one.tokens, one.target_token, alphas=[1 / 3, 2 / 3, 1.0], pos=one.subject.last, answered=-1)
        assert_close(result.scores[k], expected)
        torch.testing.assert_close(result.completeness_gap[k], gaps, rtol=0, atol=1e-10)


def test_a_masked_models_other_position(masked_model):
    prompt = tlk.Prompt.from_tokens([1, 9, 4, 33, 12, 2], subject=[4], target=8, last=1)  # after the mask, which reads it all the same
    result = tlk.attribute_neurons(masked_model, prompt, at="subject", steps=2)
    assert_close(result.scores[0], slow_scores(masked_model, prompt.tokens, 8, alphas=[0.5, 1.0], pos=4, answered=1)[0])


def test_gradient_times_activation_is_one_point_at_the_end(gpt2, prompt):
    result = tlk.attribute_neurons(gpt2, prompt, method="gradient_x_activation")
    assert_close(result.scores[0], slow_scores(gpt2, prompt.tokens, 5, alphas=[1.0])[0])


def test_activation_method(gpt2, prompt):
    result = tlk.attribute_neurons(gpt2, prompt, method="activation")
    _, cache = gpt2.run_with_cache(prompt.tokens)
    assert_close(result.scores[0, 2], cache["blocks.2.mlp.hook_post"][0, -1])
    assert bool(result.completeness_gap.isnan().all())


def test_mean_baseline_and_chosen_layers(gpt2, prompt):
    other = tlk.Prompt.from_tokens([[3, 9, 4]], subject=[1], target=5)
    start = tlk.neurons.mean_activation(gpt2, [prompt, other])
    result = tlk.attribute_neurons(gpt2, prompt, steps=3, baseline=start, layers=[1, 3])
    expected, _ = slow_scores(gpt2, prompt.tokens, 5, alphas=[1 / 3, 2 / 3, 1.0], start=start)
    assert_close(result.scores[0], expected[[1, 3]])
    assert result.layers == (1, 3)


def test_multi_token_targets_add_up(gpt2, prompt):
    result = tlk.attribute_neurons(gpt2, prompt, steps=2, multi_token=True)
    expected = torch.zeros_like(result.scores[0])
    for k, token in enumerate((5, 6, 9)):
        tokens = torch.cat([prompt.tokens, torch.tensor([[5, 6, 9]])[:, :k]], dim=1)
        expected += slow_scores(gpt2, tokens, token, alphas=[0.5, 1.0])[0]
    assert_close(result.scores[0], expected)


def test_a_prompt_of_one_token_needs_no_prefix(model):
    one = tlk.Prompt.from_tokens([[7]], target=5)
    result = tlk.attribute_neurons(model, one, steps=2)
    assert_close(result.scores[0], slow_scores(model, one.tokens, 5, alphas=[0.5, 1.0])[0])


def test_the_completeness_gap_shrinks_as_steps_grow(factlm):
    prompt = tlk.Prompt.from_fact(factlm, tlk.load_facts()[0])
    gaps = [float(tlk.attribute_neurons(factlm, prompt, steps=steps, progress=False).completeness_gap.max()) for steps in (5, 20, 80)]
    assert gaps[2] < 0.5 * gaps[1] < 0.25 * gaps[0] * 2 and gaps[2] < 0.02


def test_save_load_top_and_plot(tmp_path, factlm):
    scores = tlk.attribute_neurons(factlm, tlk.paraphrases(factlm, tlk.load_facts()[0]), steps=3, progress=False)
    again = tlk.neurons.NeuronAttribution.load(scores.save(tmp_path / "scores"))
    torch.testing.assert_close(again.scores, scores.scores, rtol=0, atol=0)
    assert (again.layers, again.prompts, again.targets, again.provenance) == (scores.layers, scores.prompts, scores.targets, scores.provenance)
    assert again.settings == scores.settings == tlk.neurons.AttributionSettings(steps=3)
    assert repr(again) == f"<NeuronAttribution: {scores.headline()}>" and len(repr(again)) < 200 and "<table" in again._repr_html_()
    best = scores.top(3)
    assert best["score"].iloc[0] == pytest.approx(float(scores.mean_scores.max())) and len(best) == 3
    assert float(scores.mean_scores[best["layer"].iloc[0], best["neuron"].iloc[0]]) == pytest.approx(best["score"].iloc[0])
    figure = scores.plot()
    assert figure.data[0].z.shape == (8, 20) and "mean over 2 prompts" in figure.layout.meta["subtitle"]
