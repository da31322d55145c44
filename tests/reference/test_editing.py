"""ROME and what it rests on, against the obvious programs, on every architecture with random weights in float64."""

from __future__ import annotations

import pytest
import torch
from support import fingerprint, hooks_left
from support.edits import random_edit, slow_value

import tl_knowledge as tlk
from tl_knowledge.editing.methods import rome
from tl_knowledge.editing.optimise.fact_rows import at_positions, rows_of
from tl_knowledge.editing.optimise.values import optimise_values
from tl_knowledge.errors import ComponentError, DataError, InputError, ModelStateError, NumericalError
from tl_knowledge.models.hook_names import component_hook
from tl_knowledge.models.protocol import layer_count
from tl_knowledge.models.weights import output_hook, output_weights

FACT = tlk.Fact("w3 w9", "w1 {} w4 w8", " w7 w11")
SHORT = ((3, 2), (4, 2))


def test_moments_are_the_mean_outer_product_of_all_keys(speaking, texts, moments):
    for layer in (0, layer_count(speaking) - 1):
        keys = []
        for text in texts:
            tokens = torch.tensor([[int(word[1:]) for word in text.split()]])
            _, cache = speaking.run_with_cache(tokens, names_filter=[component_hook("neuron", layer)])
            keys.append(cache[component_hook("neuron", layer)][0].detach())
        kept = torch.cat(keys)[: moments.tokens]
        # Some bridges take norms and softmax in float32, where padding moves the last digits.
        torch.testing.assert_close(moments.moments[layer], kept.T @ kept / moments.tokens, rtol=2e-4, atol=2e-7)
    assert moments.tokens == 240 and hooks_left(speaking) == []
    key = torch.randn(2, 24, dtype=torch.float64)
    torch.testing.assert_close(moments.solve(1, key) @ moments.moments[1], key, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("layer", [0, 2])
def test_the_optimised_value_equals_whole_forwards(speaking, layer):
    rows = rows_of(speaking, FACT, ("{}", "w5 w6 {}", "w2 w2 w40 {}"), "subject")
    settings = tlk.editing.ValueSettings(steps=6, learning_rate=0.1, clamp=0.8)
    value = optimise_values(speaking, [rows], layer, output_hook(speaking, layer), settings)[0]
    delta, losses = slow_value(speaking, rows, layer, settings)
    assert value.losses == pytest.approx(losses, rel=1e-9)
    torch.testing.assert_close(value.delta, delta, rtol=1e-8, atol=1e-10)
    assert value.reason == "steps" and hooks_left(speaking) == []


def test_facts_together_get_what_each_gets_alone(speaking):
    """Facts of other lengths, answers and stopping times in one batch, whole and in pieces."""
    facts = [FACT, tlk.Fact("w5", "w1 {} w4 w8", " w7"), tlk.Fact("w30 w31 w2", "w2 {} w8 w6", " w9 w1 w12")]
    batch = [rows_of(speaking, fact, ("{}", "w5 w6 {}"), "subject") for fact in facts]
    site, settings = output_hook(speaking, 1), tlk.editing.ValueSettings(steps=6, learning_rate=0.1, clamp=0.5)
    alone = [optimise_values(speaking, [rows], 1, site, settings)[0] for rows in batch]
    middle = sorted(each.losses[2] for each in alone)[1]
    settings = tlk.editing.ValueSettings(steps=6, learning_rate=0.1, clamp=0.5, stop_below=middle * 1.0001)  # some stop early
    alone = [optimise_values(speaking, [rows], 1, site, settings)[0] for rows in batch]
    for at_once in (256, 4):
        together = optimise_values(speaking, batch, 1, site, settings, rows_at_once=at_once)
        for ours, expected in zip(together, alone, strict=True):
            assert ours.losses == pytest.approx(expected.losses, rel=1e-6) and (ours.reason, ours.clamped) == (expected.reason, expected.clamped)
            torch.testing.assert_close(ours.delta, expected.delta, rtol=1e-5, atol=1e-7)
            assert ours.probability == pytest.approx(expected.probability, rel=1e-5)
    assert len({len(each.losses) for each in alone}) > 1


@pytest.mark.parametrize("variant", ["ours", "gupta2024", "meng2022_code", "gupta2024_p", "wen_bai"])
def test_the_edited_key_gives_the_value_and_the_change_has_rank_one(speaking, moments, variant):
    before = fingerprint(speaking)
    method = tlk.ROME(layer=1, variant=variant, contexts=SHORT, value=tlk.editing.ValueSettings(steps=4))
    edit = tlk.plan_edit(speaking, FACT, method, moments=moments)
    assert fingerprint(speaking) == before
    change = edit.factors[1].dense
    assert int(torch.linalg.matrix_rank(change)) == 1
    from tl_knowledge.editing.optimise.contexts import context_templates

    templates = context_templates(speaking, SHORT, beginning="words" if variant == "ours" else "end of text")
    rows = rows_of(speaking, FACT, templates, "subject")
    site, key_site = output_hook(speaking, 1), component_hook("neuron", 1)
    _, cache = speaking.run_with_cache(rows.tokens, names_filter=[site, key_site])
    keys, outputs = (at_positions(cache[name].detach(), rows.edited)[:-1] for name in (key_site, site))
    alike, ours = ((keys.mean(0), outputs.mean(0)), tuple((each[0] + each[1:].mean(0)) / 2 for each in (keys, outputs)))
    key, output = {"ours": ours, "gupta2024": alike}.get(variant, (keys[0], outputs[0]))
    wanted = optimise_values(speaking, [rows], 1, site, tlk.editing.ValueSettings(steps=4))[0]
    torch.testing.assert_close(output + key @ change, wanted.start + wanted.delta, rtol=1e-8, atol=1e-9)
    direction = {"gupta2024_p": keys[0], "meng2022_code": keys.mean(0), "wen_bai": keys.mean(0)}.get(variant, key)
    cosine = torch.nn.functional.cosine_similarity(change @ change[0], torch.linalg.solve(moments.moments[1], direction), dim=0)
    assert abs(float(cosine)) == pytest.approx(1, abs=1e-6)


def test_r_rome_weighs_all_contexts_alike_and_ours_does_not(speaking, moments, monkeypatch):
    """Five contexts: R-ROME is our means with a fifth for the bare prompt, whatever ``bare_weight`` says; our default is another edit."""
    monkeypatch.setattr(rome, "context_templates", lambda *args, **kwargs: ("{}", "w5 w6 {}", "w2 w2 w40 {}", "w9 {}", "w1 w1 {}"))

    def change(**settings):
        method = tlk.ROME(layer=1, contexts=SHORT, value=tlk.editing.ValueSettings(steps=4), **settings)
        return tlk.plan_edit(speaking, FACT, method, moments=moments).factors[1].dense

    r_rome = change(variant="gupta2024")
    torch.testing.assert_close(change(bare_weight=1 / 5), r_rome, rtol=1e-10, atol=1e-12)
    assert torch.equal(change(variant="gupta2024", bare_weight=0.9), r_rome)
    assert float((change() - r_rome).norm()) > 1e-3 * float(r_rome.norm())


def test_contexts_from_end_of_text_are_what_the_model_writes_after_it(factlm):
    """Against the obvious loop: the token counts as the first, and is not in the text."""
    from tl_knowledge.editing.optimise.contexts import context_templates

    templates = context_templates(factlm, ((3, 1), (6, 2)), seed=4, beginning="end of text")
    draw, expected = torch.Generator().manual_seed(4), ["{}"]
    for length in (3, 6, 6):
        ids = [factlm.tokenizer.eos_token_id]
        for _ in range(length - 1):
            best = factlm(torch.tensor([ids]))[0, -1].topk(5)
            ids.append(int(best.indices[torch.multinomial(best.values.softmax(-1), 1, generator=draw)]))
        expected.append(factlm.tokenizer.decode(ids).replace("<|endoftext|>", "") + ". {}")
    assert list(templates) == expected and templates != context_templates(factlm, ((3, 1), (6, 2)), seed=4)


def test_contexts_from_end_of_text_need_such_a_token(gpt2, monkeypatch):
    from support import tokenizer_of_sixty_words

    from tl_knowledge.editing.optimise.contexts import context_templates

    tokenizer = tokenizer_of_sixty_words()
    tokenizer.eos_token = None
    monkeypatch.setattr(gpt2, "tokenizer", tokenizer)
    with pytest.raises(InputError, match="no end-of-text token"):
        context_templates(gpt2, ((3, 1),), beginning="end of text")


def test_memit_is_the_regularised_least_squares_solution(speaking, moments):
    """Against the dense normal equations as one overdetermined system, for keys and changes read off plain runs."""
    facts = [FACT, tlk.Fact("w5", "w1 {} w4 w8", " w7"), tlk.Fact("w30 w31", "w2 {} w8", " w9")]
    method = tlk.MEMIT(layers=(1,), moment_weight=3.0, contexts=((3, 2),), value=tlk.editing.ValueSettings(steps=4, clamp=0.75))
    before = fingerprint(speaking)
    edit = tlk.plan_edit(speaking, facts, method, moments=moments)
    assert fingerprint(speaking) == before and len(edit.notes) == 3
    from tl_knowledge.editing.optimise.contexts import context_templates
    from tl_knowledge.models.hook_names import block_output

    keys, changes = [], []
    for fact in facts:
        rows = rows_of(speaking, fact, context_templates(speaking, ((3, 2),)), "subject")
        _, cache = speaking.run_with_cache(rows.tokens, names_filter=[component_hook("neuron", 1)])
        each = at_positions(cache[component_hook("neuron", 1)].detach(), rows.edited)[:-1]
        keys.append((each[0] + each[1:].mean(0)) / 2)
        changes.append(optimise_values(speaking, [rows], 1, block_output(1), method.value)[0].delta)
    values, vectors = torch.linalg.eigh(moments.moments[1])
    root = (3.0 * values).sqrt()[:, None] * vectors.T
    system, wanted = torch.cat([root, torch.stack(keys)]), torch.cat([torch.zeros(24, 16, dtype=torch.float64), torch.stack(changes)])
    torch.testing.assert_close(edit.factors[1].dense, torch.linalg.lstsq(system, wanted).solution, rtol=1e-5, atol=1e-7)
    assert edit.factors[1].rank == 3


def test_memit_spreads_what_is_missing_and_reaches_the_state(speaking, moments, request):
    """With next to no weight on other text and no contexts, the last layer's state becomes what was optimised."""
    if "gemma2" in request.node.name:
        pytest.skip("Gemma-2 normalises the MLP's output, so a change of W_out is no change of the state by as much")
    facts = [FACT, tlk.Fact("w5", "w1 {} w4 w8", " w7")]
    method = tlk.MEMIT(layers=(0, 1, 2), moment_weight=1e-9, contexts=(), value=tlk.editing.ValueSettings(steps=4, clamp=0.75))
    edit = tlk.plan_edit(speaking, facts, method, moments=moments)
    from tl_knowledge.models.hook_names import block_output

    for fact in facts:
        rows = rows_of(speaking, fact, ("{}",), "subject")
        value = optimise_values(speaking, [rows], 2, block_output(2), method.value)[0]
        with edit.applied(speaking):
            _, cache = speaking.run_with_cache(rows.tokens[:1], names_filter=[block_output(2)])
        torch.testing.assert_close(cache[block_output(2)][0, rows.edited[0]].detach(), value.start + value.delta, rtol=1e-4, atol=1e-5)
    assert all(float(edit.factors[layer].dense.norm()) > 0 for layer in (0, 1, 2))


def test_moments_save_load_and_report(speaking, moments, tmp_path):
    again = tlk.KeyMoments.load(moments.save(tmp_path / "moments"))
    assert (again.tokens, again.fingerprint, again.corpus, again.change) == (moments.tokens, moments.fingerprint, moments.corpus, moments.change)
    assert torch.equal(again.moments[2], moments.moments[2])
    frame = again.to_dataframe()
    assert list(frame["layer"]) == [0, 1, 2, 3] and (frame["condition"] > 1).all() and frame["change"].between(0, 1).all()


def test_moments_stay_valid_while_an_edit_is_written(speaking, moments):
    edit = random_edit(speaking, (1,), 5)
    edit.write_into(speaking)
    try:
        moments.check(speaking)
    finally:
        edit.revert(speaking)


def test_what_is_refused(speaking, texts, moments):
    method = tlk.ROME(layer=1, contexts=SHORT)
    edit = random_edit(speaking, (1,), 5)
    before = fingerprint(speaking)
    few = tlk.collect_key_moments(speaking, texts[:1], tokens=5, progress=False)
    cases = [
        (lambda: edit.revert(speaking), ModelStateError, "is not written into the model"),
        (lambda: tlk.plan_edit(speaking, [], method, moments=moments), InputError, "no fact was given"),
        (lambda: tlk.plan_edit(speaking, [FACT, FACT.retarget(" w2")], method, moments=moments), InputError, "in one batch"),
        (lambda: tlk.plan_edit(speaking, FACT, method), InputError, "needs the second moments"),
        (lambda: tlk.plan_edit(speaking, FACT, method, moments=few), NumericalError, "are singular: 5 tokens for 24 neurons"),
        (lambda: tlk.plan_edit(speaking, FACT, tlk.ROME(layer=9), moments=moments), ComponentError, "layer 9 is outside"),
        (lambda: tlk.plan_edit(speaking, FACT, tlk.ROME(layer=1, variant="best"), moments=moments), InputError, "variant 'best' is unknown"),  # type: ignore
        (lambda: tlk.collect_key_moments(speaking, []), DataError, "no text with a token"),
        (lambda: tlk.collect_key_moments(speaking, texts, tokens=0), InputError, "reads nothing"),
    ]
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        for call, error, message in cases:
            with pytest.raises(error, match=message):
                call()
        edit.write_into(speaking)
        with pytest.raises(ModelStateError, match="already written"):
            edit.write_into(speaking)
        edit.revert(speaking)
        kept = output_weights(speaking, 0).detach().clone()
        with torch.no_grad():
            output_weights(speaking, 0).add_(1.0)
        with pytest.raises(InputError, match="belong to other weights"):
            tlk.plan_edit(speaking, FACT, method, moments=moments)
        with torch.no_grad():
            output_weights(speaking, 0).copy_(kept)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    assert fingerprint(speaking) == before and hooks_left(speaking) == []


def test_emmet_without_damping_holds_every_constraint(speaking, moments):
    """With one context, the edited layer says exactly what was optimised, for every fact at once."""
    facts = [FACT, tlk.Fact("w5", "w1 {} w4 w8", " w7"), tlk.Fact("w30 w31", "w2 {} w8", " w9")]
    method = tlk.EMMET(layer=1, damping=0.0, contexts=(), value=tlk.editing.ValueSettings(steps=4))
    edit = tlk.plan_edit(speaking, facts, method, moments=moments)
    site = output_hook(speaking, 1)
    for fact in facts:
        rows = rows_of(speaking, fact, ("{}",), "subject")
        value = optimise_values(speaking, [rows], 1, site, method.value)[0]
        with edit.applied(speaking):
            _, cache = speaking.run_with_cache(rows.tokens[:1], names_filter=[site])
        torch.testing.assert_close(cache[site][0, rows.edited[0]].detach(), value.start + value.delta, rtol=1e-5, atol=1e-6)
    one = tlk.plan_edit(speaking, FACT, method, moments=moments)
    rome = tlk.plan_edit(speaking, FACT, tlk.ROME(layer=1, contexts=(), value=method.value), moments=moments)
    torch.testing.assert_close(one.factors[1].dense, rome.factors[1].dense, rtol=1e-8, atol=1e-10)  # of one fact it is ROME


@pytest.mark.parametrize("bound", [None, 2e-3])
def test_fine_tuning_is_adam_on_the_weights(speaking, bound):
    """Against training the weights themselves."""
    method = tlk.FineTune(layer=1, steps=3, learning_rate=1e-2, most_change=bound)
    before = fingerprint(speaking)
    trained = tlk.plan_edit(speaking, FACT, method).factors[1].dense
    assert fingerprint(speaking) == before
    tokens = tlk.Prompt.from_fact(speaking, FACT)
    row, answer = torch.cat([tokens.tokens, torch.tensor([tokens.answer[:-1]])], dim=1), tokens.answer
    start = output_weights(speaking, 1).detach().clone()
    change = torch.zeros_like(start, requires_grad=True)
    optimiser = torch.optim.Adam([change], lr=1e-2)
    for _ in range(3):
        keys: list = []
        hooks = [(component_hook("neuron", 1), lambda x, *, hook, keys=keys: keys.append(x))]
        hooks.append((output_hook(speaking, 1), lambda x, *, hook, keys=keys: x + keys[0] @ change))
        log_p = speaking.run_with_hooks(row, fwd_hooks=hooks)[0].log_softmax(-1)
        loss = -sum(log_p[len(tokens) - 1 + k, token] for k, token in enumerate(answer)) / len(answer)
        optimiser.zero_grad()
        (change.grad,) = torch.autograd.grad(loss, [change])
        optimiser.step()
        if bound is not None:
            with torch.no_grad():
                change.clamp_(-bound, bound)
    torch.testing.assert_close(trained, change.detach(), rtol=1e-6, atol=1e-9)
    assert bound is None or float(trained.abs().max()) <= bound
