"""Rows that begin at their restored position: when they may, and that nothing of it stays on the model."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from support import BUILDERS, build
from support.interrupts import InterruptAt

import tl_knowledge as tlk
from tl_knowledge.editing.serac_network import copy_of
from tl_knowledge.engine import fused, prefix_bank
from tl_knowledge.engine.fused import NORMS, fused_activations
from tl_knowledge.engine.layouts import layout_room
from tl_knowledge.engine.narrowing import may_narrow, narrowed_hooks
from tl_knowledge.engine.prefix_bank import bank_prefixes, bank_refusal
from tl_knowledge.models.protocol import site_hook
from tl_knowledge.models.routed import put_on, take_off
from tl_knowledge.runs.experiment import Experiment
from tl_knowledge.tracing import engines
from tl_knowledge.tracing.sites import Site, group_sites
from tl_knowledge.tracing.sweep import read_names

EXACT = 1e-12


def bank_of(model, tokens):
    return None if bank_refusal(model, tokens.shape[1]) else bank_prefixes(model, tokens, [])[1]


def activations_of(model):
    return [(vars(module).get("act_fn"), vars(module).get("forward")) for module in model.modules()]


def test_rows_begin_where_they_are_restored(gpt2, prompt, monkeypatch):
    """The sweep runs no token before the first restored position, and gives what whole rows give."""
    lengths: list[int] = []
    real = engines.run_rows

    def watched(model, tokens, hooks, **arguments):
        lengths.append(tokens.shape[1])
        return real(model, tokens, hooks, **arguments)

    monkeypatch.setattr(engines, "run_rows", watched)
    last = len(prompt) - 1
    late = tlk.trace(gpt2, prompt, 0.7, samples=2, positions=[last])
    assert lengths == [1]
    monkeypatch.setattr(Experiment, "bank", lambda *_: None)
    whole = tlk.trace(gpt2, prompt, 0.7, samples=2, positions=[last])
    assert lengths == [1, len(prompt)]
    torch.testing.assert_close(late.indirect_effect, whole.indirect_effect, rtol=0, atol=EXACT, equal_nan=True)


def test_hooks_of_somebody_else_see_whole_rows(gpt2, prompt):
    """A hook that counts positions would act on another token behind a prefix."""
    assert bank_of(gpt2, prompt.tokens) is not None

    def double_third(x, hook):
        changed = x.clone()
        changed[:, 3] *= 2
        return changed

    with gpt2.hooks(fwd_hooks=[("blocks.1.hook_resid_post", double_third)]):
        assert bank_of(gpt2, prompt.tokens) is None
        swept, loop = (tlk.trace(gpt2, prompt, 0.7, samples=2, engine=engine) for engine in ("rows", "loop"))
    assert swept.provenance.engine == "rows (whole rows: somebody's hook is on 'blocks.1.hook_out')"
    torch.testing.assert_close(swept.indirect_effect, loop.indirect_effect, rtol=0, atol=EXACT, equal_nan=True)


def test_an_edit_kept_on_the_model_sees_whole_rows(gpt2, prompt):
    """It may count positions as anybody's hook does."""

    def shift(x, *, hook):
        changed = x.clone()
        changed[:, 3] += torch.linspace(-2, 2, x.shape[-1], dtype=x.dtype)
        return changed

    with_bank = bank_of(gpt2, prompt.tokens)
    put_on(gpt2, "key", object(), "digest", [("blocks.1.mlp.hook_out", shift)])
    try:
        swept, loop = (tlk.trace(gpt2, prompt, 0.7, samples=2, engine=engine) for engine in ("rows", "loop"))
        assert with_bank is not None and bank_of(gpt2, prompt.tokens) is None and not may_narrow(gpt2)
    finally:
        take_off(gpt2, "key")
    assert swept.provenance.engine == "rows (whole rows: an edit that is on the model sees them whole)"
    torch.testing.assert_close(swept.indirect_effect, loop.indirect_effect, rtol=0, atol=EXACT, equal_nan=True)


def test_behind_a_sliding_window_rows_run_whole(prompt, monkeypatch):
    model = build("bridge-gemma2")
    assert bank_of(model, prompt.tokens) is not None
    monkeypatch.setattr(model.original_model.config, "sliding_window", len(prompt))
    assert bank_of(model, prompt.tokens) is None and bank_of(model, prompt.tokens[:, :-1]) is not None
    assert engines.engine_used(model, "rows", len(prompt)) == f"rows (whole rows: the model's cache is exact below {len(prompt)} tokens)"


