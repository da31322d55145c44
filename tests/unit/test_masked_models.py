"""BERT: prompts asked at their mask, and every neuron function on it."""

from __future__ import annotations

import copy

import pytest
import torch
from support import bert_directory
from support.models import BERT_WORDS as WORDS

import tl_knowledge as tlk
from tl_knowledge.errors import PromptError, TargetError, UnsupportedModelError
from tl_knowledge.models.loading import hooked_transformer_available


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
