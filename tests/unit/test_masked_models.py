"""BERT: prompts asked at their mask, every neuron function on it, and edits of its knowledge neurons."""

from __future__ import annotations

import copy

import pytest
import torch
from support import bert_directory, fingerprint
from support.models import BERT_WORDS as WORDS
from transformers import BertForMaskedLM

import tl_knowledge as tlk
from tl_knowledge.engine.batches import likeliest_next
from tl_knowledge.errors import ComponentError, NumericalError, PromptError, TargetError, UnsupportedModelError
from tl_knowledge.models.loading import hooked_transformer_available
from tl_knowledge.models.weights import output_weights


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tlk.load_model(bert_directory(tmp_path_factory.mktemp("bert")), backend="bridge")


@pytest.fixture(scope="module")
def facts():
    templates = ("the capital of {} is", "the city of {} is [MASK] .")
    return [tlk.Fact(s, templates[0], o, r, (templates[1], "a capital of {} is")) for s, o, r in (("france", " paris", "x"), ("peru", " lima", "y"))]


def test_a_prompt_stands_between_special_tokens_and_ends_in_its_mask(bert, facts):
    prompt = tlk.Prompt.from_fact(bert, facts[0])
    assert prompt.labels == ("[CLS]", "the", "capital", "of", "france", "is", "[MASK]", ".", "[SEP]")
    assert prompt.last.last == 6 and prompt.subject.positions == (4,) and prompt.relation.positions == (1, 2, 3, 5, 7)
    assert prompt.answer == (WORDS.index("paris"),)
    own = tlk.Prompt.from_text(bert, "[MASK] is the capital of france", subject="france")
    assert own.last.last == 1 and own.subject.positions == (6,)


def test_what_a_masked_model_cannot_be_asked(bert, facts, monkeypatch):
    with pytest.raises(TargetError, match="one mask predicts one token"):
        tlk.Prompt.from_text(bert, "the capital of france is", target="unknown")
    with pytest.raises(PromptError, match="has 2 masks"):
        tlk.Prompt.from_text(bert, "[MASK] [MASK]")
    pair = tlk.datasets.MinimalPair("paris is the capital", "rome is the capital", "", "")
    with monkeypatch.context() as patch:
        patch.setattr(bert, "tokenizer", copy.deepcopy(bert.tokenizer))
        bert.tokenizer.mask_token = None
        for ask in (
            lambda: tlk.Prompt.from_text(bert, "the capital of france is"),
            lambda: tlk.neurons.agreement_groups(bert, [pair]),
            lambda: tlk.neurons.punctuation_groups(bert, ["paris is the capital."]),
        ):
            with pytest.raises(UnsupportedModelError, match="its tokenizer has no mask token; set"):
                ask()
    with pytest.raises(UnsupportedModelError, match="attends in both directions"):
        tlk.trace(bert, tlk.Prompt.from_fact(bert, facts[0]))


def test_facts_are_located_scaled_and_measured_at_the_mask(bert, facts):
    located = tlk.locate_neurons(bert, facts, shared_by=0.5, steps=4, progress=False)
    assert [len(neurons) > 0 for neurons in located.sets] == [True, True] and located.provenance.engine == "full sequences"
    effects = tlk.neurons.measure_neuron_effects(bert, facts, factor=0.0, shared_by=0.5, steps=4, unrelated=1, controls=1, progress=False)
    prompt = tlk.Prompt.from_fact(bert, facts[0])
    neurons = tlk.locate_neurons(bert, tlk.neurons.fact_groups(bert, facts, own_wording=False), shared_by=0.5, steps=4, progress=False).sets[0]
    runs = [bert.run_with_hooks(prompt.tokens, fwd_hooks=hooks)[0, 6].softmax(-1)[prompt.answer[0]] for hooks in ([], neurons.suppress(positions=6))]
    assert effects.table["own"][0] == pytest.approx(float((runs[1] - runs[0]) / runs[0]), rel=1e-3)
    prompts = [tlk.Prompt.from_fact(bert, fact) for fact in facts]
    known = [fact for fact, prompt in zip(facts, prompts, strict=True) if int(bert(prompt.tokens)[0, 6].argmax()) == prompt.answer[0]]
    assert tlk.known_facts(bert, facts) == known


@pytest.fixture
def speaking_bert(masked_model, bert, monkeypatch):
    """Every masked architecture in float64, with BERT's tokenizer."""
    monkeypatch.setattr(masked_model, "tokenizer", bert.tokenizer)
    return masked_model


