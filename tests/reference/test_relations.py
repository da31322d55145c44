"""Relations as maps against the slow obvious computation, on every architecture in float64; and a relation that is an affine map."""

from __future__ import annotations

import pytest
import torch
from support import build, fingerprint, hooks_left, tokenizer_of_sixty_words
from support.models import HARD_BUILDERS

import tl_knowledge as tlk
from tl_knowledge.models.hook_names import block_output
from tl_knowledge.models.loading import hooked_transformer_available
from tl_knowledge.relations.first_order import first_order
from tl_knowledge.relations.heads import head_effects
from tl_knowledge.relations.states import example_prompts, of_one_relation
from tl_knowledge.relations.suffix import Shift, Suffix

SEPARATOR = " w50 "
FACTS = [tlk.Fact(f"w{k} w9", "{} w4 w8", f" w{k + 9}", "r") for k in range(3, 10)]
SMALL = 2.0**15
"""Bytes: so few that a Jacobian's rows come in several chunks."""


def final_state(model, prompt, layer, change):
    """What leaves the last block at the last token when the subject's state is changed, by plain hooks."""
    caught = []

    def put(states, *, hook):
        changed = states.clone()
        changed[0, prompt.subject.last] = change(states[0, prompt.subject.last])
        return changed

    def keep(states, *, hook):
        caught.append(states[0, prompt.last.last])

    model.run_with_hooks(prompt.tokens, fwd_hooks=[(block_output(layer), put), (block_output(model.cfg.n_layers - 1), keep)])
    return caught[0]


def by_hand(model, prompt, layer):
    """Jacobian, subject's and object's state, by autograd's own loop over outputs."""
    cache, last = {}, block_output(model.cfg.n_layers - 1)
    keep = [(name, lambda states, *, hook, name=name: cache.setdefault(name, states.detach())) for name in {block_output(layer), last}]
    with torch.no_grad():
        model.run_with_hooks(prompt.tokens, fwd_hooks=keep)
    state = cache[block_output(layer)][0, prompt.subject.last].clone()
    jacobian = torch.autograd.functional.jacobian(lambda s: final_state(model, prompt, layer, lambda _: s), state)
    return jacobian, state, cache[last][0, prompt.last.last]


def rounding(model):
    """Hugging Face's RMSNorm, and GPT-J's attention, compute in float32 whatever the weights' type."""
    norm = str(type(getattr(getattr(model, "ln_final", None), "original_component", None)))
    return 1e-6 if "RMS" in norm or "GPTJ" in type(getattr(model, "original_model", None)).__name__ else 1e-12


def check_first_order(model, prompt):
    before = fingerprint(model)
    local = first_order(model, prompt, [2, 0, 3], SMALL)
    for place, layer in enumerate((2, 0, 3)):
        jacobian, subject, final = by_hand(model, prompt, layer)
        for ours, expected in ((local.jacobians[place], jacobian), (local.subject[place], subject), (local.object, final)):
            torch.testing.assert_close(ours, expected, rtol=0, atol=rounding(model))
    assert local.jacobians[1].abs().max() > 1e-3 and not local.jacobians[2].any()  # nothing reads the last block's output at the subject
    assert fingerprint(model) == before and not hooks_left(model)


def test_the_jacobians_of_all_layers_are_those_of_autograd(model, prompt):
    check_first_order(model, prompt)


@pytest.mark.parametrize("name", HARD_BUILDERS)
def test_jacobians_where_rows_do_not_grow_or_a_prefix_is_not_frozen(name, prompt):
    check_first_order(build(name), prompt)


def test_a_subject_at_the_start_and_at_the_end(gpt2, prompt):
    """Nothing before it to freeze; and the subject is where the answer is predicted, so that the last block's Jacobian is the identity."""
    tokens = prompt.tokens
    check_first_order(gpt2, tlk.Prompt.from_tokens(tokens, subject=[0], target=5))
    local = first_order(gpt2, tlk.Prompt.from_tokens(tokens, subject=[6], target=5), [3], SMALL)
    torch.testing.assert_close(local.jacobians[0], torch.eye(16, dtype=torch.float64), rtol=0, atol=0)


