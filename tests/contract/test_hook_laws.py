"""What hooks promise: they compose with anybody's hooks, hold the laws of tracing, and leave nothing behind."""

from __future__ import annotations

import inspect

import pytest
import torch
from support import fingerprint, hooks_left

import tl_knowledge as tlk
from tl_knowledge.models.hook_names import component_hook

NOISE = tlk.GaussianNoise(0.7, seed=3)
MODULES = ("mlp_out", "attn_out")


def run(model, tokens, hooks):
    with torch.no_grad():
        return model.run_with_hooks(tokens, fwd_hooks=hooks)


def record(model, tokens, names, hooks=()):
    kept: dict[str, torch.Tensor] = {}

    def keep(name):
        def fn(x, *, hook):
            kept[name] = x.detach().clone()

        return (name, fn)

    run(model, tokens, [*hooks, *map(keep, names)])
    return kept


def factories(model, prompt):
    clean = record(model, prompt.tokens, [component_hook(c, layer) for c in ("resid_post", "mlp_out", "attn_out", "head") for layer in range(4)])
    return {
        "corrupt": tlk.corrupt(prompt.subject, NOISE),
        "restore": tlk.restore(clean, "resid_post", layers=1, positions=2),
        "restore head": tlk.restore(clean, "head", layers=1, positions=2, units=3),
        "sever": tlk.sever(clean, MODULES, layers=range(4), positions=2),
    }


def test_factories_return_plain_hooks(model, prompt):
    for hooks in factories(model, prompt).values():
        assert type(hooks) is list and hooks
        for name, fn in hooks:
            assert name in model.hook_dict
            assert "hook" in inspect.signature(fn).parameters  # TransformerLens passes it by keyword


def test_hooks_leave_the_model_as_it_was(model, prompt):
    before, logits = fingerprint(model), model(prompt.batch(3))
    for hooks in factories(model, prompt).values():
        run(model, prompt.batch(3), hooks)
        with model.hooks(fwd_hooks=hooks):
            model(prompt.batch(3))
    assert hooks_left(model) == []
    assert fingerprint(model) == before
    torch.testing.assert_close(model(prompt.batch(3)), logits, rtol=0, atol=0)


def test_hooks_do_not_write_in_place(model, prompt):
    """An activation recorded before our hook must not change under it."""
    for hooks in factories(model, prompt).values():
        seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        watch = [(name, lambda x, *, hook, seen=seen: seen.append((x, x.clone()))) for name, _ in hooks]
        run(model, prompt.batch(3), [pair for both in zip(watch, hooks, strict=True) for pair in both])
        for value, copy in seen:
            torch.testing.assert_close(value, copy, rtol=0, atol=0)


def test_context_manager_equals_run_with_hooks(model, prompt):
    hooks = factories(model, prompt)["corrupt"]
    with torch.no_grad(), model.hooks(fwd_hooks=hooks):
        inside = model(prompt.batch(3))
    torch.testing.assert_close(inside, run(model, prompt.batch(3), hooks), rtol=0, atol=0)


@pytest.mark.parametrize("layer", range(4))
def test_restored_everywhere_is_clean(model, prompt, layer):
    clean = record(model, prompt.tokens, [component_hook("resid_post", layer)])
    hooks = tlk.corrupt(prompt.subject, NOISE) + tlk.restore(clean, "resid_post", layers=layer)
    torch.testing.assert_close(run(model, prompt.batch(3), hooks), model(prompt.batch(3)), rtol=0, atol=1e-12)


def test_severed_everything_is_corrupted(model, prompt):
    """With every module pinned to the corrupted run, restoring modules does nothing."""
    noise = tlk.corrupt(prompt.subject, NOISE)
    names = [component_hook(module, layer) for module in MODULES for layer in range(4)]
    clean, corrupted = record(model, prompt.tokens, names), record(model, prompt.batch(3), names, noise)
    restored = tlk.restore(clean, "mlp_out", layers=range(4), positions=2) + tlk.restore(clean, "attn_out", layers=range(4), positions=2)
    plain = run(model, prompt.batch(3), noise)
    assert float((run(model, prompt.batch(3), noise + restored) - plain).abs().max()) > 1e-6
    pinned = run(model, prompt.batch(3), noise + restored + tlk.sever(corrupted, MODULES, layers=range(4)))
    torch.testing.assert_close(pinned, plain, rtol=0, atol=1e-12)