@pytest.mark.parametrize("erase", [False, True])
def test_a_facts_neurons_are_edited_as_dai_et_al_edit_them(speaking_bert, facts, erase):
    """``W_out[i]`` moves by ``||W_out[i]||`` times -1 and 8 unit embeddings, or becomes zero; attributed by their program's path."""
    model, before, fact = speaking_bert, fingerprint(speaking_bert), facts[0].retarget(" lima")
    method = tlk.localised.KnowledgeNeuronEdit(variant="dai2022", attribution_variant="dai2022", erase=erase, threshold=0.1, shared_by=0.1)
    edit = tlk.plan_edit(model, fact, method)
    prompts = [tlk.Prompt.from_fact(model, facts[0].rephrase(template)) for template in (fact.template, *fact.paraphrases)]
    scores = tlk.attribute_neurons(model, prompts, variant="dai2022", progress=False)
    assert [tuple(each) for each in edit.notes[0]["neurons"]] == list(tlk.select_neurons(scores, threshold=0.1, shared_by=0.1))
    old, new = (model.W_E[WORDS.index(word)] for word in ("paris", "lima"))
    plain, hooked = model(prompts[0].tokens), model.run_with_hooks(prompts[0].tokens, fwd_hooks=edit.hooks())
    expected = [output_weights(model, layer).detach().clone() for layer in range(4)]
    for layer, number in edit.notes[0]["neurons"]:
        row = expected[layer][number]
        expected[layer][number] = 0 if erase else row + row.norm() * (8 * new / new.norm() - old / old.norm())
    with edit.applied(model):
        for layer in range(4):
            torch.testing.assert_close(output_weights(model, layer).detach(), expected[layer], rtol=0, atol=1e-12)
        applied = model(prompts[0].tokens)
    torch.testing.assert_close(applied, hooked, rtol=0, atol=1e-10)
    assert fingerprint(model) == before and torch.equal(model(prompts[0].tokens), plain) and not torch.allclose(applied, plain)


def test_edits_are_scored_at_the_mask(speaking_bert, facts):
    model, method = speaking_bert, tlk.localised.KnowledgeNeuronEdit(threshold=0.1, shared_by=0.1)
    case = tlk.EditCase(facts[0], " lima", (facts[0].rephrase(facts[0].paraphrases[0]),), (facts[1],))
    table = tlk.evaluate(model, case, method, progress=False).table
    edit = tlk.plan_edit(model, case.rewrite, method)
    for name, fact in (("E", facts[0]), ("P", case.paraphrases[0])):
        prompt = tlk.Prompt.from_fact(model, fact)
        p = model.run_with_hooks(prompt.tokens, fwd_hooks=edit.hooks())[0, prompt.last.last].softmax(-1).detach()
        margin = float(p[WORDS.index("lima")] - p[WORDS.index("paris")])
        assert table[f"{name}M"][0] == pytest.approx(100 * margin, abs=1e-9) and table[f"{name}S"][0] == 100 * (margin > 0)
        assert table[f"{name}A"][0] == 100 * (int(p.argmax()) == WORDS.index("lima"))


def test_the_likeliest_answers_are_those_at_the_mask(bert, facts):
    prompt = tlk.Prompt.from_fact(bert, facts[0])
    p = bert(prompt.tokens)[0, prompt.last.last].softmax(-1)
    ((token, probability), *_) = likeliest_next(bert, prompt, [])
    assert WORDS.index(token) == int(p.argmax()) and probability == pytest.approx(float(p.max()), rel=1e-5)


def test_a_relations_neurons_are_erased_together(speaking_bert, facts):
    """Dai et al. (2022), section 5.2; what is given is edited, whatever would be attributed."""
    model, before = speaking_bert, fingerprint(speaking_bert)
    neurons, spare = tlk.NeuronSet.of(model, [(0, 3), (2, 5), (2, 6)]), tlk.NeuronSet.of(model, [(2, 6)])
    edit = tlk.plan_edit(model, facts, tlk.localised.KnowledgeNeuronEdit(erase=True, neurons=neurons, spare=spare))
    tokens = tlk.Prompt.from_fact(model, facts[1]).tokens
    torch.testing.assert_close(
        model.run_with_hooks(tokens, fwd_hooks=edit.hooks()), model.run_with_hooks(tokens, fwd_hooks=(neurons - spare).suppress())
    )
    assert [sorted(map(tuple, note["neurons"])) for note in edit.notes] == [[(0, 3), (2, 5)]] * 2 and fingerprint(model) == before
    foreign = tlk.NeuronSet(frozenset({(0, 1)}), n_layers=2, d_mlp=24)
    with pytest.raises(ComponentError, match=r"of a model of \(2, 24\), layers and neurons a layer; this one has \(4, 24\)"):
        tlk.plan_edit(model, facts, tlk.localised.KnowledgeNeuronEdit(neurons=foreign))
    with pytest.raises(NumericalError, match="no neuron is left to edit of those that neurons= gives"):
        tlk.plan_edit(model, facts, tlk.localised.KnowledgeNeuronEdit(neurons=spare, spare=spare))


