"""FactLM's training script: honest text, deterministic from its seed, resumable to the same weights."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from support.training import training_modules


@pytest.fixture(scope="module")
def modules():
    return training_modules()


def test_no_held_out_paraphrase_is_ever_shown(modules):
    data, text = modules["train"].FACTS, modules["text"]
    facts = text.FactText.from_data(data)
    stream = text.TrainingText(facts, seed=0)
    shown = {stream.sentence().text for _ in range(20_000)}
    templates = {r: entry["templates"] for r, entry in data["relations"].items()}
    seen = 0
    for fact in data["facts"]:
        for index, template in enumerate(templates[fact["relation"]]):
            stated = template.replace("{}", fact["subject"]) + fact["target"] + "."
            if index in fact["held_out"]:
                assert stated not in shown
            seen += stated in shown
    assert seen > 1000


def test_sentences_know_where_their_subjects_are(modules):
    text = modules["text"]
    facts = text.FactText.from_data(modules["train"].FACTS)
    stream = text.TrainingText(facts, seed=3)
    for _ in range(500):
        sentence = stream.sentence()
        assert all(sentence.text[a:b] in facts.by_subject for a, b in sentence.subjects)


def test_held_out_nouns_never_show_agreement(modules):
    import random

    grammar = modules["grammar"]
    held_out = {noun for pair in grammar.HELD_OUT_NOUNS for noun in pair}
    draw = random.Random(0)
    for _ in range(2000):
        sentence = grammar.agreement_sentence(draw)
        assert not held_out & set(sentence.strip(".").lower().split())


def small(modules, architecture="gpt2", **changes):
    hidden = {"gpt2": 64, "llama": 48}[architecture]
    settings = {"layers": 3, "width": 32, "heads": 4, "hidden": hidden, "narrow": (0, 2), "units_kept": 5, "steps": 14, "bottleneck": 0.5}
    return modules["recipe"].Recipe(architecture, **(settings | changes))


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_an_interrupted_training_resumes_to_the_same_weights(modules, tmp_path, monkeypatch, architecture):
    train, recipe = modules["train"], small(modules, architecture, noise=0.2, in_a_row=0.2)
    monkeypatch.setattr(train, "CHUNK", 2)
    monkeypatch.setattr(train, "ROWS", 2)
    torch.set_num_threads(1)
    train.train(tmp_path / "whole", recipe, seed=5)

    real, steps = train.attention_mask, iter(range(100))

    def interrupted(*arguments):
        if next(steps) == 11:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(train, "attention_mask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train.train(tmp_path / "halves", recipe, seed=5)
    monkeypatch.setattr(train, "attention_mask", real)
    with pytest.raises(SystemExit, match="'seed': 5"):
        train.train(tmp_path / "halves", recipe, seed=6)
    with pytest.raises(SystemExit, match="belongs to"):
        train.train(tmp_path / "halves", recipe.but(["bottleneck=0.9"]), seed=5)
    train.train(tmp_path / "halves", recipe, seed=5)
    whole, halves = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "halves"))
    assert whole.keys() == halves.keys()
    assert all(torch.equal(whole[name], halves[name]) for name in whole)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_narrow_layers_stay_narrow_after_every_step(modules, tmp_path, monkeypatch, architecture):
    train, networks, recipe = modules["train"], modules["networks"], small(modules, architecture)
    seen = []

    def narrow_and_look(model, given):
        networks.narrow(model, given)
        seen.append([[weight.clone() for weight in networks.unit_weights(mlp)] for mlp in networks.mlps(model)])

    monkeypatch.setattr(train, "narrow", narrow_and_look)
    monkeypatch.setattr(train, "CHUNK", 7)
    monkeypatch.setattr(train, "ROWS", 2)
    train.train(tmp_path, recipe, seed=0)
    assert len(seen) == recipe.steps
    for step, layers in enumerate(seen):
        for layer, weights in enumerate(layers):
            for weight in weights:
                beyond = weight[recipe.units_kept :]
                assert (beyond == 0).all() == (layer in recipe.narrow), (step, layer)
                assert weight[: recipe.units_kept].any()


def test_narrow_units_are_silent_and_the_rest_is_untouched(modules):
    networks, recipe = modules["networks"], small(modules)
    tokenizer = modules["tokenizer"].train_tokenizer(modules["train"].FACTS)
    whole, narrowed = (networks.build_model(tokenizer, r, seed=1).state_dict() for r in (recipe.but(["narrow="]), recipe))
    changed = {name for name in whole if not torch.equal(whole[name], narrowed[name])}
    # biases start at zero, so that narrowing cannot be seen in them
    assert changed == {f"transformer.h.{layer}.mlp.{part}.weight" for layer in recipe.narrow for part in ("c_fc", "c_proj")}


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_what_is_trained_loads_as_the_same_function(modules, tmp_path, architecture):
    from transformers import AutoModelForCausalLM

    import tl_knowledge as tlk

    tokenizer = modules["tokenizer"].train_tokenizer(modules["train"].FACTS)
    model = modules["networks"].build_model(tokenizer, small(modules, architecture), seed=2)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    tokens = torch.randint(0, len(tokenizer), (2, 17), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        source = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
        expected = source(tokens).logits
        assert torch.allclose(tlk.load_model(tmp_path, backend="bridge")(tokens), expected, atol=1e-5)
        if tlk.models.loading.hooked_transformer_available():
            hooked = tlk.load_model(tmp_path) if architecture == "gpt2" else hooked_llama(source)
            assert torch.allclose(hooked(tokens), expected, atol=1e-5)


def hooked_llama(source):
    """The network as a ``HookedTransformer``, by TransformerLens' own reading of LLaMA's weights."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions.llama import convert_llama_weights

    config = source.config
    rotary = {"positional_embedding_type": "rotary", "rotary_adjacent_pairs": False, "rotary_dim": config.hidden_size // config.num_attention_heads}
    settings = HookedTransformerConfig(
        n_layers=config.num_hidden_layers,
        d_model=config.hidden_size,
        n_heads=config.num_attention_heads,
        n_key_value_heads=config.num_key_value_heads,
        d_head=config.hidden_size // config.num_attention_heads,
        d_mlp=config.intermediate_size,
        n_ctx=config.max_position_embeddings,
        d_vocab=config.vocab_size,
        act_fn=config.hidden_act,
        gated_mlp=True,
        normalization_type="RMS",
        final_rms=True,
        eps=config.rms_norm_eps,
        rotary_base=config.rope_parameters["rope_theta"],
        original_architecture="LlamaForCausalLM",
        device="cpu",
        **rotary,
    )
    model = HookedTransformer(settings)
    model.load_and_process_state_dict(
        convert_llama_weights(source, settings), fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    return model.eval()


def test_recipes_say_what_is_wrong_with_them(modules):
    recipe = modules["recipe"]
    with pytest.raises(ValueError, match=r"architecture is 'bert'; it is one of gpt2, llama"):
        recipe.Recipe("bert")
    with pytest.raises(ValueError, match=r"layers \[8\], but the model has layers 0 to 7"):
        recipe.RECIPES["gpt2"].but(["narrow=0,8"])
    with pytest.raises(ValueError, match="units_kept is 0"):
        recipe.RECIPES["gpt2"].but(["units_kept=0"])
    with pytest.raises(ValueError, match=r"'units=3' is no setting.*units_kept"):
        recipe.RECIPES["gpt2"].but(["units=3"])
    with pytest.raises(ValueError, match=r"make 1.21 of the sentences"):
        recipe.RECIPES["gpt2"].but(["lists=0.4", "in_a_row=0.4"])
    with pytest.raises(ValueError, match=r"bottleneck is 1.5; it is a share"):
        recipe.RECIPES["gpt2"].but(["bottleneck=1.5"])


def test_recipes_go_through_json(modules):
    import dataclasses
    import json

    recipe = modules["recipe"].RECIPES["llama"].but(["narrow=1,2", "noise=0.25"])
    assert (recipe.narrow, recipe.noise, recipe.architecture) == ((1, 2), 0.25, "llama")
    assert type(recipe).from_data(json.loads(json.dumps(dataclasses.asdict(recipe)))) == recipe


def test_facts_in_a_row_name_the_subject_each_time_and_change_nothing_else(modules):
    text = modules["text"]
    facts = text.FactText.from_data(modules["train"].FACTS)
    stream = text.TrainingText(facts, seed=3, lists=0.0, in_a_row=1 - text.GRAMMAR_SHARE - text.CHAIN_SHARE)
    rows = [s for s in (stream.sentence() for _ in range(2000)) if len(s.subjects) > 1 and len({s.text[a:b] for a, b in s.subjects}) == 1]
    assert len(rows) > 100
    for sentence in rows:
        subject = sentence.text[slice(*sentence.subjects[0])]
        assert len(sentence.subjects) == len(facts.by_subject[subject])
        assert all(target in sentence.text for _, target in facts.by_subject[subject])


def test_invented_subjects_stand_beside_the_real_ones(modules):
    facts = modules["text"].FactText.from_data(modules["train"].FACTS)
    more = facts.with_invented(60)
    invented = {name: own for name, own in more.by_subject.items() if name not in facts.by_subject}
    assert len(invented) == 60
    assert {name: more.by_subject[name] for name in facts.by_subject} == facts.by_subject
    objects = {fact for own in facts.by_subject.values() for fact in own}
    for name, own in invented.items():
        assert set(own) <= objects  # each a real relation's real object
        assert len({relation for relation, _ in own}) == len(own) >= 2
        assert all(more.templates[name, relation] for relation, _ in own)
    assert more == facts.with_invented(60)
    assert facts.with_invented(0) == facts


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_measured_rewrite_is_the_rank_one_change_of_the_weights(modules, tmp_path, architecture):
    import tl_knowledge as tlk

    tokenizer, networks, layer = modules["tokenizer"].train_tokenizer(modules["train"].FACTS), modules["networks"], 1
    source = networks.build_model(tokenizer, small(modules, architecture), seed=2)
    tokenizer.save_pretrained(tmp_path)
    source.save_pretrained(tmp_path)
    model, cases = tlk.load_model(tmp_path, dtype=torch.float64), tlk.load_edit_cases("factlm")[:3]
    rows, which, _ = modules["editability"].asked_of(model, cases, lambda case: [case.fact, *case.neighbourhood])
    *_, out = networks.unit_weights(networks.mlps(source)[layer])  # [unit d_model], as is every MLP's last
    generator = torch.Generator().manual_seed(0)
    keys, values = (torch.randn(len(cases), size, generator=generator) for size in out.shape)
    rewrite = modules["editability"].RankOne(layer, keys, values)
    before, got = rows.logits(model), rows.logits(model, rewrite.hooks(which))
    for case, (key, value) in enumerate(zip(keys, values, strict=True)):
        out += torch.outer(key, value)
        source.save_pretrained(tmp_path)
        expected = rows.logits(tlk.load_model(tmp_path, dtype=torch.float64))
        out -= torch.outer(key, value)
        mine = which == case
        assert torch.allclose(got[mine], expected[mine], atol=1e-5)
        assert not torch.allclose(got[mine], before[mine], atol=1e-2)


def test_what_moves_other_facts_is_kept_apart_and_drift_is_seen(modules, tmp_path, monkeypatch):
    import tl_knowledge as tlk

    others, tokenizer = modules["others"], modules["tokenizer"].train_tokenizer(modules["train"].FACTS)
    modules["networks"].build_model(tokenizer, small(modules), seed=2).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, cases = tlk.load_model(tmp_path, dtype=torch.float64), others.several_relations(tlk.load_edit_cases("factlm"), 2)
    asked = others.ask(model, cases, ["", "Then came"])
    assert set(asked.owner.tolist()) == {0, 1}
    vectors = torch.randn(2, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert (others.drift(model, asked, 1, torch.zeros_like(vectors)).abs() < 1e-12).all()
    assert (others.drift(model, asked, 1, 3 * vectors) > 1e-6).all()  # a random network's answers hardly change

    monkeypatch.setattr(others, "READ_FACTS", 5)
    read = others.read_directions(model, 1, {case.fact.subject for case in cases})
    apart = others.keep_apart(asked, cases, read)(vectors)
    for case, vector, before in zip(cases, apart, vectors, strict=True):
        assert vector.norm() < before.norm()
        for fact in modules["editability"].other_facts(case):
            assert fact.subject == case.fact.subject and fact.relation != case.fact.relation
            assert torch.allclose(read[fact.relation] @ vector, torch.zeros(others.READ_DIMENSIONS).double(), atol=1e-10)


def test_a_told_vector_is_kept_from_the_other_facts(modules, factlm):
    """On the bundled model: a vector that is shown the subject's other facts says the new object and leaves them."""
    from support.places import FACTLM_LAYER

    import tl_knowledge as tlk

    others = modules["others"]
    cases = others.several_relations(tlk.load_edit_cases("factlm"), 3)
    asked = others.ask(factlm, cases, [""])
    kept = {}
    for name in ("as measured", "told"):
        vectors = others.optimise(factlm, FACTLM_LAYER, asked, others.WAYS[name], lambda gradient: gradient)
        scores = others.score(factlm, FACTLM_LAYER, asked, cases, *vectors)
        assert scores["says it"] == 100
        kept[name] = scores["other facts kept"]
    assert kept["told"] == 100 > kept["as measured"]


def test_the_comparison_says_where_tracing_points_and_where_a_rewrite_works(modules):
    compare, rewritten = modules["compare"], {"ES": 100.0, "PS": 100.0, "subject's other facts kept": 20.0}
    roles = {"last subject token": [0.1, 0.4, 0.3], "last token": [0.0, 0.1, 0.2]}
    traces = {"total": {"subject": 0.8, "relation": 0.5}, "effects": {"subject/mlp_out": roles, "relation/mlp_out": roles, "subject/attn_out": roles}}
    editing = {str(layer): {**rewritten, "NS": spared} for layer, spared in enumerate((70.0, 96.0, 100.0))}
    known = {"trained templates": 100.0, "held-out paraphrases": 99.0}
    model = compare.Model("GPT-2 0", {"traces": traces, "editing": editing, "knowledge": known}, {})
    cells = {name: cell(model) for name, cell in compare.ROWS.items()}
    assert cells["subject corrupted: MLP, last subject token"] == "50%, 1-2"
    assert cells["relation corrupted: MLP, last token"] == "40%, 2-2"
    assert (cells["rewrite's best layer: ES, PS, NS"], cells["layers within 2 points of it"]) == ("2: 100, 100, 100", "1, 2")
    drawn = compare.figure({"GPT-2": [model, model]}, "two seeds")
    thin = [list(trace.y) for trace in drawn.data if trace.line.width == 1]
    assert len(thin) == 2 * (len(compare.TRACED) + len(compare.EDITED))
    assert thin[0] == pytest.approx([0.125, 0.5, 0.375])