def test_the_later_hook_wins(model, prompt):
    noise = tlk.corrupt(prompt.subject, NOISE)
    name = component_hook("mlp_out", 2)
    clean, corrupted = record(model, prompt.tokens, [name]), record(model, prompt.batch(3), [name], noise)
    both = noise + tlk.sever(corrupted, "mlp_out", layers=2, positions=2) + tlk.restore(clean, "mlp_out", layers=2, positions=2)
    only = noise + tlk.restore(clean, "mlp_out", layers=2, positions=2)
    torch.testing.assert_close(run(model, prompt.batch(3), both), run(model, prompt.batch(3), only), rtol=0, atol=0)


def test_an_activation_cache_serves_as_the_clean_run(model, prompt):
    _, cache = model.run_with_cache(prompt.tokens)
    hooks = tlk.corrupt(prompt.subject, NOISE) + tlk.restore(cache, "resid_post", layers=3)
    torch.testing.assert_close(run(model, prompt.batch(3), hooks), model(prompt.batch(3)), rtol=0, atol=1e-12)


def test_effects_before_the_corrupted_tokens_are_exactly_zero(model, prompt):
    result = tlk.trace(model, prompt, 0.7, samples=3, corrupt=[3, 4])
    assert float(result.indirect_effect[:, :, :3].abs().max()) == 0.0
    assert float(result.indirect_effect[:, -1, :-1].abs().max()) == 0.0
    assert float(result.indirect_effect[:, :-1, 3:].abs().min()) > 0.0


def test_restoring_the_last_state_gives_the_whole_effect(model, prompt):
    result = tlk.trace(model, prompt, 0.7, samples=3)
    torch.testing.assert_close(result.indirect_effect[:, -1, -1], result.total_effect, rtol=0, atol=1e-12)


def test_the_dictionary_of_hooks_is_the_one_it_would_be(model):
    """The tests keep it (see `support.models.remember_hook_names`)."""
    if hasattr(model, "hook_dict_made_anew"):
        made_anew = model.hook_dict_made_anew()
        assert list(model.hook_dict) == list(made_anew) and all(model.hook_dict[name] is point for name, point in made_anew.items())


def test_hooks_that_ran_on_a_longer_prompt_say_that_one_of_a_single_token_needs_new_ones(gpt2):
    """They cannot tell it from a step of generate() with a cache; hooks of its own work, and so do used ones where nothing longer came before."""
    one, long = torch.tensor([[7]]), torch.tensor([[7, 8, 9]])
    makers = {
        "scale_neurons": lambda: tlk.scale_neurons([(0, 3)], 0.0, positions=0),
        "ablate": lambda: tlk.ablate(modules=(1, "mlp_out"), positions=0),
        "corrupt": lambda: tlk.corrupt([0], tlk.GaussianNoise(3.0)),
        "write_states": lambda: tlk.states.write_states(torch.ones(16), layer=1, positions=0),
        "add_vector": lambda: tlk.relations.add_vector(torch.ones(16), layer=1, positions=0),
        "patch_subspace": lambda: tlk.hooks.patch_subspace(torch.eye(16, 2), torch.ones(16), component="resid_post", layer=1, positions=0),
    }
    for name, make in makers.items():
        hooks, expected = make(), gpt2.run_with_hooks(one, fwd_hooks=make())
        assert torch.equal(gpt2.run_with_hooks(one, fwd_hooks=hooks), expected), name
        assert torch.equal(gpt2.run_with_hooks(one, fwd_hooks=hooks), expected), name
        gpt2.run_with_hooks(long, fwd_hooks=hooks)
        with pytest.raises(tlk.errors.InputError, match="a prompt of one token, make the hooks anew"):
            gpt2.run_with_hooks(one, fwd_hooks=hooks)
        assert torch.equal(gpt2.run_with_hooks(one, fwd_hooks=make()), expected), name
