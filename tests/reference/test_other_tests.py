"""The attribution screen, attention knockout and perturbation test against slow references."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from support import MASKED_BUILDERS, bert_directory, build

import tl_knowledge as tlk
from tl_knowledge.errors import InputError, UnsupportedModelError
from tl_knowledge.models.description import weight_fingerprint
from tl_knowledge.models.protocol import layer_count
from tl_knowledge.runs.windows import window_layers

EXACT = 1e-12


@pytest.mark.parametrize("component", ["resid_post", "mlp_out", "attn_out", "head", "neuron"])
def test_the_screen_is_the_derivative_of_the_effect(model, prompt, component):
    """For ever smaller noise the estimate's relative error vanishes as the noise does: it is the first-order term."""
    few = {"units": [0, 3]} if component in ("head", "neuron") else {}
    errors = []
    for sd in (1e-2, 1e-3):
        kwargs = {"component": component, "window": 1, "samples": 2, **few}
        exact = tlk.trace(model, prompt, sd, **kwargs)
        estimate = tlk.trace(model, prompt, sd, engine="screen", verify=0, **kwargs)
        effect, guess = exact.indirect_effect.nan_to_num(), estimate.indirect_effect.nan_to_num()
        errors.append(float((effect - guess).abs().max() / effect.abs().max()))
    float32_floor = 0.01  # some bridges' norms and softmaxes run in float32 whatever the weights are
    assert errors[1] < 0.25 * errors[0] + float32_floor
    assert errors[1] < 0.05


def test_verified_sites_are_exact_and_the_check_says_how_well_the_rest_agreed(factlm):
    prompt = tlk.Prompt.from_fact(factlm, tlk.load_facts()[0])
    exact = tlk.trace(factlm, prompt, component="mlp_out")
    screen = tlk.trace(factlm, prompt, component="mlp_out", engine="screen", verify=20)
    same = (screen.mean_effect - exact.mean_effect).abs() < 1e-6
    assert 20 <= int(same.sum()) < same.numel()  # zeros without a run are the same in both
    assert screen.screen is not None and screen.screen.verified == 20
    assert -1.0 <= screen.screen.rank_correlation <= 1.0 and screen.screen.largest_error > 0
    assert "20 sites verified by rows" in screen.provenance.engine
    assert exact.screen is None


