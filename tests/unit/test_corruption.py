"""Noise is a pure function of its settings and the shape."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tl_knowledge as tlk
from tl_knowledge.errors import CorruptionError, DataError

DRAWN = [
    tlk.GaussianNoise(0.5),
    tlk.tracing.UniformNoise(half_width=0.5),
    tlk.tracing.StudentTNoise(sd=0.5),
    tlk.tracing.MultivariateGaussianNoise(factor=0.5),
]
EMBEDDINGS = torch.randn(40, 5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("noise", DRAWN, ids=lambda n: type(n).__name__)
def test_same_seed_same_noise(gpt2, noise):
    noise = noise.resolve(gpt2)
    once, again = noise.corrupted(EMBEDDINGS, (1, 3)), noise.corrupted(EMBEDDINGS, (1, 3))
    torch.testing.assert_close(once, again, rtol=0, atol=0)
    assert once.shape == (40, 2, 16)
    assert not torch.equal(once, noise.with_seed(1).corrupted(EMBEDDINGS, (1, 3)))
    assert float((once[0] - EMBEDDINGS[0, [1, 3]] - once[1] + EMBEDDINGS[1, [1, 3]]).abs().max()) > 0  # samples differ


@pytest.mark.parametrize("noise", DRAWN, ids=lambda n: type(n).__name__)
def test_replacing_drops_the_clean_embeddings(gpt2, noise):
    from dataclasses import replace

    noise = noise.resolve(gpt2)
    added, replaced = noise.corrupted(EMBEDDINGS, (1, 3)), replace(noise, replace=True).corrupted(EMBEDDINGS, (1, 3))
    torch.testing.assert_close(added - EMBEDDINGS[:, [1, 3]], replaced)


def test_scales(gpt2):
    def spread(noise):
        return float((noise.resolve(gpt2).corrupted(EMBEDDINGS, (0, 1, 2)) - EMBEDDINGS[:, :3]).std())

    sd = tlk.tracing.embedding_sd(gpt2)
    assert spread(tlk.GaussianNoise("3sd")) == pytest.approx(3 * sd, rel=0.05)
    assert spread(tlk.GaussianNoise(0.25)) == pytest.approx(0.25, rel=0.05)
    assert spread(tlk.tracing.UniformNoise(half_width=0.6)) == pytest.approx(0.6 / 3**0.5, rel=0.05)
    noise = tlk.tracing.MultivariateGaussianNoise(factor=2.0).resolve(gpt2)
    draws = (noise.corrupted(EMBEDDINGS.repeat(50, 1, 1), (0,)) - EMBEDDINGS.repeat(50, 1, 1)[:, :1])[:, 0]
    torch.testing.assert_close(torch.cov(draws.T), 4 * torch.cov(gpt2.W_E.detach().double().T), rtol=0.3, atol=0.05)


def test_student_t_has_heavier_tails_than_the_gaussian():
    def beyond_four_sd(noise):
        return float((noise.corrupted(torch.zeros(400, 5, 16), (0, 1)).abs() > 4).float().mean())

    assert beyond_four_sd(tlk.tracing.StudentTNoise(sd=1.0)) > 10 * beyond_four_sd(tlk.GaussianNoise(1.0))


def test_subject_scale_is_the_sd_of_the_subjects_embeddings(factlm):
    ids = [token for text in ("France", "Edvard Grieg") for token in factlm.tokenizer(text, add_special_tokens=False)["input_ids"]]
    expected = np.std(factlm.W_E[ids].detach().double().numpy(), ddof=1)
    assert tlk.tracing.subject_embedding_sd(factlm, ["France", "Edvard Grieg"]) == pytest.approx(float(expected), rel=1e-12)


def test_prompt_swap_takes_the_other_prompts_embeddings(gpt2, prompt):
    other = tlk.Prompt.from_tokens(torch.arange(7), subject=range(1, 3), target=5)
    result = tlk.trace(gpt2, prompt, tlk.PromptSwap(other), corrupt=range(7))
    swapped = gpt2(other.tokens)[0, -1].softmax(-1)[5].detach()
    assert float(result.corrupted_probability[0]) == pytest.approx(float(swapped), rel=1e-10)
    assert result.indirect_effect.shape[0] == 1


def test_a_seed_comes_from_the_noise_or_else_from_the_driver(gpt2, prompt):
    def effects(noise, **kwargs):
        trace = tlk.trace(gpt2, prompt, noise, samples=2, progress=False, **kwargs)
        return trace.settings.seed, trace.indirect_effect.nan_to_num()

    for variant in ("ours", "meng2022_code"):
        (a, first), (b, second) = effects(0.5, seed=7, variant=variant), effects(tlk.GaussianNoise(0.5, seed=7), variant=variant)
        c, third = effects(tlk.GaussianNoise(0.5, seed=7), seed=7, variant=variant)
        assert (a, b, c) == (7, 7, 7) and torch.equal(first, second) and torch.equal(first, third)
    assert effects(0.5)[0] == 0
    with pytest.raises(CorruptionError, match="the noise has seed 3, but seed=4 was given too"):
        effects(tlk.GaussianNoise(0.5, seed=3), seed=4)


def test_settings_are_values(tmp_path, gpt2, prompt):
    """Traces made alike have equal settings, after saving too; another noise, seed or span has others."""
    other = tlk.Prompt.from_tokens(torch.arange(7), subject=range(1, 3), target=5)
    for noise in (None, *DRAWN, tlk.PromptSwap(other)):
        first, again = (tlk.trace(gpt2, prompt, noise, samples=2, progress=False, layers=[0]) for _ in range(2))
        loaded = tlk.CausalTrace.load(first.save(tmp_path / "trace"))
        assert first.settings == again.settings == loaded.settings and hash(first.settings) == hash(loaded.settings)
        assert loaded.settings.noise.resolve(gpt2) == first.settings.noise
        for more in ({"seed": 1}, {"corrupt": [2, 3]}, {"component": "mlp_out"}):
            changed = tlk.trace(gpt2, prompt, noise, samples=2, progress=False, layers=[0], **more).settings
            assert (changed == first.settings) == ("seed" in more and isinstance(noise, tlk.PromptSwap))


def test_no_subject_has_no_sd(gpt2):
    with pytest.raises(DataError, match="no subject was given"):
        tlk.tracing.subject_embedding_sd(gpt2, [])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, p: tlk.GaussianNoise(-1.0).resolve(m), r"scale -1.0 is not a finite number of at least 0"),
        (lambda m, p: tlk.GaussianNoise(float("nan")).resolve(m), "scale nan"),
        (lambda m, p: tlk.GaussianNoise("big").resolve(m), "'big' is not understood; pass a number, or '3sd'"),
        (lambda m, p: tlk.GaussianNoise("3sd").corrupted(EMBEDDINGS, (1,)), r"call noise.resolve\(model\) first"),
        (lambda m, p: tlk.tracing.MultivariateGaussianNoise().corrupted(EMBEDDINGS, (1,)), r"call noise.resolve\(model\) first"),
        (lambda m, p: tlk.tracing.MultivariateGaussianNoise(factor="3sd").resolve(m), "pass 3.0"),
        (lambda m, p: tlk.tracing.StudentTNoise(degrees=0.0), "degrees of freedom 0.0"),
        (lambda m, p: tlk.PromptSwap(p).corrupted(EMBEDDINGS, (1,)), r"call swap.resolve\(model\) first"),
        (lambda m, p: tlk.PromptSwap(p).resolve(m).corrupted(EMBEDDINGS, (9,)), "equal length"),
        (lambda m, p: tlk.GaussianNoise(0.1, seed=3).seeded(4), "the noise has seed 3, but seed=4 was given too"),
        (lambda m, p: tlk.GaussianNoise(0.1, seed=-1), "seed -1 is negative"),
        (lambda m, p: tlk.corrupt([], tlk.GaussianNoise(0.1)), "no position to corrupt"),
    ],
)
def test_bad_noise_says_what_to_do(gpt2, prompt, call, message):
    with pytest.raises(CorruptionError, match=message):
        call(gpt2, prompt)
