"""``variant="meng2022_code"`` against Meng et al.'s program, written out again on a plain Hugging Face model.

What is here follows github.com/kmeng01/rome (MIT), experiments/causal_trace.py: a batch whose row 0 is clean, noise from
``numpy.random.RandomState(1)`` on the subject's embeddings of all other rows, states of row 0 copied into them, softmax at
the last position averaged over rows, windows ``l - w//2 .. l + w//2 - 1``. It uses torch hooks on the module itself and no
code of this package (``benchmarks/side_by_side/rome_tracing.py``). Its noise is pinned to frozen numbers, so that a change
of numpy's stream would be seen.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.benchmarks import imported
from transformers import GPT2Config, GPT2LMHeadModel

import tl_knowledge as tlk

rome_tracing = imported("side_by_side.rome_tracing")

SAMPLES, NOISE, WINDOW = 10, 0.4, 4
SUBJECT = range(1, 4)
MODULES = {"resid_post": "", "mlp_out": "mlp", "attn_out": "attn"}


@pytest.fixture(scope="module")
def hf_model():
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_layer=6, n_head=4, n_embd=16, n_positions=32, vocab_size=50, initializer_range=0.25))
    return model.eval().double()


@pytest.fixture(scope="module")
def bridge(hf_model):
    import copy

    from transformer_lens.model_bridge.sources import build_bridge_from_module

    module = copy.deepcopy(hf_model)
    return build_bridge_from_module(module, "GPT2LMHeadModel", hf_config=module.config, dtype=torch.float64)


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(0, 50, (1, 8), generator=torch.Generator().manual_seed(2))


def patched_scores(model, tokens, states, answer):
    """The program's ``trace_with_patch``: per-row probabilities of the noisy rows, before the mean."""
    noise = NOISE * torch.from_numpy(np.random.RandomState(1).randn(SAMPLES, len(SUBJECT), model.config.n_embd))
    return rome_tracing.noised_rows(model, tokens, SUBJECT, noise, answer, states)


def program_trace(model, tokens, component, width=WINDOW):
    """The program's ``trace_important_states`` / ``trace_important_window``: scores ``[sample layer pos]`` and the low score."""
    with torch.no_grad():
        answer = int(model(tokens).logits[0, -1].argmax())
    blocks = list(model.transformer.h)
    part = MODULES[component]
    low = patched_scores(model, tokens, [], answer)
    table = torch.empty(SAMPLES, len(blocks), tokens.shape[1], dtype=torch.float64)
    for position in range(tokens.shape[1]):
        for layer in range(len(blocks)):
            window = [layer] if not part else range(max(0, layer - width // 2), min(len(blocks), layer - (-width // 2)))
            modules = [getattr(blocks[index], part) if part else blocks[index] for index in window]
            table[:, layer, position] = patched_scores(model, tokens, [(position, m) for m in modules], answer)
    return table, low


@pytest.mark.parametrize("engine", ["rows", "loop"])
@pytest.mark.parametrize("component", MODULES)
def test_scores_equal_the_programs(hf_model, bridge, tokens, component, engine):
    scores, low = program_trace(hf_model, tokens, component)
    window = 1 if component == "resid_post" else WINDOW
    prompt = tlk.Prompt.from_tokens(tokens, subject=SUBJECT)
    result = tlk.trace(bridge, prompt, NOISE, component=component, window=window, variant="meng2022_code", engine=engine)
    assert result.known and result.provenance.seed == 0  # RandomState(1 + seed)
    torch.testing.assert_close(result.corrupted_probability, low, rtol=0, atol=1e-14)
    torch.testing.assert_close(result.indirect_effect + low[:, None, None], scores, rtol=0, atol=1e-14)


@pytest.mark.parametrize("width", [7, 10])
def test_windows_larger_than_the_model_are_the_programs(hf_model, bridge, tokens, width):
    """Cut off at the model's ends around each layer, not as wide as the model."""
    scores, low = program_trace(hf_model, tokens, "mlp_out", width)
    prompt = tlk.Prompt.from_tokens(tokens, subject=SUBJECT)
    shared = {"component": "mlp_out", "variant": "meng2022_code"}
    result = tlk.trace(bridge, prompt, NOISE, window=width, **shared)
    assert result.window == width > result.indirect_effect.shape[1]
    torch.testing.assert_close(result.indirect_effect + low[:, None, None], scores, rtol=0, atol=1e-14)
    assert width < 10 or torch.equal(tlk.trace(bridge, prompt, NOISE, **shared).indirect_effect, result.indirect_effect)


def test_noise_stream_is_the_programs_bit_for_bit():
    noise = tlk.GaussianNoise(1.0, seed=0, variant="meng2022_code")
    drawn = noise.corrupted(torch.zeros(SAMPLES, 8, 16, dtype=torch.float64), tuple(SUBJECT))
    assert torch.equal(drawn, torch.from_numpy(np.random.RandomState(1).randn(SAMPLES, 3, 16)))
    frozen = [1.62434536366324, -0.611756413650076, -0.5281717522634557]  # RandomState(1).randn(3), numpy since 1.0
    assert drawn[0, 0, :3].tolist() == pytest.approx(frozen, abs=1e-14)


def test_float32_noise_is_rounded_once():
    """The program adds float64 noise in place to float32 embeddings: one rounding, at the end."""
    embeddings = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
    expected = embeddings.clone()
    expected[:, 1:3] += 0.4 * torch.from_numpy(np.random.RandomState(1).randn(3, 2, 8))
    drawn = tlk.GaussianNoise(0.4, seed=0, variant="meng2022_code").corrupted(embeddings, (1, 2))
    assert torch.equal(drawn, expected[:, 1:3])
