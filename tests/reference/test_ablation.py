"""Ablation: hooks and the driver's growing rows equal hooks written by hand, one forward a part, on every architecture, to 1e-12 in float64."""

from __future__ import annotations

import pytest
import torch
from support import VOCABULARY, fingerprint, hooks_left

import tl_knowledge as tlk
from tl_knowledge.engine import rows

EXACT = 1e-12
SITE = {"head": "attn.hook_z", "neuron": "mlp.hook_post", "mlp_out": "hook_mlp_out", "attn_out": "hook_attn_out"}
PARTS = {
    "head": {"heads": [(1, 2)]},
    "neuron": {"neurons": [(2, 5)]},
    "mlp_out": {"modules": [(0, "mlp_out")]},
    "attn_out": {"modules": [(2, "attn_out")]},
    "together": {"heads": [(1, 2), (1, 0), (3, 3)], "neurons": [(0, 1), (2, 5), (2, 7)], "modules": [(2, "attn_out"), (3, "mlp_out")]},
}


@pytest.fixture
def prompts() -> list[tlk.Prompt]:
    """Four prompts, of seven, six, seven and seven tokens."""
    draw = torch.Generator().manual_seed(5)
    return [
        tlk.Prompt.from_tokens(torch.randint(0, VOCABULARY, (1, length), generator=draw), subject=range(1, 3), target=[5]) for length in (7, 6, 7, 7)
    ]


def pieces(part):
    """Component, layer and unit of everything that is ablated."""
    for word, kind in (("heads", "head"), ("neurons", "neuron")):
        yield from ((kind, layer, unit) for layer, unit in part.get(word, ()))
    yield from ((module, layer, None) for layer, module in part.get("modules", ()))


def remembering(function):
    """Each value once a model, prompt and hook: models are built once, too."""
    known = {}

    def remembered(model, tokens, name):
        key = (id(model), tuple(tokens[0].tolist()), name)
        if key not in known:
            known[key] = function(model, tokens, name)
        return known[key]

    return remembered


@remembering
def seen(model, tokens, name):
    """An activation ``[pos ...]`` as the model runs."""
    kept = []
    with torch.no_grad():
        model.run_with_hooks(tokens, fwd_hooks=[(name, lambda x, *, hook: kept.append(x.detach().clone()))])
    return kept[0][0]


def by_hand(model, prompt, part, value_at, positions):
    """P(answer) of one plain forward in which every position and piece is overwritten, one after the other."""

    def overwrite(name, unit):
        values = {position: value_at(name, position) for position in positions}

        def write(x, *, hook):
            changed = x.clone()
            for position, value in values.items():
                if unit is None:
                    changed[0, position] = value
                else:
                    changed[0, position, unit] = value[unit]
            return changed

        return (name, write)

    hooks = [overwrite(f"blocks.{layer}.{SITE[kind]}", unit) for kind, layer, unit in pieces(part)]
    with torch.no_grad():
        logits = model.run_with_hooks(prompt.tokens, fwd_hooks=hooks)
    return float(logits[0, -1].softmax(-1)[prompt.target_token])


def means_by_hand(model, prompts, at):
    """Of every token of all prompts, one after the other; or of one token each."""

    def value(name, _):
        vectors = [
            vector for prompt in prompts for i, vector in enumerate(seen(model, prompt.tokens, name)) if at is None or i == prompt.span(at).last
        ]
        return torch.stack(vectors).mean(0)

    return value


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(("by", "at"), [("zero", None), ("mean", None), ("mean", "subject")])
def test_the_driver_equals_hooks_by_hand(model, prompts, part, by, at):
    before = fingerprint(model)
    given = PARTS[part] | {"by": by, "at": at, "together": part == "together", "progress": False}
    effects = tlk.tracing.measure_ablation(model, prompts, **given)
    assert effects.provenance.engine == "rows" and len(effects.table) == len(prompts)
    means = means_by_hand(model, prompts, at)
    for prompt, row in zip(prompts, effects.table.to_dict(orient="records"), strict=True):
        where = range(len(prompt)) if at is None else [prompt.span(at).last]
        zeros = lambda name, position, prompt=prompt: torch.zeros_like(seen(model, prompt.tokens, name)[position])  # noqa: E731
        expected = by_hand(model, prompt, PARTS[part], zeros if by == "zero" else means, where)
        clean = float(model(prompt.tokens)[0, -1].detach().softmax(-1)[prompt.target_token])
        assert row["ablated"] == pytest.approx(expected, rel=0, abs=EXACT)
        assert row["clean"] == pytest.approx(clean, rel=0, abs=EXACT)
        assert row["change_absolute"] == pytest.approx(expected - clean, rel=0, abs=EXACT)
        assert row["change"] == pytest.approx((expected - clean) / clean, rel=1e-9)
    assert float(effects.table["change_absolute"].abs().max()) > 1e-6  # there is an effect to agree about
    loop = tlk.tracing.measure_ablation(model, prompts, engine="loop", **given)
    torch.testing.assert_close(torch.tensor(loop.table["ablated"]), torch.tensor(effects.table["ablated"]), rtol=0, atol=EXACT)
    assert hooks_left(model) == [] and fingerprint(model) == before


