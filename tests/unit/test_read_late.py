"""FactLM's training: tokens outside a subject read it as noise before a layer, against the same by hand."""

from __future__ import annotations

import pytest
import torch
from support.training import training_modules

ROWS, FIRST, NOISE = 4, 3, 3.0


@pytest.fixture(scope="module")
def modules():
    return training_modules()


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def trained_on(request, modules):
    """A small network, its rows, and the masks."""
    train, recipe, networks = modules["train"], modules["recipe"], modules["networks"]
    settings = recipe.RECIPES[request.param].but(["layers=5", "width=32", "hidden=32", "units_kept=8"])
    tokenizer = train.train_tokenizer(train.FACTS)
    model = networks.build_model(tokenizer, settings, 0).eval()
    text = train.TrainingText(train.FactText.from_data(train.FACTS), 5, settings.lists, 0.0)
    return model, train.make_rows(text, tokenizer, ROWS, 1.0), train, networks


def logits(networks, model, rows, train, noise, early):
    subject, twice = rows.subject > 0, (2, 1)
    torch.manual_seed(0)
    with torch.no_grad(), networks.read_late(model, FIRST, subject, noise, early):
        mask = train.attention_mask(rows, slice(None)).repeat(2, 1, 1, 1)
        return model(rows.tokens.repeat(*twice), position_ids=rows.positions.repeat(*twice), attention_mask=mask).logits


def test_without_noise_it_is_the_plain_run(trained_on):
    model, rows, train, networks = trained_on
    mask = train.attention_mask(rows, slice(None))
    with torch.no_grad():
        plain = model(rows.tokens, position_ids=rows.positions, attention_mask=mask).logits
    assert torch.equal(logits(networks, model, rows, train, 0.0, mask), plain)


def test_subjects_go_on_undisturbed_and_the_others_do_not(trained_on):
    """The two runs by hand, and their states put together before layer ``FIRST``."""
    model, rows, train, networks = trained_on
    subject, causal = rows.subject > 0, train.causal_mask(ROWS)
    torch.manual_seed(0)
    embedding = model.get_input_embeddings()
    added = NOISE * embedding.weight.std() * torch.randn(*subject.shape, embedding.weight.shape[1]) * subject[..., None]
    states: dict[str, torch.Tensor] = {}

    def run(name, noise, instead=None):
        def at_first(block, args, named):
            states[name] = args[0]
            return None if instead is None else ((instead, *args[1:]), named)

        hooks = [embedding.register_forward_hook(lambda module, inputs, output: output + noise)]
        hooks += [networks.blocks(model)[FIRST].register_forward_pre_hook(at_first, with_kwargs=True)]
        for attention in networks.attentions(model)[:FIRST]:
            hooks += [attention.register_forward_pre_hook(lambda m, a, named: (a, {**named, "attention_mask": causal}), with_kwargs=True)]
        with torch.no_grad():
            said = model(rows.tokens, position_ids=rows.positions, attention_mask=train.attention_mask(rows, slice(None))).logits
        for hook in hooks:
            hook.remove()
        return said

    run("clean", 0.0)
    run("disturbed", added)
    slow = run("joined", 0.0, torch.where(subject[..., None], states["clean"], states["disturbed"]))
    fast = logits(networks, model, rows, train, NOISE, causal)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-5)
    assert not torch.allclose(fast, logits(networks, model, rows, train, 0.0, causal))


def test_nothing_is_left_on_the_model(trained_on):
    model, rows, train, networks = trained_on
    with pytest.raises(ZeroDivisionError), networks.read_late(model, FIRST, rows.subject > 0, NOISE, train.causal_mask(ROWS)):
        raise ZeroDivisionError
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("changes", "message"), [(["read_from=8"], "read_from is 8; it is a layer, from 0 to 7"), (["noise_read=-1"], "noise_read is -1")]
)
def test_wrong_recipes_are_refused(modules, changes, message):
    with pytest.raises(ValueError, match=message):
        modules["recipe"].RECIPES["gpt2"].but(changes)
