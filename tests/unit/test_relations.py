"""What relations' maps refuse, choose and leave out."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace

import pytest
import torch
from support import fingerprint, hooks_left, tokenizer_of_sixty_words
from support.interrupts import InterruptAt
from support.models import BUILDERS
from support.places import FACTLM_LAYER

import tl_knowledge as tlk
from tl_knowledge.errors import ComponentError, DataError, InputError, ModelStateError, PromptError
from tl_knowledge.relations import transfer, trials
from tl_knowledge.relations.inverse import LowRankInverse
from tl_knowledge.relations.suffix import Shift

INSTRUMENTS = [fact for fact in tlk.load_facts("factlm") if fact.relation == "P1303"]
QUIET = {"progress": False}


@pytest.fixture(scope="module")
def relation(factlm):
    return tlk.relations.estimate_relation(factlm, INSTRUMENTS[:6], **QUIET)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"facts": []}, DataError, "no fact was given"),
        ({"facts": INSTRUMENTS[:2] + tlk.load_facts("factlm")[:1]}, InputError, "facts of 2 relations were given"),
        ({"facts": INSTRUMENTS[:2] * 2}, DataError, "is given twice"),
        ({"facts": INSTRUMENTS[:1]}, DataError, "none is left to choose"),
        ({"beta": 0.0}, InputError, "beta 0.0 must be above 0"),
        ({"beta": float("nan")}, InputError, "beta nan must be above 0"),
        ({"rank": 0}, ComponentError, "rank 0 does not fit"),
        ({"rank": 129}, ComponentError, "rank 129 does not fit"),
        ({"layer": 8}, ComponentError, "layer 8 is outside"),
        ({"layer": 7, "beta": 1.0, "rank": 1}, ComponentError, "the map is zero"),
        ({"facts": INSTRUMENTS[:20]}, PromptError, "the model's context is 128"),
    ],
)
def test_what_has_no_map_is_refused(factlm, arguments, error, words):
    before = fingerprint(factlm)
    with pytest.raises(error, match=words):
        tlk.relations.estimate_relation(factlm, **{"facts": INSTRUMENTS[:3], **QUIET, **arguments})
    assert fingerprint(factlm) == before and not hooks_left(factlm)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"examples": 1}, InputError, "leaves nothing to choose"),
        ({"limit": 0}, InputError, "leaves no fact to try"),
        ({"facts": INSTRUMENTS[:3]}, DataError, "the model knows 3 of 3 facts, none beside 8 examples"),
        ({"examples": 20}, DataError, "the model's context is 128"),
    ],
)
def test_what_cannot_be_measured_is_refused(factlm, arguments, error, words):
    with pytest.raises(error, match=words):
        tlk.relations.measure_relation_maps(factlm, **{"facts": INSTRUMENTS, **QUIET, **arguments})


def test_one_fact_has_a_map_where_nothing_is_to_be_chosen(factlm):
    one = tlk.relations.estimate_relation(factlm, INSTRUMENTS[0], layer=1, beta=1.0, rank=2, **QUIET)
    assert one.held_out != one.held_out and one.prompt(factlm, INSTRUMENTS[0]).text == INSTRUMENTS[0].text


def test_a_map_of_another_model_is_refused(gpt2, relation):
    for call in (relation.check, lambda model: relation.predict(model, INSTRUMENTS[0])):
        with pytest.raises(InputError, match=r"the map is of 8 blocks of width 128, .* has 4 of 16"):
            call(gpt2)


def test_a_map_of_other_weights_is_refused(factlm, relation):
    """Edits that are written since do not matter: what they do to the relation is a question that one may ask."""
    with tlk.plan_edit(factlm, INSTRUMENTS[0].retarget(" piano"), tlk.FineTune(layer=FACTLM_LAYER, steps=1)).applied(factlm):
        relation.check(factlm)
    other = replace(relation, provenance=replace(relation.provenance, weights="of another training"))
    with pytest.raises(ModelStateError, match=r"the map is of other weights of 'factlm'"):
        other.check(factlm)


def test_a_vector_knows_whose_it_is(factlm, gpt2):
    vector = tlk.relations.estimate_relation_vector(factlm, INSTRUMENTS[:3], templates="{}", k=3, **QUIET)
    with tlk.plan_edit(factlm, INSTRUMENTS[0].retarget(" piano"), tlk.FineTune(layer=FACTLM_LAYER, steps=1)).applied(factlm):
        assert vector.check(factlm) is factlm
    with pytest.raises(InputError, match=r"the vector is of 8 blocks of width 128, .* has 4 of 16"):
        vector.check(gpt2)
    other = replace(vector, provenance=replace(vector.provenance, weights="of another training"))
    with pytest.raises(ModelStateError, match=r"the vector is of other weights of 'factlm'"):
        other.check(factlm)


def test_the_chosen_layer_agrees_best_with_the_facts_left_out(factlm, relation):
    every = [tlk.relations.estimate_relation(factlm, INSTRUMENTS[:6], layer=layer, **QUIET).held_out for layer in range(7)]
    assert relation.held_out == max(every) == every[relation.settings.layer]


def test_a_state_is_carried_from_any_layer_as_the_map_does_it(factlm, relation):
    states = torch.randn(2, 3, 128, generator=torch.Generator().manual_seed(0))
    expected = relation.settings.beta * torch.einsum("od,rpd->rpo", relation.weight, states) + relation.bias
    torch.testing.assert_close(relation.transport(states, 4), expected)
    assert list(relation.source_layers) == [-1, 0, 1, 2, 3, 4, 5, 6]


def test_the_attribute_lens_reads_what_the_map_says(factlm, relation):
    """At the map's own layer and the subject's last token it is the map's prediction (Hernandez et al. 2024, section 5)."""
    if "through" not in inspect.signature(tlk.logit_lens).parameters:
        pytest.skip("this logit_lens takes no other lens")
    prompt = relation.prompt(factlm, INSTRUMENTS[7])
    lens = tlk.logit_lens(factlm, prompt, through=relation)
    at = lens.table.query(f"layer == {relation.settings.layer} and pos == {prompt.subject.last}").iloc[0]
    said = relation.predict(factlm, INSTRUMENTS[7]).iloc[0]
    assert at["says"] == said["map"] and sorted(set(lens.table["layer"])) == [-1, 0, 1, 2, 3, 4, 5, 6, 7]
    last = lens.table.query(f"layer == 7 and pos == {prompt.last.last}").iloc[0]
    assert last["says"] == said["model"]  # the last layer's states stay as they are