def test_an_edit_goes_into_hugging_faces_bert(bert, facts):
    edit = tlk.plan_edit(bert, facts[0].retarget(" lima"), tlk.localised.KnowledgeNeuronEdit(threshold=0.1, shared_by=0.1))
    module = BertForMaskedLM.from_pretrained(bert.tokenizer.name_or_path).eval()
    tokens = tlk.Prompt.from_fact(bert, facts[0]).tokens
    edit.to_hf(module)
    torch.testing.assert_close(module(tokens).logits, bert.run_with_hooks(tokens, fwd_hooks=edit.hooks()), rtol=1e-4, atol=1e-5)


def test_what_an_edited_bert_cannot_be_asked(bert, facts):
    method = tlk.localised.KnowledgeNeuronEdit(threshold=0.1, shared_by=0.1)
    with pytest.raises(TargetError, match="target 'unknown' has 2 tokens; one mask predicts one token"):
        tlk.plan_edit(bert, tlk.Fact("france", "the capital of {} is", "unknown").retarget(" lima"), method)
    near = (tlk.Fact("peru", "the capital of {} is", " lima"), tlk.datasets.Statement("the city is", "unknown"))
    with pytest.raises(TargetError, match="2 tokens; one mask predicts one token"):
        tlk.evaluate(bert, tlk.EditCase(facts[0], " lima", (), near), method, progress=False)
    for other in (tlk.ROME(layer=1), tlk.FineTune(layer=1), tlk.localised.CausalNeuronEdit()):
        with pytest.raises(UnsupportedModelError, match="attends in both directions"):
            tlk.plan_edit(bert, facts[0].retarget(" lima"), other)
    edit = tlk.plan_edit(bert, facts[0].retarget(" lima"), method)
    with pytest.raises(UnsupportedModelError, match="does not read a text from left to right"):
        edit.health(bert, ["the city of paris"])
    case = tlk.EditCase(facts[0], " lima", (), (), generation=("france is",))
    for measure in (tlk.evaluation.GenerationScores(), tlk.evaluation.EssenceDrift({"france": ["france is in a city"]})):
        with pytest.raises(UnsupportedModelError, match="does not read a text from left to right"):
            tlk.evaluate(bert, case, method, measures=measure, progress=False)


def test_minimal_pairs_are_compared_at_the_mask(bert):
    pairs = [tlk.datasets.MinimalPair(f"the {n} saw this city .", f"the {n} saw these city .", "dna_2") for n in ("dog", "dogs")]
    located = tlk.locate_neurons(bert, tlk.neurons.agreement_groups(bert, pairs), shared_by=0.5, steps=4, progress=False)
    reliability = tlk.neurons.measure_reliability(bert, pairs, located, by=lambda pair: "this")
    tokens = tlk.Prompt.from_text(bert, "the dogs saw [MASK] city .").tokens
    logits = bert(tokens)[0, 4]
    assert reliability.table["before"][1] == pytest.approx(float(logits[WORDS.index("this")] - logits[WORDS.index("these")]), abs=1e-5)
    words = {"nouns": ["dog", "dogs"], "other": ["of"]}
    effects = tlk.neurons.measure_token_effects(bert, [tlk.Prompt.from_text(bert, f"the {n} saw") for n in ("dog", "city")], words, located.sets[0])
    assert list(effects.table["word"]) == ["dog", "dogs", "of"]


def test_end_punctuation_is_asked_at_a_final_mask(bert):
    (group,) = tlk.neurons.punctuation_groups(bert, ["is this the city ?", "saw this dog ?"], marks="?")
    assert group.prompts[0].labels[-2:] == ("[MASK]", "[SEP]") and group.prompts[0].answer == (WORDS.index("?"),)


@pytest.mark.skipif(not hooked_transformer_available(), reason="TransformerLens 4 has no HookedEncoder")
def test_the_encoder_and_the_bridge_agree(bert, facts):
    """The same weights as a HookedEncoder give the same scores."""
    from transformer_lens import HookedEncoder, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions.bert import convert_bert_weights
    from transformers import BertForPreTraining

    sizes = {"n_layers": 3, "d_model": 16, "n_ctx": 32, "d_head": 4, "n_heads": 4, "d_mlp": 24, "d_vocab": len(WORDS)}
    config = HookedTransformerConfig(**sizes, act_fn="gelu", attention_dir="bidirectional", device="cpu", eps=1e-12)
    encoder = HookedEncoder(config, tokenizer=bert.tokenizer)
    plain = BertForPreTraining.from_pretrained(bert.tokenizer.name_or_path)  # what the conversion reads; attribution uses no pooler
    encoder.load_state_dict(convert_bert_weights(plain, config), strict=False)
    encoder.eval()
    prompts = tlk.neurons.fact_groups(encoder, facts[:1])[0].prompts
    ours, theirs = (tlk.attribute_neurons(model, prompts, steps=3, progress=False) for model in (encoder, bert))
    torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-3, atol=1e-6)
