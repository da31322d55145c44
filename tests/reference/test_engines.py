"""The growing-rows sweep equals the obvious loop, on every architecture, to 1e-12 in float64."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings

import tl_knowledge as tlk
from tl_knowledge.engine import rows
from tl_knowledge.engine.rows import growing_rows_refusal
from tl_knowledge.models.hook_names import COMPONENTS

EXACT = 1e-12
SEVERED = [(), "mlp_out", "attn_out", ("mlp_out", "attn_out")]
SMALLEST_BUDGET = 1.0  # one site at a time


def assert_engines_agree(model, prompt, **kwargs) -> tlk.CausalTrace:
    swept = tlk.trace(model, prompt, 0.7, samples=3, **kwargs)
    loop = tlk.trace(model, prompt, 0.7, samples=3, engine="loop", **kwargs)
    assert swept.provenance.engine.startswith("rows")
    torch.testing.assert_close(swept.indirect_effect, loop.indirect_effect, rtol=0, atol=EXACT, equal_nan=True)
    torch.testing.assert_close(swept.total_effect, loop.total_effect, rtol=0, atol=EXACT)
    return loop


@pytest.mark.parametrize("severed", SEVERED, ids=str)
@pytest.mark.parametrize("component", COMPONENTS[:5])
def test_every_component_and_severing(model, prompt, component, severed):
    few = {"units": [0, 3], "layers": [1, 3]} if component in ("head", "neuron") else {}
    loop = assert_engines_agree(model, prompt, component=component, sever=severed, **few)
    acts_through_severed = (component == "head" and "attn_out" in str(severed)) or (component == "neuron" and "mlp_out" in str(severed))
    largest = float(loop.indirect_effect.nan_to_num().abs().max())
    if acts_through_severed:
        assert largest < 1e-15  # the pinned module output overwrites what its own head or neuron restored
    else:
        assert largest > 1e-6  # there is an effect to agree about


@given(data=st.data())
@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_window_span_and_layers(model, prompt, data):
    span = data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=3, unique=True).map(sorted))
    assert_engines_agree(
        model,
        prompt,
        corrupt=span,
        component=data.draw(st.sampled_from(COMPONENTS[:3])),
        window=data.draw(st.integers(1, 4)),
        sever=data.draw(st.sampled_from(SEVERED)),
        layers=data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True)),
        positions=data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=7, unique=True)),
        variant=data.draw(st.sampled_from(["ours", "meng2022_code"])),
        multi_token=data.draw(st.booleans()),
        memory_budget=data.draw(st.sampled_from([SMALLEST_BUDGET, 2.0**18, 2.0**30])),
        seed=data.draw(st.integers(0, 5)),
    )


def test_relation_corruption(model, prompt):
    assert_engines_agree(model, prompt, corrupt="relation", component="attn_out")


def test_chunks_change_nothing(model, prompt):
    whole = tlk.trace(model, prompt, 0.7, samples=3)
    pieces = tlk.trace(model, prompt, 0.7, samples=3, memory_budget=SMALLEST_BUDGET)
    torch.testing.assert_close(whole.indirect_effect, pieces.indirect_effect, rtol=0, atol=EXACT)


def test_multi_token_effect_is_the_product_over_the_answer(model, prompt):
    result = tlk.trace(model, prompt, 0.7, samples=2, multi_token=True)
    forced = torch.cat([prompt.tokens, torch.tensor([[5, 6]])], dim=1)
    probabilities = model(forced)[0].softmax(-1).detach()
    expected = probabilities[6, 5] * probabilities[7, 6] * probabilities[8, 9]
    assert result.clean_probability == pytest.approx(float(expected), rel=1e-12)


def test_every_model_here_grows_rows(model):
    assert growing_rows_refusal(model) is None


def test_a_model_that_refuses_rows_falls_back_to_the_loop_and_says_so(gpt2, prompt, monkeypatch):
    expected = tlk.trace(gpt2, prompt, 0.7, samples=2)
    monkeypatch.setattr(rows._GROWING, "refusal", lambda model: "RuntimeError: shapes")
    result = tlk.trace(gpt2, prompt, 0.7, samples=2)
    assert result.provenance.engine == "loop (growing rows refused: RuntimeError: shapes)"
    torch.testing.assert_close(result.indirect_effect, expected.indirect_effect, rtol=0, atol=EXACT)


def test_the_probe_finds_a_model_that_mixes_rows(gpt2, monkeypatch):
    """A model whose rows see each other must be refused: batch statistics, expanded masks."""
    mixing = [("blocks.2.hook_mlp_out", lambda x, *, hook: x + x.mean(0, keepdim=True) * x.shape[0])]
    real = rows.run_rows
    monkeypatch.setattr(rows, "run_rows", lambda model, tokens, hooks: real(model, tokens, hooks + mixing))
    assert "different from the row" in rows.probe_growth(gpt2)