def test_an_edit_makes_the_model_say_the_other_object(factlm):
    """By hooks that compose with others; the model is as it was."""
    makers = [fact for fact in tlk.load_facts("factlm") if fact.relation == "P176"]
    relation = tlk.relations.estimate_relation(factlm, makers[:4], layer=FACTLM_LAYER + 1, beta=2.5, rank=16, **QUIET)
    pairs = [(mine, other) for mine, other in zip(makers[4:], makers[16:], strict=False) if mine.target != other.target]
    swapped = [_said(factlm, relation.prompt(factlm, mine), relation.edit_hooks(factlm, mine, other)) == other.target for mine, other in pairs]
    assert len(swapped) > 20 and sum(swapped) / len(swapped) > 0.6, swapped  # three in four
    before, (mine, other) = fingerprint(factlm), (makers[9], makers[20])
    assert (mine.target, other.target) == (" Boeing", " Nintendo")
    prompt, hooks = relation.prompt(factlm, mine), relation.edit_hooks(factlm, mine, other)
    assert [_said(factlm, prompt, some) for some in ([], hooks, hooks + _back(hooks))] == [" Boeing", " Nintendo", " Boeing"]
    assert fingerprint(factlm) == before and not hooks_left(factlm)


def _said(model, prompt, hooks):
    return model.tokenizer.decode([model.run_with_hooks(prompt.tokens, fwd_hooks=hooks)[0, -1].argmax()])


def _back(hooks):
    """Adds the opposite: what one run was given, taken off again."""
    (name, add), caught = hooks[0], []

    def take_off(states, *, hook):
        if not caught:
            caught.append(add(torch.zeros_like(states), hook=hook))
        return states - caught[0]

    return [(name, take_off)]


def test_a_vector_is_added_where_it_was_asked(gpt2, prompt):
    name, add = tlk.relations.add_vector(torch.arange(16.0, dtype=torch.float64), layer=2, positions=(1, -1))[0]
    states = torch.zeros(2, 4, 16, dtype=torch.float64)
    added = add(states, hook=None)
    assert name == "blocks.2.hook_resid_post" and not states.any() and not added[:, [0, 2]].any()
    assert (added[:, [1, 3]] == torch.arange(16)).all()
    for vector, positions, words in ((torch.zeros(3), -1, "a vector of 3 numbers"), (torch.zeros(16), 9, "position 9 is outside")):
        hooks = tlk.relations.add_vector(vector, layer=0, positions=positions)
        with pytest.raises(ComponentError, match=words):
            gpt2.run_with_hooks(prompt.tokens, fwd_hooks=hooks)
        assert not hooks_left(gpt2)
    with pytest.raises(ComponentError, match="no position"):
        tlk.relations.add_vector(torch.zeros(16), layer=0, positions=())


