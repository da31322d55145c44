"""Sites inside a block: the sweep equals the loop and hooks written by hand, on every architecture, to 1e-12 in float64."""

from __future__ import annotations

import pytest
import torch
from support import build, fingerprint, hooks_left
from support.models import HARD_BUILDERS

import tl_knowledge as tlk
from tl_knowledge.engine.acting import site_refusal
from tl_knowledge.engine.recording import record
from tl_knowledge.errors import ComponentError
from tl_knowledge.models.hook_names import COMPONENTS
from tl_knowledge.runs.windows import unit_count

EXACT = 1e-12
SITES = COMPONENTS[5:]
HOOKS = {
    "resid_pre": "hook_resid_pre",
    "q": "attn.hook_q",
    "k": "attn.hook_k",
    "v": "attn.hook_v",
    "z": "attn.hook_z",
    "pattern": "attn.hook_pattern",
    "attn_scores": "attn.hook_attn_scores",
}
HEADS = tuple(site for site in SITES if site not in ("resid_pre", "mlp_in"))
NOISE = tlk.GaussianNoise(0.7, seed=4)


def skip_shown_only(model, *sites):
    """GPT-J's bridge shows patterns and scores, and computes past them: its own test is below."""
    if any(site_refusal(model, site) for site in sites):
        assert set(sites) & {"pattern", "attn_scores"} and type(model.blocks[0]).__name__ and "gptj" in str(model.cfg.architecture).lower()
        pytest.skip("shown only")


def few(site):
    return {"units": [0, 1], "layers": [1, 3]} if site in HEADS else {}


def traced(model, prompt, engine, **kwargs):
    return tlk.trace(model, prompt, NOISE, samples=2, engine=engine, **kwargs)


def assert_engines_agree(model, prompt, **kwargs):
    swept, loop = (traced(model, prompt, engine, **kwargs) for engine in ("rows", "loop"))
    assert swept.provenance.engine.startswith("rows")
    torch.testing.assert_close(swept.indirect_effect, loop.indirect_effect, rtol=0, atol=EXACT, equal_nan=True)
    return loop


@pytest.mark.parametrize("site", SITES)
def test_a_site_restored_by_both_engines(model, prompt, site):
    skip_shown_only(model, site)
    before = fingerprint(model)
    loop = assert_engines_agree(model, prompt, component=site, **few(site))
    assert float(loop.indirect_effect.abs().max()) > 1e-6
    assert hooks_left(model) == [] and fingerprint(model) == before


@pytest.mark.parametrize("site", SITES)
def test_a_site_severed_by_both_engines(model, prompt, site):
    """The restored state acts through less; where nothing of it is left, the effect is nought."""
    skip_shown_only(model, site)
    loop = assert_engines_agree(model, prompt, component="resid_post", sever=site)
    intact = traced(model, prompt, "rows", component="resid_post")
    assert float((loop.indirect_effect - intact.indirect_effect).abs().max()) > 1e-9


@pytest.mark.parametrize(
    "given", [("resid_pre", 3, ()), ("k", 2, "mlp_out"), ("v", 3, "attn_out"), ("q", 2, "mlp_in"), ("mlp_in", 2, ("z", "k"))], ids=str
)
def test_windows_and_severing_together(model, prompt, given):
    component, window, sever = given
    assert_engines_agree(model, prompt, component=component, window=window, sever=sever, corrupt=[2, 3], multi_token=True, memory_budget=2.0**18)


