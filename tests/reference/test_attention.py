"""Head reads, direct contributions and the logit lens against what one would write by hand, on every architecture."""

from __future__ import annotations

import pytest
import torch
from support import build, fingerprint, hooks_left

import tl_knowledge as tlk
from tl_knowledge.engine.recording import record
from tl_knowledge.errors import UnsupportedModelError
from tl_knowledge.models.final_norm import FinalNorm, normalised, unembed
from tl_knowledge.models.hook_names import UNEMBED_IN, block_output
from tl_knowledge.models.loading import hooked_transformer_available
from tl_knowledge.models.unembedding import Unembedding

NOISE = tlk.GaussianNoise(0.7, seed=3)
HEADS_SUM = ("bridge-gpt2", "bridge-llama", "bridge-gptneox", "bridge-gptj", "ht-gpt2", "ht-parallel", "ht-llama")


def rounding(model):
    """Hugging Face's RMSNorm computes in float32 whatever the weights' type."""
    return 1e-5 if "RMS" in str(type(getattr(getattr(model, "ln_final", None), "original_component", None))) else 1e-9


def clean_logits(model, prompt):
    """Before any soft cap."""
    with torch.no_grad():
        state = record(model, prompt.tokens, [], [UNEMBED_IN])[UNEMBED_IN][0, prompt.last.last]
    head = Unembedding.of(model)
    return state @ head.weights + (0 if head.bias is None else head.bias)


@pytest.mark.parametrize("against", [None, 7])
def test_direct_contributions_add_up_to_the_logit(model, prompt, against):
    before = fingerprint(model)
    parts = tlk.direct_logit_attribution(model, prompt, against=against)
    logits = clean_logits(model, prompt)
    expected = logits[prompt.target_token] - (logits.mean() if against is None else logits[against])
    assert parts.logit == pytest.approx(float(expected.detach()), abs=rounding(model))
    assert parts.table["direct"].sum() + parts.biases == pytest.approx(parts.logit, abs=rounding(model))
    assert (parts.table[["subject", "relation", "other"]].sum(1) - parts.table["direct"]).abs().max() < 1e-12
    assert parts.by_layer()[["attention", "mlp"]].to_numpy().sum() + parts.table["direct"].iloc[0] == pytest.approx(
        parts.logit - parts.biases, abs=rounding(model)
    )
    assert fingerprint(model) == before and not hooks_left(model)