@pytest.mark.parametrize("at", [None, "last"])
@pytest.mark.parametrize("part", ["head", "together"])
def test_resampling_writes_what_another_of_the_prompts_has(model, prompts, part, at):
    """Which other one the seed decides; whichever it is, its activations stand in the same place."""
    given = [prompt for prompt in prompts if len(prompt) == 7] if at is None else prompts
    effects = tlk.tracing.measure_ablation(model, given, by="resample", at=at, together=True, progress=False, **PARTS[part])
    for prompt, row in zip(given, effects.table.to_dict(orient="records"), strict=True):
        candidates = []
        for other in given:
            there = {position: position if at is None else other.last.last for position in range(len(prompt))}
            value = lambda name, position, other=other, there=there: seen(model, other.tokens, name)[there[position]]  # noqa: E731
            where = range(len(prompt)) if at is None else [prompt.last.last]
            candidates.append(by_hand(model, prompt, PARTS[part], value, where))
        assert min(abs(row["ablated"] - value) for other, value in zip(given, candidates, strict=True) if other is not prompt) < EXACT
    again = tlk.tracing.measure_ablation(model, given, by="resample", at=at, together=True, progress=False, **PARTS[part])
    assert again.table.equals(effects.table)


def test_a_seed_draws_other_prompts(gpt2, prompts):
    draws = [tlk.tracing.measure_ablation(gpt2, prompts, heads=[(1, 2)], by="resample", at="last", seed=seed, progress=False) for seed in range(4)]
    assert len({tuple(draw.table["ablated"]) for draw in draws}) > 1


def test_the_factory_alone(model, prompt):
    """Zeros, a mean over a cache, and another run's activations, at some positions, for every row."""
    other = torch.randint(0, VOCABULARY, (3, 7), generator=torch.Generator().manual_seed(9))
    _, cache = model.run_with_cache(other)
    name = "blocks.1.attn.hook_z"
    kept = []
    watch = [(name, lambda x, *, hook: kept.append(x.detach().clone()))]
    with torch.no_grad():
        plain = model.run_with_hooks(prompt.batch(3), fwd_hooks=watch)
        for by, value in (("zero", 0.0), ("mean", cache[name].mean((0, 1))[2]), ("resample", cache[name][:, [-1, 2], 2])):
            hooks = tlk.ablate(heads=(1, 2), by=by, recorded=cache, positions=[-1, 2])
            changed = model.run_with_hooks(prompt.batch(3), fwd_hooks=hooks + watch)
            expected = kept[0].clone()
            expected[:, [-1, 2], 2] = value
            torch.testing.assert_close(kept[-1], expected, rtol=0, atol=EXACT)
            assert float((changed - plain).abs().max()) > 1e-6


def test_chunks_and_a_model_that_refuses_rows_change_nothing(gpt2, prompts, monkeypatch):
    given = {"heads": "all", "modules": "mlp_out", "neurons": [(0, 1), (3, 2)], "progress": False}
    whole = tlk.tracing.measure_ablation(gpt2, prompts, **given)
    assert len(whole.table) == len(prompts) * (16 + 4 + 2)
    pieces_ = tlk.tracing.measure_ablation(gpt2, prompts, memory_budget=1.0, **given)
    torch.testing.assert_close(torch.tensor(pieces_.table["ablated"]), torch.tensor(whole.table["ablated"]), rtol=0, atol=EXACT)
    monkeypatch.setattr(rows._GROWING, "refusal", lambda model: "RuntimeError: shapes")
    alone = tlk.tracing.measure_ablation(gpt2, prompts, **given)
    assert alone.provenance.engine == "loop (growing rows refused: RuntimeError: shapes)"
    torch.testing.assert_close(torch.tensor(alone.table["ablated"]), torch.tensor(whole.table["ablated"]), rtol=0, atol=EXACT)


def test_means_leave_bos_out_and_stop_where_told(gpt2, prompts):
    name = "blocks.1.attn.hook_z"
    with_bos = [tlk.Prompt.from_tokens(prompt.tokens, subject=range(1, 3), has_bos=True) for prompt in prompts]
    every = torch.cat([seen(gpt2, prompt.tokens, name)[1:] for prompt in prompts])
    mean = tlk.tracing.mean_activations(gpt2, with_bos, heads=(1, 0), progress=False)
    torch.testing.assert_close(mean[name][0, 0], every.mean(0), rtol=0, atol=EXACT)
    few = tlk.tracing.mean_activations(gpt2, with_bos, heads=(1, 0), tokens=8, progress=False)
    torch.testing.assert_close(few[name][0, 0], every[:8].mean(0), rtol=0, atol=EXACT)


def test_intervals_are_over_prompts(factlm):
    """The mean and its percentile bootstrap, computed again from the table."""
    prompts = [tlk.Prompt.from_fact(factlm, fact) for fact in tlk.load_facts("factlm")[::200][:8]]
    effects = tlk.tracing.measure_ablation(factlm, prompts, modules="mlp_out", by="mean", corpus=tlk.load_corpus(limit=20), progress=False)
    summary = effects.summary(effect="absolute").set_index("part")
    for part, own in effects.table.groupby("part"):
        assert summary.loc[part, "change"] == pytest.approx(float((own["ablated"] - own["clean"]).mean()), abs=1e-12)
        assert own["change_absolute"].min() <= summary.loc[part, "low"] <= summary.loc[part, "change"] <= summary.loc[part, "high"]
    assert effects.settings.tokens > 500


def test_texts_of_means_are_read_as_every_corpus_is(factlm):
    """Behind BOS, cut at the context; one without a token of its own is left out."""
    name, texts = "blocks.1.attn.hook_z", ["", "The capital of France is", "Rome " * 200]
    rows = [factlm.to_tokens(text)[:, : factlm.cfg.n_ctx] for text in texts[1:]]
    expected = torch.cat([seen(factlm, row, name)[1:] for row in rows]).double().mean(0)
    mean = tlk.tracing.mean_activations(factlm, texts, heads=(1, 0), progress=False)
    torch.testing.assert_close(mean[name][0, 0].double(), expected, rtol=0, atol=1e-5)
    with pytest.raises(tlk.errors.DataError, match="no text with a token but BOS"):
        tlk.tracing.mean_activations(factlm, [""], heads=(1, 0), progress=False)