@pytest.mark.parametrize("site", HOOKS)
def test_a_site_restored_by_hand(model, prompt, site):
    """Corrupted run, one clean value written at one token of one head: plain TransformerLens, nothing of this package but the noise."""
    skip_shown_only(model, site)
    layer, pos, unit = 1, 4, 1
    name, kept = f"blocks.{layer}.{HOOKS[site]}", []
    with torch.no_grad():
        model.run_with_hooks(prompt.tokens, fwd_hooks=[(name, lambda x, *, hook: kept.append(x.detach().clone()))])

    def write(x, *, hook):
        changed = x.clone()
        for row in range(2):
            if site == "resid_pre":
                changed[row, pos] = kept[0][0, pos]
            elif site in ("pattern", "attn_scores"):
                changed[row, unit, pos] = kept[0][0, unit, pos]
            else:
                changed[row, pos, unit] = kept[0][0, pos, unit]
        return changed

    noise = tlk.corrupt(prompt.subject, NOISE)
    with torch.no_grad():
        plain, restored = (
            model.run_with_hooks(prompt.batch(2), fwd_hooks=hooks)[:, -1].softmax(-1)[:, 5] for hooks in (noise, [*noise, (name, write)])
        )
    units = {} if site == "resid_pre" else {"units": [unit]}
    effect = traced(model, prompt, "rows", component=site, layers=[layer], positions=[pos], **units).indirect_effect
    effect = effect[:, 0, pos].flatten()
    torch.testing.assert_close(effect, restored - plain, rtol=0, atol=EXACT)
    assert float(effect.abs().max()) > 1e-9


def test_what_an_mlp_reads_does_what_its_output_does(model, prompt):
    read, written = (traced(model, prompt, "rows", component=component, window=1).indirect_effect for component in ("mlp_in", "mlp_out"))
    torch.testing.assert_close(read, written, rtol=0, atol=EXACT)


def test_the_state_that_enters_a_block_is_the_one_that_left_the_last(model, prompt):
    entering, leaving = (traced(model, prompt, "rows", component=component).indirect_effect for component in ("resid_pre", "resid_post"))
    torch.testing.assert_close(entering[:, 1:], leaving[:, :-1], rtol=0, atol=EXACT)


def test_z_is_the_head(model, prompt):
    z, head = (traced(model, prompt, "rows", component=component, layers=[2]) for component in ("z", "head"))
    torch.testing.assert_close(z.indirect_effect, head.indirect_effect, rtol=0, atol=0)
    assert list(z.to_dataframe().columns) == list(head.to_dataframe().columns)


def test_keys_have_as_many_heads_as_the_model_has(model, prompt):
    kept = []
    with torch.no_grad():
        model.run_with_hooks(prompt.tokens, fwd_hooks=[("blocks.0.attn.hook_k", lambda x, *, hook: kept.append(x.shape))])
    trace = traced(model, prompt, "rows", component="k", layers=[0])
    assert trace.units == tuple(range(kept[0][2])) and trace.indirect_effect.shape[-1] == kept[0][2]
    with pytest.raises(ComponentError, match=f"pass numbers from 0 to {kept[0][2] - 1}"):
        traced(model, prompt, "rows", component="k", units=[4])


@pytest.mark.parametrize("site", SITES)
def test_the_screen_is_the_gradient_at_a_site(model, prompt, site):
    """For noise so small that the answer is linear in it, the estimate is the effect."""
    skip_shown_only(model, site)
    given = {"component": site, "samples": 2, **few(site)}
    small = tlk.GaussianNoise(1e-3, seed=4)
    estimate = tlk.trace(model, prompt, small, engine="screen", verify=0, **given)
    exact = tlk.trace(model, prompt, small, **given)
    size = float(exact.indirect_effect.abs().max())
    assert size > 0
    torch.testing.assert_close(estimate.indirect_effect, exact.indirect_effect, rtol=0, atol=0.03 * size)


def test_sites_that_are_only_shown_are_refused(prompt):
    for site in ("pattern", "attn_scores"):
        with pytest.raises(ComponentError, match=r"computes past blocks.0.attn.hook_\w+, which it only shows; pass one of 'resid_post'.*'z'\.$"):
            traced(build("bridge-gptj"), prompt, "rows", component=site)
        with pytest.raises(ComponentError, match="which it only shows"):
            traced(build("bridge-gptj"), prompt, "rows", sever=site)