@pytest.mark.parametrize("name", ["bridge-gpt2", "ht-gpt2", "bridge-gemma2"])
def test_a_long_prompt_runs_in_several_groups(name, monkeypatch):
    """Each from its own first position on, with the activations in one kernel; all effects are the loop's."""
    model, starts, fused = build(name), list[int](), set[bool]()
    real = engines.run_rows
    written_out = [
        module for module in model.modules() if type(module).__name__ == "NewGELUActivation" or hasattr(vars(module).get("act_fn"), "__name__")
    ]
    plain = activations_of(model)

    def watched(model, tokens, hooks, **arguments):
        starts.append(24 - tokens.shape[1])
        watch = (
            "blocks.3.mlp.hook_out" if "bridge" in name else "blocks.3.hook_mlp_out",
            lambda x, *, hook: fused.add(activations_of(model) != plain),
        )
        return real(model, tokens, [*hooks, watch], **arguments)

    monkeypatch.setattr(engines, "run_rows", watched)
    prompt = tlk.Prompt.from_tokens([7 * i % 53 + 2 for i in range(24)], subject=[1, 2], target=9)
    settings = {"samples": 10, "layers": [0, 2], "positions": [1, 2, 11, 22, 23]}
    swept = tlk.trace(model, prompt, 0.7, **settings)
    assert swept.provenance.engine == "rows" and len(set(starts)) > 1 and set(starts) <= {1, 2, 11, 22, 23}
    assert fused == {bool(written_out)}
    loop = tlk.trace(model, prompt, 0.7, engine="loop", **settings)
    torch.testing.assert_close(swept.indirect_effect, loop.indirect_effect, rtol=0, atol=EXACT, equal_nan=True)
    assert float(loop.indirect_effect.nan_to_num().abs().max()) > 1e-9


@pytest.mark.parametrize("name", ["bridge-gpt2", "ht-gpt2"])
def test_prefixes_count_in_the_memory_budget(name, prompt, monkeypatch):
    """All of them take half of it at most, the rows what they and copies of weights leave, and without room for them rows run whole."""
    model, banks, budgets = build(name), [], []
    real_bank, real_rows = Experiment.bank, engines.budget_rows

    def watched_bank(*args):
        banks.append(real_bank(*args))
        return banks[-1]

    def watched_rows(model, length, answers, budget, before):
        budgets.append(budget)
        return real_rows(model, length, answers, budget, before)

    monkeypatch.setattr(Experiment, "bank", watched_bank)
    monkeypatch.setattr(engines, "budget_rows", watched_rows)
    roomy = tlk.trace(model, prompt, 0.7, samples=2, memory_budget=2.0**28)
    size = banks[0].bytes
    layers, heads, rows = int(model.cfg.n_layers), int(model.cfg.n_heads) * int(model.cfg.d_head), 3
    left = 2.0**28 - size
    assert size >= 2 * 8 * layers * heads * rows * len(prompt) and set(budgets) == {left - layout_room(model, left)}
    fits = tlk.trace(model, prompt, 0.7, samples=2, memory_budget=2.0 * size)
    tight = tlk.trace(model, prompt, 0.7, samples=2, memory_budget=2.0 * size - 1)
    assert banks[1].bytes == size and banks[2] is None
    assert (roomy.provenance.engine, fits.provenance.engine) == ("rows", "rows")
    assert tight.provenance.engine == "rows (whole rows: their prefixes would take over half of memory_budget)"
    for other in (fits, tight):
        torch.testing.assert_close(other.indirect_effect, roomy.indirect_effect, rtol=0, atol=EXACT, equal_nan=True)


def test_only_what_alive_rows_read_is_recorded(gpt2):
    late = [Site("resid_post", 2, 3, None, 2, 2, born_at=2)]
    assert read_names(gpt2, late) == {site_hook(gpt2, "resid_post", 2), *narrowed_hooks(gpt2, 3)}
    assert set(narrowed_hooks(gpt2, 3)) < set(narrowed_hooks(gpt2))