def test_a_screen_of_sites_that_cannot_matter_is_zeros_as_the_sweep_is(factlm):
    prompt = tlk.Prompt.from_fact(factlm, tlk.load_facts()[0])
    screen, rows = (tlk.trace(factlm, prompt, layers=[7], positions=[0], engine=engine, progress=False) for engine in ("screen", "rows"))
    torch.testing.assert_close(screen.indirect_effect, rows.indirect_effect, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(screen.total_effect, rows.total_effect, rtol=0, atol=0)
    assert screen.screen is not None and screen.screen.verified == 0 and screen.provenance.engine == "screen, 0 sites verified by rows"


def test_the_screen_survives_saving(tmp_path, gpt2, prompt):
    result = tlk.trace(gpt2, prompt, 0.5, engine="screen", verify=5, samples=2)
    assert tlk.CausalTrace.load(result.save(tmp_path / "screen")).screen == result.screen


def test_windows_of_modules_are_summed(gpt2, prompt):
    single = tlk.trace(gpt2, prompt, 1e-5, component="mlp_out", window=1, samples=2, engine="screen", verify=0).indirect_effect
    pairs = tlk.trace(gpt2, prompt, 1e-5, component="mlp_out", window=2, samples=2, engine="screen", verify=0).indirect_effect
    torch.testing.assert_close(pairs[:, 1], single[:, 1] + single[:, 2], rtol=0, atol=EXACT)


def knocked_out_by_hand(model, prompt, keys, layers) -> float:
    """One forward in which the pattern's blocked entries are zero and the rest renormalised."""

    def block(pattern, *, hook):
        changed = pattern.clone()
        changed[:, :, -1, list(keys)] = 0
        return changed / changed.sum(-1, keepdim=True)

    hooks = [(f"blocks.{layer}.attn.hook_pattern", block) for layer in layers]
    with torch.no_grad():
        logits = model.run_with_hooks(prompt.tokens, fwd_hooks=hooks)
    return float(logits[0, -1].softmax(-1)[prompt.target_token])


@pytest.mark.parametrize("window", [1, 3])
def test_knockout_equals_renormalised_patterns_one_forward_each(window):
    model = tlk.load_model("factlm", dtype=torch.float64)
    facts = tlk.load_facts()[::700]
    found = tlk.measure_attention_knockout(model, facts, window=window, progress=False)
    for row, fact in enumerate(facts):
        prompt = tlk.Prompt.from_fact(model, fact)
        clean = float(model(prompt.tokens)[0, -1].softmax(-1)[prompt.target_token])
        sets = {
            "subject": prompt.subject.positions,
            "relation": [p for p in prompt.relation if p != prompt.last.last],
            "last": prompt.last.positions,
        }
        for index, name in enumerate(found.at):
            for layer in range(layer_count(model)):
                first, last = window_layers(layer, window, 8, "ours")
                expected = (knocked_out_by_hand(model, prompt, sets[name], range(first, last + 1)) - clean) / clean
                assert found.change[row, index, layer] == pytest.approx(expected, abs=1e-9)


def test_knockout_hook_blocks_what_it_says(model, prompt):
    hooks = tlk.knock_out_attention(prompt.last, [1, 2], layers=1, heads=2)
    patterns = []
    record = [("blocks.1.attn.hook_pattern", lambda x, *, hook: patterns.append(x.detach().clone()))]
    model.run_with_hooks(prompt.tokens, fwd_hooks=hooks + record)
    if float(patterns[0][0, 2, -1, 1]) != 0:  # a bridge that only shows its scores
        with pytest.raises(tlk.errors.UnsupportedModelError, match="ignores what is written"):
            from tl_knowledge.attention.knockout import _check_writable

            _check_writable(model)
        return
    assert float(patterns[0][0, 2, -1, [1, 2]].sum()) == 0
    assert float(patterns[0][0, 2, -1].sum()) == pytest.approx(1.0, abs=1e-6)
    assert float(patterns[0][0, 1, -1, 1]) > 0 and float(patterns[0][0, 2, -2, 1]) > 0


def test_knockout_of_given_rows_leaves_the_others(gpt2, prompt):
    plain = gpt2(prompt.batch(2))
    cut = gpt2.run_with_hooks(prompt.batch(2), fwd_hooks=tlk.knock_out_attention(6, [1], layers=[0, 1], rows=[1]))
    torch.testing.assert_close(cut[0], plain[0], rtol=0, atol=0)
    assert float((cut[1, -1] - plain[1, -1]).detach().abs().max()) > 1e-6


def test_perturbation_equals_the_hooks_by_hand(factlm):
    facts = tlk.load_facts()[::250]
    test = tlk.tracing.perturb_embeddings(factlm, facts, samples=3, seed=4, progress=False)
    sd = test.noise.scale
    assert sd == pytest.approx(float(factlm.W_E.detach().double().abs().mean()) / 3)
    for fact, row in zip(facts, test.table.to_dict(orient="records"), strict=True):
        prompt = tlk.Prompt.from_fact(factlm, fact)
        noise = tlk.GaussianNoise(sd, seed=tlk.tracing.fact_seed(fact, seed=4))
        with torch.no_grad():
            logits = factlm.run_with_hooks(prompt.batch(3), fwd_hooks=tlk.corrupt(range(len(prompt)), noise))
        assert row["perturbed"] == pytest.approx(float(logits[:, -1].softmax(-1)[:, prompt.target_token].mean()), abs=1e-5)
        assert row["drop"] == pytest.approx(row["clean"] - row["perturbed"])
    overall = test.by_relation().set_index("relation").loc["all"]
    assert overall["drop"] == pytest.approx(test.table["drop"].mean()) and overall["low"] <= overall["drop"] <= overall["high"]
    assert "Drop of P(answer)" in test.plot().layout.meta["title"]


def _model_and_facts(name, tmp_path_factory):
    kind, _, backend = name.partition(" ")
    if kind == "factlm":
        return tlk.load_model("factlm", **({"backend": backend} if backend else {})), tlk.load_facts()[::700]
    directory = bert_directory(tmp_path_factory.mktemp("bert"))
    facts = [tlk.Fact(s, "the capital of {} is", o, r, ("the city of {} is",)) for s, o, r in (("france", " paris", "x"), ("peru", " lima", "y"))]
    bridge = tlk.load_model(directory, backend="bridge")
    if backend == "bridge":
        return bridge, facts
    if "hooked-encoder" not in MASKED_BUILDERS:
        pytest.skip("TransformerLens 4 has no HookedEncoder")
    encoder = copy.deepcopy(build("hooked-encoder"))
    encoder.tokenizer = bridge.tokenizer
    return encoder, facts


@pytest.mark.parametrize("name", ["factlm", "factlm bridge", "bert bridge", "bert encoder"])
def test_noise_on_the_embedding_matrix_equals_noise_in_the_weights(name, tmp_path_factory):
    """Wen and Bai's: the weights written over in a copy, the tied unembedding with them."""
    model, facts = _model_and_facts(name, tmp_path_factory)
    before = weight_fingerprint(model)
    noise = 3.0 if name == "bert encoder" else None  # whose small random weights a little noise leaves as they are
    test = tlk.tracing.perturb_embeddings(model, facts, noise, variant="wen_bai", seed=4, progress=False)
    assert weight_fingerprint(model) == before
    masked, tied = name.startswith("bert"), torch.equal(model.W_U, model.W_E.T)
    assert tied == (name != "bert encoder")  # random weights of its own
    assert (test.noise, test.samples, test.variant) == (tlk.GaussianNoise(noise or (0.01 if masked else 0.03)), 1, "wen_bai")
    for fact, row in zip(facts, test.table.to_dict(orient="records"), strict=True):
        drawn = torch.tensor(tlk.GaussianNoise(1.0, seed=tlk.tracing.fact_seed(fact, seed=4)).draw((1, *model.W_E.shape)))[0] * test.noise.scale
        changed = copy.deepcopy(model)
        with torch.no_grad():
            embedding, unembedding = changed.W_E, changed.W_U
            embedding += drawn.to(embedding)
            if tied and not torch.equal(unembedding, embedding.T):  # in values, not in memory
                unembedding += drawn.to(unembedding).T
        prompts = [tlk.Prompt.from_fact(model, fact.rephrase(template)) for template in (fact.template, *fact.paraphrases)]
        with torch.no_grad():
            values = [[float(m(p.tokens)[0, p.last.last].softmax(-1)[p.target_token]) for p in prompts] for m in (model, changed)]
        assert (row["clean"], row["perturbed"]) == pytest.approx([np.mean(value) for value in values], rel=1e-5)
        assert abs(row["clean"] - row["perturbed"]) > 1e-6


@pytest.mark.parametrize("name", ["bert bridge", "bert encoder"])
def test_the_perturbation_test_on_masked_models(name, tmp_path_factory):
    model, facts = _model_and_facts(name, tmp_path_factory)
    test = tlk.tracing.perturb_embeddings(model, facts, 0.5, samples=2, progress=False)
    site = "embed.hook_out" if name == "bert bridge" else "embed.hook_embed"
    for fact, row in zip(facts, test.table.to_dict(orient="records"), strict=True):
        prompt = tlk.Prompt.from_fact(model, fact)
        drawn = torch.tensor(tlk.GaussianNoise(1.0, seed=tlk.tracing.fact_seed(fact)).draw((2, len(prompt), 16))) * 0.5
        with torch.no_grad():
            logits = model.run_with_hooks(prompt.batch(2), fwd_hooks=[(site, lambda x, *, hook, n=drawn: x + n.to(x))])
        assert row["perturbed"] == pytest.approx(float(logits[:, prompt.last.last].softmax(-1)[:, prompt.target_token].mean()), rel=1e-5)
        assert row["drop"] == row["clean"] - row["perturbed"] != 0


def test_noise_on_the_matrix_of_processed_weights_is_refused():
    processed = tlk.load_model("factlm", process_weights=True)
    with pytest.raises(UnsupportedModelError, match="process_weights=False"):
        tlk.tracing.perturb_embeddings(processed, tlk.load_facts()[:1], variant="wen_bai")
    with pytest.raises(InputError, match="variant 'wenbai' is unknown, did you mean 'wen_bai'"):
        tlk.tracing.perturb_embeddings(processed, tlk.load_facts()[:1], variant="wenbai")


def test_knockout_results_draw_themselves(factlm):
    found = tlk.measure_attention_knockout(factlm, tlk.load_facts()[:3], window=3, progress=False)
    frame = found.to_dataframe()
    assert list(frame.columns) == ["blocked", "layer", "change", "low", "high", "facts"]
    figure = found.plot()
    assert [t.name for t in figure.data if t.showlegend] == ["subject tokens", "relation tokens", "last token"]
    np.testing.assert_allclose(figure.data[1].y, frame[frame["blocked"] == "subject"]["change"])


def test_knockout_and_perturbation_save_and_load(tmp_path, factlm):
    facts = tlk.load_facts()[:3]
    found = tlk.measure_attention_knockout(factlm, facts, window=3, progress=False)
    again = tlk.attention.AttentionKnockout.load(found.save(tmp_path / "knockout"))
    np.testing.assert_array_equal(again.change, found.change)
    assert (again.facts, again.at, again.window, again.provenance) == (found.facts, found.at, found.window, found.provenance)
    assert again.top(2)["change"].abs().max() == found.to_dataframe()["change"].abs().max()
    test = tlk.tracing.perturb_embeddings(factlm, facts, samples=2, progress=False)
    loaded = tlk.tracing.PerturbationTest.load(test.save(tmp_path / "perturbation"))
    assert loaded.to_dataframe().equals(test.to_dataframe())
    assert (loaded.noise, loaded.samples, loaded.seed, loaded.provenance) == (test.noise, test.samples, test.seed, test.provenance)
    assert loaded.top(1)["drop"].item() == test.table["drop"].max()