def test_edited_rows_are_plain_runs(model, prompt):
    draw = torch.Generator().manual_seed(0)
    changes = [(layer, torch.randn(16, dtype=torch.float64, generator=draw)) for layer in (2, 0, 2, 1)]
    states = Suffix.of(model, prompt).final_states([Shift(*one) for one in changes], SMALL)
    with torch.no_grad():
        for ours, (layer, change) in zip(states, changes, strict=True):
            torch.testing.assert_close(ours, final_state(model, prompt, layer, lambda s, c=change: s + c), rtol=0, atol=rounding(model))


def test_a_map_is_the_mean_over_facts(speaking):
    """Equations 3 and 4, from autograd's own loop; what it predicts, and its edit, from its weights."""
    relation = tlk.relations.estimate_relation(speaking, FACTS[:4], layer=1, beta=1.7, rank=3, separator=SEPARATOR, progress=False)
    prompts = example_prompts(speaking, of_one_relation(FACTS[:4]), SEPARATOR)
    parts = [by_hand(speaking, prompt, 1) for prompt in prompts]
    weight = torch.stack([jacobian for jacobian, _, _ in parts]).mean(0)
    bias = torch.stack([final - jacobian @ state for jacobian, state, final in parts]).mean(0)
    torch.testing.assert_close(relation.weight, weight, rtol=0, atol=rounding(speaking))
    torch.testing.assert_close(relation.bias, bias, rtol=0, atol=10 * rounding(speaking))
    assert prompts[0].text == "w4 w9 w4 w8 w13 w50 w5 w9 w4 w8 w14 w50 w6 w9 w4 w8 w15 w50 w3 w9 w4 w8"
    mine, other = (relation.prompt(speaking, fact) for fact in FACTS[5:])
    _, state, final = by_hand(speaking, mine, 1)
    with torch.no_grad():
        logits = speaking(mine.tokens)[0, -1]
        mapped = speaking.run_with_hooks(
            mine.tokens, fwd_hooks=[(block_output(3), lambda x, *, hook: (1.7 * weight @ state + bias).expand_as(x).clone())]
        )[0, -1]
    row = relation.predict(speaking, FACTS[5]).iloc[0]
    assert row["model"].strip() == f"w{int(logits.argmax())}" and row["map"].strip() == f"w{int(mapped.argmax())}"
    assert row["probability"] == pytest.approx(float(mapped.softmax(-1)[logits.argmax()]), abs=1e-6)
    left, values, right = torch.linalg.svd(weight)
    wanted = by_hand(speaking, other, 1)[2] - final
    change = sum(right[k] * (left[:, k] @ wanted) / values[k] for k in range(3))
    hooks = relation.edit_hooks(speaking, *FACTS[5:])
    with torch.no_grad():
        edited = speaking.run_with_hooks(mine.tokens, fwd_hooks=[*hooks])[0, -1]
        caught = []
        keep = (block_output(3), lambda x, *, hook: caught.append(x[0, -1]))
        speaking.run_with_hooks(mine.tokens, fwd_hooks=[*hooks, keep])
    torch.testing.assert_close(caught[0], final_state(speaking, mine, 1, lambda s: s + change).detach(), rtol=0, atol=1e4 * rounding(speaking))
    assert not torch.equal(edited, logits)


def test_layer_and_strength_are_chosen_on_facts_that_the_map_does_not_hold(speaking):
    """The products that stand for leaving one out are maps of the others."""
    from tl_knowledge.relations.fit import fit_maps

    facts = of_one_relation(FACTS[:4])
    fit = fit_maps(speaking, facts, [0, 2], SEPARATOR, SMALL)
    local = [first_order(speaking, prompt, [0, 2], SMALL) for prompt in fit.prompts]
    held_out = fit.held_out(1.5)
    for j in range(4):
        others = [part for i, part in enumerate(local) if i != j]
        for k in range(2):
            weight = torch.stack([part.jacobians[k] for part in others]).mean(0)
            bias = torch.stack([part.object - part.jacobians[k] @ part.subject[k] for part in others]).mean(0)
            torch.testing.assert_close(held_out[k, j], 1.5 * weight @ local[j].subject[k] + bias, rtol=0, atol=100 * rounding(speaking))