def test_a_refusal_falls_back_to_whole_rows(gpt2, prompt, monkeypatch):
    expected = tlk.trace(gpt2, prompt, 0.7, samples=2)
    monkeypatch.setattr(prefix_bank._CUTTING, "refusal", lambda model: "other logits")
    assert bank_of(gpt2, prompt.tokens) is None
    whole = tlk.trace(gpt2, prompt, 0.7, samples=2)
    assert (expected.provenance.engine, whole.provenance.engine) == ("rows", "rows (whole rows: other logits)")
    torch.testing.assert_close(whole.indirect_effect, expected.indirect_effect, rtol=0, atol=EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fused_activations_are_the_same_and_leave_nothing(gpt2, prompt, dtype):
    gpt2 = copy_of(gpt2).to(dtype)
    plain = gpt2(prompt.tokens)  # a bridge's first run leaves marks of its own
    before = [(module, dict(vars(module))) for module in gpt2.modules()]
    with pytest.raises(KeyboardInterrupt), fused_activations(gpt2):
        fused = gpt2(prompt.tokens)
        swapped = [
            module
            for module, own in before
            if vars(module).get("forward") is not own.get("forward") or vars(module).get("act_fn") is not own.get("act_fn")
        ]
        raise KeyboardInterrupt
    assert len(swapped) == gpt2.cfg.n_layers
    torch.testing.assert_close(fused, plain, rtol=0, atol=100 * torch.finfo(dtype).eps * float(plain.abs().max()))
    assert all(vars(module).keys() == own.keys() and vars(module).get("act_fn") is own.get("act_fn") for module, own in before)
    assert torch.equal(gpt2(prompt.tokens), plain)


OWN_NORMS = [name for name in ("ht-gpt2", "ht-parallel") if name in BUILDERS]  # none where TransformerLens has bridges only


@pytest.mark.parametrize("name", OWN_NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fused_norms_show_what_they_showed(name, dtype, prompt):
    """The logits and every hook but the scale, which is looked at by the written-out norm."""
    model = copy_of(build(name)).to(dtype)
    norms = [module for module in model.modules() if type(module).__name__ in NORMS]
    plain, cache = model.run_with_cache(prompt.tokens)
    with fused_activations(model):
        assert norms and all("forward" in vars(norm) for norm in norms)
        fused, shown = model.run_with_cache(prompt.tokens, names_filter=lambda hook: not hook.endswith("hook_scale"))
        watched = model.run_with_cache(prompt.tokens, names_filter="ln_final.hook_scale")[1]
    assert not any("forward" in vars(norm) for norm in norms)
    roundings = {"rtol": 0, "atol": 400 * torch.finfo(dtype).eps}
    torch.testing.assert_close(fused, plain, **roundings)
    assert set(shown) == {hook for hook in cache if not hook.endswith("hook_scale")}
    for hook in shown:
        torch.testing.assert_close(shown[hook], cache[hook], **roundings)
    torch.testing.assert_close(watched["ln_final.hook_scale"], cache["ln_final.hook_scale"], **roundings)


@pytest.mark.parametrize("name", OWN_NORMS)
def test_norms_that_are_watched_or_do_something_else_are_left_alone(name, monkeypatch):
    model, seen = copy_of(build(name)), list[int]()
    norm = model.blocks[1].ln1
    with model.hooks(fwd_hooks=[("blocks.1.ln1.hook_normalized", lambda x, hook: seen.append(1))]), fused_activations(model):
        assert "forward" not in vars(norm) and "forward" in vars(model.blocks[0].ln1) and not seen
    monkeypatch.setattr(fused, "_same", {})
    monkeypatch.setattr(type(norm), "forward", lambda self, x: 1.001 * self.hook_normalized(x))
    with fused_activations(model):
        assert "forward" not in vars(norm)


def test_half_precision_is_left_alone(gpt2):
    gpt2 = copy_of(gpt2).to(torch.bfloat16)
    own = [dict(vars(module)) for module in gpt2.modules()]
    with fused_activations(gpt2):
        assert all(now.keys() == vars(module).keys() for now, module in zip(own, gpt2.modules(), strict=True))
        assert not any("gelu" in repr(vars(module).get("forward", "")) for module in gpt2.modules())


@pytest.mark.parametrize("name", ["bridge-gpt2", "ht-gpt2"])
def test_an_interrupt_anywhere_leaves_the_activations(name):
    model = build(name)
    model(torch.tensor([[4, 5, 6]]))
    before, raised, line = activations_of(model), True, 0
    with fused_activations(model):
        assert activations_of(model) != before  # what is known of an activation is asked once a process
    while raised:
        line += 1
        interrupt = InterruptAt(line, ("fused.py",))
        with suppress(KeyboardInterrupt), interrupt, fused_activations(model):
            pass
        assert activations_of(model) == before, f"line {line}"
        raised = interrupt.raised
    assert line > 2 * model.cfg.n_layers


@pytest.mark.parametrize("name", ["bridge-gpt2", "ht-gpt2"])
def test_the_precision_of_what_is_given_decides(name):
    """Half-precision activations in a model whose first parameter is double: the written-out function's own roundings."""
    model, given = build(name), torch.linspace(-4, 4, 257, dtype=torch.bfloat16)

    def activate():
        own = [module for module in model.modules() if type(module).__name__ == "NewGELUActivation" or "act_fn" in vars(module)]
        return (vars(own[0]).get("act_fn") or own[0].forward)(given)

    plain = activate()
    with fused_activations(model):
        assert torch.equal(activate(), plain)
    assert not torch.equal(torch.nn.functional.gelu(given, approximate="tanh"), plain)


def test_an_activation_of_the_same_name_only_is_left_alone(monkeypatch):
    """Named as GPT-2's, and another function."""

    def gelu_new(x):
        return torch.relu(x)

    model = build("ht-gpt2")
    monkeypatch.setattr(model.blocks[1].mlp, "act_fn", gelu_new)
    with fused_activations(model):
        assert vars(model.blocks[1].mlp)["act_fn"] is gelu_new
        assert vars(model.blocks[0].mlp)["act_fn"] is not vars(model.blocks[1].mlp)["act_fn"]


def test_groups_are_neighbours_and_hold_every_site_once():
    sites = [Site("resid_post", layer, pos, None, layer, layer, born_at=layer) for pos in (1, 2, 5, 30) for layer in range(4)]
    groups = group_sites(sites, length=31, n_layers=4, samples=10)
    assert sorted(k for _, group in groups for k in group) == list(range(len(sites)))
    for start, group in groups:
        assert start == min(sites[k].pos for k in group)
    ends = [max(sites[k].pos for k in group) for _, group in groups]
    assert all(end < start for end, (start, _) in zip(ends, groups[1:], strict=False))
    assert len(group_sites(sites, length=31, n_layers=4, samples=1)) <= len(groups)