def test_a_low_rank_inverse_inverts_what_it_keeps():
    weight = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    inverse = LowRankInverse.of(weight)
    change = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(inverse.pull_back(change, 6), torch.linalg.solve(weight, change))
    kept = weight @ inverse.pull_back(change, 2)
    left = torch.linalg.svd(weight)[0][:, :2]
    torch.testing.assert_close(kept, left @ left.T @ change)
    assert LowRankInverse.of(torch.diag(torch.tensor([1.0, 1e-9, 0.0]))).most == 1


def test_relations_with_too_few_facts_are_left_out_and_said(factlm):
    few = [fact for fact in tlk.load_facts("factlm") if fact.relation == "P36"][:2]
    scores = tlk.relations.measure_relation_maps(factlm, INSTRUMENTS[:8] + few, examples=3, layers=[1], limit=4, **QUIET)
    assert list(scores.left_out) == ["P36"] and "the model knows" in scores.left_out["P36"]
    assert set(scores.table["relation"]) == {"P1303"} and len(scores.table) == 4 and scores.table["chosen"].all()
    assert (scores.table["model"] == scores.table["target"]).all()  # known facts only, of one token each
    again = tlk.relations.measure_relation_maps(factlm, INSTRUMENTS[:8], examples=3, layers=[1], limit=4, **QUIET)
    assert again.table.equals(scores.table)
    other = tlk.relations.measure_relation_maps(factlm, INSTRUMENTS[:8], examples=3, layers=[1], limit=4, seed=1, **QUIET)
    assert list(other.table["subject"]) != list(scores.table["subject"])


@pytest.mark.parametrize("name", [name for name in ("bridge-gpt2", "ht-llama") if name in BUILDERS])
def test_an_interrupt_leaves_the_model_as_it_was(name):
    """Weights that a caller trains keep their flags and have no gradients, whether it is interrupted or not."""
    model = BUILDERS[name]()  # its own: the tracer also interrupts where a lock is given back, which a signal cannot
    model.tokenizer = tokenizer_of_sixty_words()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    facts = [tlk.Fact(f"w{k} w9", "{} w4", f" w{k + 9}", "r") for k in (3, 4)]
    before, interrupted = fingerprint(model), 0
    for line in range(1, 10_000, 101):
        tracer = InterruptAt(line, ("first_order.py", "suffix.py", "relations/heads.py", "fit.py"))
        try:
            with tracer:
                tlk.relations.estimate_relation(model, facts, layer=1, beta=1.0, separator=" w50 ", progress=False)
                tlk.relations.estimate_relation_vector(model, facts, templates="{}", k=2, separator=" w50 ", progress=False)
        except KeyboardInterrupt:
            torch.set_grad_enabled(True)  # what was interrupted as it left a ``no_grad`` may not have done so
        assert fingerprint(model) == before and not hooks_left(model)
        assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
        if not tracer.raised:
            break
        interrupted += 1
    assert interrupted > 5


def test_relations_of_the_lre_files_are_measured(factlm, tmp_path):
    """A file of that data set, with FactLM's facts in it: the same scores as of the facts themselves."""
    template = "{} plays the"
    samples = [{"subject": fact.subject, "object": fact.target.strip()} for fact in INSTRUMENTS[:8]]
    (tmp_path / "plays.json").write_text(json.dumps({"name": "plays instrument", "prompt_templates": [template], "samples": samples}))
    settings = {"examples": 3, "layers": [1], "limit": 4, "separator": "\n", **QUIET}
    read = tlk.relations.measure_relation_maps(factlm, tlk.datasets.load_lre(tmp_path), **settings)
    given = [tlk.Fact(fact.subject, template, fact.target, "plays instrument") for fact in INSTRUMENTS[:8]]
    assert read.table.equals(tlk.relations.measure_relation_maps(factlm, given, **settings).table) and len(read.table) == 4


@pytest.fixture
def small(gpt2, monkeypatch):
    monkeypatch.setattr(gpt2, "tokenizer", tokenizer_of_sixty_words())
    return gpt2