def with_head(model, tokens, layer, head, value):
    """Logits at the last token with one head's activation put there, by a plain hook."""

    def put(z, *, hook):
        changed = z.clone()
        changed[0, -1, head] = value
        return changed

    with torch.no_grad():
        return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", put)])[0, -1]


def check_head_effects(model, prompt):
    z = torch.randn(4, 4, int(model.cfg.d_head), dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    effects = head_effects(model, prompt, z, 5, SMALL)
    with torch.no_grad():
        before = model(prompt.tokens)[0, -1].softmax(-1)[5]
    for layer in range(4):
        for head in range(4):
            after = with_head(model, prompt.tokens, layer, head, z[layer, head]).softmax(-1)[5]
            assert float(effects[layer, head]) == pytest.approx(float(after - before), abs=rounding(model))
    assert effects.abs().max() > 1e-4 and not hooks_left(model)


def test_heads_effects_are_those_of_plain_runs(model, prompt):
    check_head_effects(model, prompt)


@pytest.mark.parametrize("name", ["bridge-bloom", "bridge-opt", *(["ht-shortformer"] if hooked_transformer_available() else [])])
def test_heads_effects_where_rows_do_not_grow_or_a_prefix_is_not_frozen(name, prompt):
    check_head_effects(build(name), prompt)


def test_a_vector_is_what_its_heads_write_on_average(speaking):
    if "gemma" in str(getattr(speaking.cfg, "original_architecture", "") or getattr(speaking.cfg, "architecture", "")).lower():
        with pytest.raises(tlk.errors.UnsupportedModelError, match="not the sum of its heads"):
            tlk.relations.estimate_relation_vector(speaking, FACTS[:3], templates="{}", k=3, separator=SEPARATOR, progress=False)
        return
    vector = tlk.relations.estimate_relation_vector(speaking, FACTS[:3], templates=("{}", "w7 {}"), k=3, separator=SEPARATOR, progress=False)
    prompts = example_prompts(speaking, of_one_relation(FACTS[:3]), SEPARATOR)
    mean = torch.zeros(4, 4, int(speaking.cfg.d_head), dtype=torch.float64)
    for prompt in prompts:
        with torch.no_grad():
            _, cache = speaking.run_with_cache(prompt.tokens)
        mean += torch.stack([cache[f"blocks.{layer}.attn.hook_z"][0, -1] for layer in range(4)]) / 3
    effects = torch.zeros(4, 4, dtype=torch.float64)
    for fact, template in zip(FACTS[:3], ("{}", "w7 {}", "{}"), strict=True):
        other = tlk.Prompt.from_fact(speaking, fact.rephrase(template))
        with torch.no_grad():
            before = speaking(other.tokens)[0, -1].softmax(-1)[other.target_token]
        for layer in range(4):
            for head in range(4):
                after = with_head(speaking, other.tokens, layer, head, mean[layer, head]).softmax(-1)[other.target_token]
                effects[layer, head] += (after - before) / 3
    torch.testing.assert_close(vector.effects, effects, rtol=0, atol=rounding(speaking))
    best = effects.flatten().topk(3).indices.tolist()
    assert list(vector.heads) == [(place // 4, place % 4) for place in best]
    expected = sum(mean[layer, head] @ speaking.blocks[layer].attn.W_O[head].detach() for layer, head in vector.heads)
    torch.testing.assert_close(vector.vector, expected, rtol=0, atol=rounding(speaking))
    tokens = prompts[0].tokens
    with torch.no_grad():
        ours = speaking.run_with_hooks(tokens, fwd_hooks=vector.hooks())
        plain = speaking.run_with_hooks(
            tokens, fwd_hooks=[(block_output(1), lambda x, *, hook: torch.cat([x[:, :-1], x[:, -1:] + vector.vector.to(x)], dim=1))]
        )
    assert torch.equal(ours, plain) and vector.layer == 1 and not hooks_left(speaking)


@pytest.fixture
def planted():
    """A model in which relation ``w40`` *is* an affine map: its token's head copies the last subject's state, and nothing else is done.

    Words 0 to 15 are subjects, which have a direction each; word 20 + (5 i mod 16) is subject i's object. Block 1's one head that does anything
    finds the last subject before it by a flag and the position, with scores so far apart that its softmax is exactly one-hot.
    """
    if not hooked_transformer_available():
        pytest.skip("this TransformerLens has no HookedTransformer")
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    sizes = {"n_layers": 3, "d_model": 35, "n_ctx": 64, "d_head": 32, "n_heads": 1, "d_mlp": 2, "d_vocab": 60}
    model = HookedTransformer(HookedTransformerConfig(**sizes, act_fn="relu", normalization_type=None, device="cpu", dtype=torch.float64)).eval()
    for parameter in model.parameters():
        parameter.data.zero_()
    flag, place, one, objects = 32, 33, 34, 16
    model.pos_embed.W_pos.data[:, place] = torch.arange(64)
    model.embed.W_E.data[:, one] = 1
    attention = model.blocks[1].attn
    for subject in range(16):
        model.embed.W_E.data[subject, [subject, flag]] = torch.tensor([1.0, 1.0], dtype=torch.float64)
        attention.W_V.data[0, subject, subject] = 1
        attention.W_O.data[0, subject, objects + 5 * subject % 16] = 3
        model.unembed.W_U.data[objects + subject, 20 + subject] = 1
    attention.W_Q.data[0, one, 0] = 1
    attention.W_K.data[0, flag, 0], attention.W_K.data[0, place, 0] = 1e6, 1e4
    model.tokenizer = tokenizer_of_sixty_words()
    return model


PLANTED = [tlk.Fact(f"w{i}", "{} w40", f" w{20 + 5 * i % 16}", "planted") for i in range(16)]


def test_a_relation_that_is_an_affine_map_is_found(planted):
    truth = (planted.blocks[1].attn.W_V[0] @ planted.blocks[1].attn.W_O[0]).T.detach()
    relation = tlk.relations.estimate_relation(planted, PLANTED[:5], layer=0, beta=1.0, rank=16, separator=SEPARATOR, progress=False)
    torch.testing.assert_close(relation.weight, truth, rtol=0, atol=1e-10)
    expected = torch.zeros(35, dtype=torch.float64)
    expected[33], expected[34] = relation.bias[33], 1  # where the last token stands, and the constant
    torch.testing.assert_close(relation.bias, expected, rtol=0, atol=1e-10)
    said = relation.predict(planted, PLANTED[5:])
    assert said["faithful"].all() and said["map"].tolist() == [fact.target.strip() for fact in PLANTED[5:]]


def test_a_relation_that_is_an_affine_map_is_faithful_and_causal(planted):
    scores = tlk.relations.measure_relation_maps(
        planted, PLANTED, examples=5, layers=[0], beta=1.0, rank=16, separator=SEPARATOR, seed=1, progress=False
    )
    assert len(scores.table) == 11 and (scores.table["map"] == scores.table["model"]).all()
    assert (scores.table[["faithful", "causal", "overtaken", "swapped"]] == 1).all(axis=None)
    assert (scores.table[["constant", "translated"]] == 0).all(axis=None) and scores.table["random"].mean() < 0.5
    assert (scores.table["edited_to"] != scores.table["model"]).all()
    row = scores.by_relation().iloc[0]
    assert (row["faithful"], row["faithful_low"], row["facts"], row["layer"], row["held_out"]) == (1, 1, 11, 0, 1)


def test_half_the_rank_edits_less(planted):
    """A rank that is too small cannot make every object; one that the map does not have is refused."""
    few = tlk.relations.measure_relation_maps(planted, PLANTED, examples=5, layers=[0], beta=1.0, rank=3, separator=SEPARATOR, progress=False)
    assert few.table["causal"].mean() < 0.6 and few.table["faithful"].mean() == 1
    with pytest.raises(tlk.errors.ComponentError, match="rank 17 does not fit a map of rank 16"):
        tlk.relations.estimate_relation(planted, PLANTED[:5], layer=0, beta=1.0, rank=17, separator=SEPARATOR, progress=False)