@pytest.mark.parametrize("name", [name for name in ("bridge-opt", "bridge-opt-350m", "ht-olmo2") if name in HARD_BUILDERS])
def test_an_mlp_whose_input_is_not_shown_is_refused(prompt, name):
    with pytest.raises(ComponentError, match=r"'mlp_in' cannot be written in .*(never fires|comes after the MLP)"):
        traced(build(name), prompt, "rows", component="mlp_in")


def test_a_norm_after_the_mlp_is_refused_by_the_hooks_too(prompt):
    model = build("bridge-opt-350m")
    name = "blocks.1.ln2.hook_normalized"
    hooks = tlk.restore(record(model, prompt.tokens, [], [name]), "mlp_in", layers=1)
    with pytest.raises(ComponentError, match="comes after the MLP"):
        model.run_with_hooks(prompt.tokens, fwd_hooks=hooks)
    with pytest.raises(ComponentError, match="is recorded, so what the MLP reads is not known"):
        tlk.restore({}, "mlp_in", layers=1)


@pytest.mark.parametrize("site", SITES)
def test_the_factories_write_whole_sites_and_single_heads(model, prompt, site):
    _, cache = model.run_with_cache(prompt.tokens)
    noise = tlk.corrupt(prompt.subject, NOISE)
    hooks = tlk.restore(cache, site, layers=1, positions=[2, -1], **({"units": 1} if site in HEADS else {}))
    assert all(name in model.hook_dict for name, _ in hooks)
    kept = []
    watch = [(hooks[0][0], lambda x, *, hook: kept.append(x.detach().clone()))]
    with torch.no_grad():
        model.run_with_hooks(prompt.batch(2), fwd_hooks=noise + watch)
        model.run_with_hooks(prompt.batch(2), fwd_hooks=noise + hooks + watch)
    expected, clean = kept[0], cache[hooks[0][0]]
    if site in ("pattern", "attn_scores"):
        expected[:, 1, [2, -1]] = clean[:, 1, [2, -1]]
    elif site in HEADS:
        expected[:, [2, -1], 1] = clean[:, [2, -1], 1]
    else:
        expected[:, [2, -1]] = clean[:, [2, -1]]
    torch.testing.assert_close(kept[1], expected, rtol=0, atol=0)
    everything = noise + tlk.restore(cache, site, layers=range(4))
    pinned = noise + tlk.sever(cache, site, layers=range(4))
    with torch.no_grad():
        both = [model.run_with_hooks(prompt.batch(2), fwd_hooks=some) for some in (everything, pinned)]
    torch.testing.assert_close(both[0], both[1], rtol=0, atol=0)


def test_a_unit_outside_is_refused(gpt2, prompt):
    _, cache = gpt2.run_with_cache(prompt.tokens)
    with pytest.raises(ComponentError, match=r"unit 4 is outside the 4 of blocks.1.attn.hook_pattern; pass numbers from 0 to 3"):
        gpt2.run_with_hooks(prompt.tokens, fwd_hooks=tlk.restore(cache, "pattern", layers=1, units=4))


@pytest.mark.parametrize("site", ["k", "v"])
def test_keys_and_values_are_counted_again_when_the_model_shows_them_apart(prompt, site):
    """Heads that share keys, then a copy each: every one of them is traced."""
    model = build("ht-llama")
    shared = unit_count(model, site)
    model.set_ungroup_grouped_query_attention(True)
    try:
        assert unit_count(model, site) == model.cfg.n_heads > shared
        apart = tlk.trace(model, prompt, NOISE, component=site, samples=1, layers=[1], positions=[2], progress=False)
        assert apart.settings.units == tuple(range(model.cfg.n_heads))
    finally:
        model.set_ungroup_grouped_query_attention(False)
    assert unit_count(model, site) == shared