SMALL_FACTS = [tlk.Fact(f"w{k}", "{} " + word, f" w{k + 9}", word) for word in ("w4", "w5") for k in range(10, 17)]
SMALL_SETTINGS = {"examples": 2, "separator": " w50 ", "known_only": False, **QUIET}


def test_random_directions_are_drawn_for_each_relation_fact_and_seed(small, monkeypatch):
    """None is drawn twice, and the same call draws the same again."""
    shifted = []

    def shift(layer, change):
        shifted.append(change)
        return Shift(layer, change)

    monkeypatch.setattr(trials, "Shift", shift)
    drawn = []
    for seed in (0, 1, 0):
        tlk.relations.measure_relation_maps(small, SMALL_FACTS, layers=[1], beta=1.0, rank=4, seed=seed, **SMALL_SETTINGS)
        drawn.append(shifted[2::3])
        shifted.clear()
    check_draws(drawn)


def test_random_heads_and_directions_are_drawn_for_each_relation_and_seed(small, monkeypatch):
    made, drawn, with_controls = [], [], transfer._with_controls

    def controls(*arguments):
        vectors = with_controls(*arguments)
        made.extend(vectors[1:])
        return vectors

    monkeypatch.setattr(transfer, "_with_controls", controls)
    monkeypatch.setattr(transfer, "random_heads", lambda mean, k, generator: torch.randn(16, dtype=torch.float64, generator=generator))
    for seed in (0, 1, 0):
        tlk.relations.measure_relation_vectors(small, SMALL_FACTS, k=2, controls=2, seed=seed, **SMALL_SETTINGS)
        drawn.append(list(made))
        made.clear()
    check_draws(drawn)


def check_draws(drawn):
    """Those of three calls, of which the last is the first again: no two of the others are parallel."""
    first, other, again = (torch.nn.functional.normalize(torch.stack(each), dim=-1) for each in drawn)
    torch.testing.assert_close(first, again)
    distinct = torch.cat([first, other])
    assert len(distinct) > 10
    assert (distinct @ distinct.T - torch.eye(len(distinct))).max() < 0.999


def test_a_fact_that_does_not_fit_another_template_is_left_out(small):
    """The others of its relation are tried; a relation without any is left out, and said."""
    long, settings = tlk.Fact(" ".join(["w9"] * 8), "{} w4", " w20", "w4"), SMALL_SETTINGS | {"k": 2, "controls": 1}
    templates = "w7 " * 26 + "{}"  # subjects of one token fit
    scores = tlk.relations.measure_relation_vectors(small, [*SMALL_FACTS, long], templates=templates, **settings)
    assert scores.table.groupby("relation").size().to_dict() == {"w4": 5, "w5": 5} and long.subject not in set(scores.table["subject"])
    two = [*SMALL_FACTS[:2], long, *SMALL_FACTS[7:]]
    left = [tlk.relations.measure_relation_vectors(small, two, templates=templates, seed=seed, **settings).left_out for seed in range(3)]
    assert all(list(each) == ["w4"] and "the model's context is 32" in each["w4"] for each in left)


def test_a_map_in_half_precision_is_roughly_the_one_in_single_precision():
    """On a bridge, whose norms and unembedding take no other precision than their own."""
    single, half = (
        tlk.relations.estimate_relation(tlk.load_model("factlm", backend="bridge", dtype=dtype), INSTRUMENTS[:3], layer=1, rank=4, **QUIET)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert half.settings.layer == 1 and abs(half.held_out - single.held_out) <= 1 / 3
    for name in ("weight", "bias"):
        one, other = getattr(single, name), getattr(half, name)
        assert 0 < (one - other).norm() < 0.05 * one.norm()


def test_a_vector_for_the_prompt_is_not_added_to_every_new_token(factlm):
    """A new token behind a key-value cache runs alone, at position 0 of its own."""
    tokens = factlm.to_tokens("The capital of France is")
    width = int(factlm.cfg.d_model)
    for hooks in (
        tlk.relations.add_vector(torch.ones(width), layer=1, positions=0),
        tlk.relations.add_vector(torch.ones(width), layer=1, positions=-1),
        tlk.states.write_states(torch.ones(width), layer=1, positions=0),
    ):
        with factlm.hooks(fwd_hooks=hooks), pytest.raises(ComponentError, match="use_past_kv_cache=False"):
            factlm.generate(tokens, max_new_tokens=3, use_past_kv_cache=True, verbose=False)
        with factlm.hooks(fwd_hooks=hooks):
            factlm.generate(tokens, max_new_tokens=3, use_past_kv_cache=False, verbose=False)
    assert hooks_left(factlm) == []