@pytest.mark.parametrize("name", HEADS_SUM)
def test_a_head_s_contribution_is_its_output_through_the_frozen_norm(name, prompt):
    if name.startswith("ht") and not hooked_transformer_available():
        pytest.skip("this TransformerLens has no HookedTransformer")
    model = build(name)
    parts = tlk.direct_logit_attribution(model, prompt).table.set_index(["component", "layer", "head"])
    _, cache = model.run_with_cache(prompt.tokens)
    norm, head = FinalNorm.of(model), Unembedding.of(model)
    towards = head.weights[:, 5] - head.weights.mean(1)
    state, output = cache["blocks.3.hook_resid_post"][0, -1], cache[UNEMBED_IN][0, -1]
    for layer in range(4):
        for number in range(4):
            written = cache[f"blocks.{layer}.attn.hook_z"][0, -1, number] @ model.blocks[layer].attn.W_O[number]
            expected = norm.frozen_at(state, output, written[None]) @ towards
            row = parts.loc[("head", layer, number)]
            assert row["direct"] == pytest.approx(float(expected.detach()), abs=rounding(model))
            pattern = cache[f"blocks.{layer}.attn.hook_pattern"][0, number, -1]
            values = cache[f"blocks.{layer}.attn.hook_v"][0].reshape(7, -1, 4)
            value = values[:, number * values.shape[1] // 4]
            from_subject = (pattern[1:3, None] * value[1:3]).sum(0) @ model.blocks[layer].attn.W_O[number]
            assert row["subject"] == pytest.approx(float((norm.frozen_at(state, output, from_subject[None]) @ towards).detach()), abs=rounding(model))


def test_heads_behind_a_norm_are_not_told_apart(prompt):
    """Gemma-2 normalises what its heads write together."""
    parts = tlk.direct_logit_attribution(build("bridge-gemma2"), prompt).table
    assert set(parts["component"]) == {"embed", "attn_out", "mlp_out"}
    with pytest.raises(UnsupportedModelError, match="not the sum of its heads"):
        tlk.analyse_attention(build("bridge-gemma2"), prompt, NOISE, samples=2)


def test_the_lens_reads_what_the_model_says(model, prompt):
    lens = tlk.logit_lens(model, prompt)
    with torch.no_grad():
        said = model(prompt.tokens)[0].softmax(-1)
    last = lens.table.query("layer == 3").sort_values("pos")
    torch.testing.assert_close(torch.tensor(last["probability"].to_numpy()), said[:, 5], rtol=0, atol=1e-12)
    assert last["rank"].tolist() == (said > said[:, 5:6]).sum(1).tolist()
    states = record(model, prompt.tokens, [], [block_output(1)])[block_output(1)][0]
    early = lens.table.query("layer == 1").sort_values("pos")
    torch.testing.assert_close(torch.tensor(early["probability"].to_numpy()), unembed(model, states).softmax(-1)[:, 5], rtol=0, atol=1e-12)
    by_hand = model.ln_final(states[None])[0]
    torch.testing.assert_close(normalised(model, states), by_hand.detach(), rtol=0, atol=1e-12)


def test_the_norm_is_found_by_probing(model):
    """On states it has never seen."""
    norm = FinalNorm.of(model)
    states = torch.randn(5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    outputs = normalised(model, states)
    for state, output in zip(states, outputs, strict=True):
        torch.testing.assert_close(norm.frozen_at(state, output, state[None])[0] + norm.bias, output, rtol=0, atol=rounding(model))


def test_every_column_of_the_analysis_by_hand(model, prompt):
    if "gemma" in str(getattr(model.cfg, "original_architecture", "") or getattr(model.cfg, "architecture", "")).lower():
        pytest.skip("its heads are not told apart, which is tested above")
    heads = tlk.analyse_attention(model, prompt, NOISE, samples=2)
    before = fingerprint(model)
    with torch.no_grad():
        probability, (_, clean) = model(prompt.tokens)[0, -1].softmax(-1)[5], model.run_with_cache(prompt.tokens)
        for side in ("subject", "relation"):
            span = prompt.span(side)
            with model.hooks(fwd_hooks=tlk.corrupt(span, NOISE)):
                _, corrupted = model.run_with_cache(prompt.batch(2))
            traced = tlk.trace(model, prompt, NOISE, corrupt=side, component="head", samples=2).mean_effect[:, -1]
            for row in heads.table.to_dict("records"):
                layer, head = row["layer"], row["head"]
                patterns = [run[f"blocks.{layer}.attn.hook_pattern"][:, head] for run in (clean, corrupted)]
                moved = (patterns[1][:, -1] - patterns[0][:, -1]).abs().sum(-1).mean() / 2
                assert row[f"moved_{side}"] == pytest.approx(float(moved), abs=1e-11)
                assert row[f"{side}_from_last"] == pytest.approx(float(patterns[0][0, -1, list(span)].sum()), abs=1e-11)
                assert row[f"effect_{side}"] == pytest.approx(float(traced[layer, head]), abs=1e-11)
        for row in heads.table.to_dict("records"):

            def silence(z, *, hook, head=row["head"]):
                changed = z.clone()
                changed[:, :, head] = 0
                return changed

            logits = model.run_with_hooks(prompt.tokens, fwd_hooks=[(f"blocks.{row['layer']}.attn.hook_z", silence)])
            assert row["knockout"] == pytest.approx(float((logits[0, -1].softmax(-1)[5] - probability) / probability), abs=1e-9)
    assert fingerprint(model) == before and not hooks_left(model)
