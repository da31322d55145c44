"""An encoder with a decoder (T5): how it is asked, what works on it, and that everything else refuses it and says what does."""

from __future__ import annotations

import pytest
import torch
from support import fingerprint, hooks_left, t5_directory
from support.models import T5_SHAPES

import tl_knowledge as tlk
from tl_knowledge.datasets import MinimalPair
from tl_knowledge.errors import ComponentError, DataError, PromptError, SubjectNotFoundError, TargetError, UnsupportedModelError
from tl_knowledge.models import loading
from tl_knowledge.models.checks import check_model
from tl_knowledge.models.encoder_decoder import EncoderDecoder
from tl_knowledge.models.loading import hooked_transformer_available
from tl_knowledge.models.protocol import HookedModel, is_encoder_decoder, is_masked

pytestmark = pytest.mark.touches_model

TEMPLATES = ("the capital of {} is", "{} is a city <extra_id_0> . ?", "a capital in {} is")
FACTS = [tlk.Fact(s, TEMPLATES[0], o, r, TEMPLATES[1:]) for s, o, r in (("france", " paris", "x"), ("peru", " lima", "y"))]
KN = tlk.localised.KnowledgeNeuronEdit(threshold=0.1, shared_by=0.3)
ELSEWHERE = r"knowledge neurons \(attribute_neurons, locate_neurons\), their edits \(localised.KnowledgeNeuronEdit\) and evaluate\(\)"


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    return tlk.load_model(t5_directory(tmp_path_factory.mktemp("t5"), "t5"), dtype=torch.float64)


@pytest.mark.typed
def test_a_row_is_the_text_and_then_the_decoders_part(t5):
    assert isinstance(t5, HookedModel) and isinstance(t5, EncoderDecoder) and is_encoder_decoder(t5) and not is_masked(t5)
    assert t5.cfg.n_layers == 6 and t5.cfg.d_mlp == 24 and t5.held.cfg.n_layers == 3
    prompt = tlk.Prompt.from_fact(t5, FACTS[0])
    assert prompt.labels == ("the", "capital", "of", "france", "is", "</s>", "<pad>") and prompt.answer == (
        t5.tokenizer.convert_tokens_to_ids("▁paris"),
    )
    assert prompt.last.last == 6 and prompt.subject.positions == (3,) and prompt.relation.positions == (0, 1, 2, 4) and not prompt.has_bos
    blank = tlk.Prompt.from_fact(t5, FACTS[0].rephrase(TEMPLATES[1]))
    assert blank.labels[-3:] == ("</s>", "<pad>", "<extra_id_0>") and blank.last.last == len(blank) - 1
    assert int(blank.tokens[0, -1]) in blank.tokens[0, :-3].tolist() and blank.subject.positions == (0,)
    assert not {blank.labels.index("<extra_id_0>"), len(blank) - 1, len(blank) - 2, len(blank) - 3} & set(blank.relation)
    assert tlk.Prompt.from_text(t5, "the city", target=" new york").answer == tuple(t5.tokenizer.convert_tokens_to_ids(["▁new", "▁york"]))


def test_what_it_cannot_be_asked(t5):
    for text, message in (
        ("<extra_id_0> is <extra_id_1>", "has 2 blanks; leave one"),
        ("the <pad> city", "the token in it with which the decoder begins"),
        ("the <extra_id_7> city", "<extra_id_7> is no token of this model"),
    ):
        with pytest.raises(PromptError, match=message):
            tlk.Prompt.from_text(t5, text)
    with pytest.raises(TargetError, match="holds a part that the tokenizer does not know"):
        tlk.Prompt.from_text(t5, "the city", target=" qqq")
    with pytest.raises(SubjectNotFoundError):
        tlk.Prompt.from_text(t5, "the city", subject="rome")
    with pytest.raises(PromptError, match=r"are a text, then token 0, with which the decoder begins.*make prompts with Prompt\.from_fact"):
        tlk.attribute_neurons(t5, tlk.Prompt.from_tokens([4, 5, 6], target=7))
    for rows in ([[4, 5, 0, 3], [4, 0, 5, 3]], [[4, 5, 6, 3]], [[0, 5, 6, 3]]):
        with pytest.raises(PromptError, match="in the same place in every row"):
            t5(torch.tensor(rows))
    with pytest.raises(PromptError, match="runs on tokens here"):
        t5("the city")
    with pytest.raises(PromptError, match="the model's context is 512"):
        tlk.Prompt.from_text(t5, "the city " * 300)


def test_hooks_are_those_of_the_blocks_streams_and_mlps(t5):
    names, tokens = list(t5.hook_dict), tlk.Prompt.from_fact(t5, FACTS[0]).tokens
    shown, seen = t5.run_with_cache(tokens)[1], t5.run_with_cache(tokens, names_filter="blocks.4.mlp.hook_post")[1]
    assert set(shown) == set(names) and list(seen) == ["blocks.4.mlp.hook_post"] and all(each.shape[1] == 7 for each in shown.values())
    assert not bool(shown["blocks.4.mlp.hook_post"][:, :6].any()) and bool(shown["blocks.4.mlp.hook_post"][:, 6:].any())
    assert not bool(shown["blocks.1.mlp.hook_post"][:, 6:].any()) and bool(shown["blocks.1.mlp.hook_post"][:, :6].any())
    for name in ("blocks.4.attn.hook_z", "decoder.0.mlp.hook_post", "blocks.9.mlp.hook_post"):
        with pytest.raises(ComponentError, match=f"has no hook '{name}' here; it has hook_resid_pre, .*are on model.held"):
            t5.run_with_hooks(tokens, fwd_hooks=[(name, lambda x, *, hook: x)])
    with pytest.raises(ComponentError, match=r"takes no stop_at_layer here; run model\.held"):
        t5(tokens, stop_at_layer=2)
    with pytest.raises(ComponentError, match=r"takes no bwd_hooks here; use model\.held\.hooks"), t5.hooks(bwd_hooks=[]):
        pass
    assert hooks_left(t5) == []


@pytest.mark.typed
def test_a_shared_text_is_read_once_but_where_a_hook_tells_rows_apart(t5):
    """Rows of one text, in any order, are what each is alone; and a change of one row's encoder reaches this row alone."""
    first, second = (tlk.Prompt.from_fact(t5, fact).tokens for fact in FACTS)
    more = torch.tensor([[7], [9], [8], [7]])
    rows, texts = torch.cat([torch.cat([first, second, first, first]), more], dim=1), list[int]()
    together = t5(rows)
    module = t5.blocks[0] if hooked_transformer_available() else t5.held.original_model.encoder.block[0].layer[1]
    handle = module.register_forward_hook(lambda _, given, out: texts.append(len(out)))
    t5(rows)
    for k in range(4):
        torch.testing.assert_close(together[k, 6:], t5(rows[k : k + 1])[0, 6:], rtol=0, atol=1e-12)
    assert texts == [2, 1, 1, 1, 1] and hooks_left(t5) == []

    def change(activation, *, hook):
        assert len(activation) == 4
        return torch.cat([activation[:2], activation[2:3] * 1.5, activation[3:]])

    changed = t5.run_with_hooks(rows, fwd_hooks=[("blocks.1.mlp.hook_post", change)])
    handle.remove()
    assert texts[-1] == 4 and not torch.allclose(changed[2, 6:], together[2, 6:])
    torch.testing.assert_close(changed[[0, 1, 3], 6:], together[[0, 1, 3], 6:], rtol=0, atol=1e-12)


@pytest.mark.typed
def test_facts_are_located_scaled_and_known(t5):
    located = tlk.locate_neurons(t5, FACTS, shared_by=0.3, steps=4, progress=False)
    assert all(len(neurons) and {layer for layer, _ in neurons} <= {3, 4, 5} for neurons in located.sets)
    assert located.provenance.engine == "plain rows (growing rows refused: its decoder runs after its encoder)"
    assert located.provenance.backend == type(t5.held).__name__
    at_subject = tlk.locate_neurons(t5, FACTS, at="subject", shared_by=0.3, steps=4, progress=False)
    assert all(len(neurons) and {layer for layer, _ in neurons} <= {0, 1, 2} for neurons in at_subject.sets)
    effects = tlk.neurons.measure_neuron_effects(t5, FACTS, located=located, factor=2.0, unrelated=1, controls=1, progress=False)
    prompt = tlk.Prompt.from_fact(t5, FACTS[0])
    runs = [t5.run_with_hooks(prompt.tokens, fwd_hooks=hooks)[0, -1] for hooks in ([], located.sets[0].enhance(2.0, positions=prompt.last))]
    clean, enhanced = (float(each.softmax(-1)[prompt.target_token].detach()) for each in runs)
    assert effects.table["own"][0] == pytest.approx((enhanced - clean) / clean, rel=1e-9)
    said = str(t5.tokenizer.decode([int(t5(prompt.tokens)[0, -1].argmax())]))
    assert len(tlk.neurons.measure_layer_effects(t5, FACTS, located, progress=False).table) >= 1
    assert tlk.known_facts(t5, FACTS) == [fact for fact in FACTS[:1] if fact.target.strip() == said] + [
        fact for fact in FACTS[1:] if int(t5(tlk.Prompt.from_fact(t5, fact).tokens)[0, -1].argmax()) == tlk.Prompt.from_fact(t5, fact).target_token
    ]


@pytest.mark.typed
def test_several_edits_stack_and_leave_in_any_order(t5, tmp_path):
    before, prompt = fingerprint(t5), tlk.Prompt.from_fact(t5, FACTS[0])
    first, second = (tlk.plan_edit(t5, fact.retarget(" rome"), KN) for fact in FACTS)
    loaded = tlk.Edit.load(first.save(tmp_path / "edit"))
    loaded.write_into(t5)
    second.write_into(t5)
    loaded.revert(t5)
    assert second.is_written_into(t5) and not loaded.is_written_into(t5)
    both = t5(prompt.tokens)
    second.revert(t5)
    assert fingerprint(t5) == before and hooks_left(t5) == [] and not torch.equal(both[:, -1], t5(prompt.tokens)[:, -1])


@pytest.mark.typed
@pytest.mark.parametrize("protocol", ["single", "batch", "sequential"])
def test_cases_are_scored_under_every_protocol(t5, protocol, tmp_path):
    before = fingerprint(t5)
    cases = [tlk.EditCase(fact, " new york", (fact.rephrase(TEMPLATES[2]),), (other,)) for fact, other in zip(FACTS, FACTS[::-1], strict=True)]
    cases += [
        tlk.EditCase(tlk.Fact("rome", "{} is a city in", " peru"), " peru", (), (tlk.datasets.Statement("a city in peru is", " lima"),))
    ]  # zsRE's right answer
    report = tlk.evaluate(t5, cases, KN, protocol=protocol, store=tmp_path / "run", progress=False)
    assert fingerprint(t5) == before and len(report.table) == 3
    assert report.table["ES"][:2].notna().all() and report.table["token_reliability"].notna().all() and report.table["locality"].notna().all()
    assert report.table["ES"].isna()[2]  # nothing to compare the right answer with


REFUSED = {
    "trace": tlk.trace,
    "trace_facts": lambda m, p: tlk.trace_facts(m, FACTS, progress=False),
    "rome": lambda m, p: tlk.plan_edit(m, FACTS[0], tlk.ROME(layer=1)),
    "memit": lambda m, p: tlk.plan_edit(m, FACTS[0], tlk.MEMIT(layers=(1,))),
    "ft": lambda m, p: tlk.plan_edit(m, FACTS[0], tlk.FineTune(layer=1)),
    "cne": lambda m, p: tlk.plan_edit(m, FACTS[0], tlk.localised.CausalNeuronEdit()),
    "evaluate rome": lambda m, p: tlk.evaluate(m, tlk.EditCase(FACTS[0], " rome", (), ()), tlk.ROME(layer=1)),
    "moments": lambda m, p: tlk.collect_key_moments(m, ["the city"]),
    "attention": tlk.analyse_attention,
    "direct": tlk.direct_logit_attribution,
    "lens": tlk.logit_lens,
    "knockout": lambda m, p: tlk.measure_attention_knockout(m, FACTS),
    "perturb": lambda m, p: tlk.tracing.perturb_embeddings(m, FACTS),
    "agreement": lambda m, p: tlk.neurons.agreement_groups(m, MinimalPair("the city is", "the city s", "", prefix="the city", word_good="is")),
    "punctuation": lambda m, p: tlk.neurons.punctuation_groups(m, ["the city ."]),
    "report": lambda m, p: tlk.report_fact(m, FACTS[0]),
    "growth": lambda m, p: tlk.evaluation.measure_growth(m, [tlk.EditCase(FACTS[0], " rome", (), ())], {"kn": KN}, [1]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_everything_else_says_what_works(t5, name):
    with pytest.raises(UnsupportedModelError, match=ELSEWHERE):
        REFUSED[name](t5, tlk.Prompt.from_fact(t5, FACTS[0]))
    assert hooks_left(t5) == []


def test_measures_that_read_on_refuse_it(t5):
    case = tlk.EditCase(FACTS[0], " rome", (), (), generation=("france is",))
    for measure in (tlk.evaluation.GenerationScores(), tlk.evaluation.EssenceDrift({"france": ["france is in a city"]})):
        with pytest.raises(UnsupportedModelError, match="does not read a text from left to right"):
            tlk.evaluate(t5, case, KN, measures=measure, progress=False)
    with pytest.raises(UnsupportedModelError, match="does not read a text from left to right"):
        tlk.plan_edit(t5, FACTS[0].retarget(" rome"), KN).health(t5, ["the city of paris"])


def test_transformer_lens_own_model_is_wrapped_once(t5):
    assert tlk.load_model(t5.held) is t5 and tlk.load_model(t5) is t5
    with pytest.raises(UnsupportedModelError, match=r"load_model\(model\) gives it as knowledge neurons"):
        tlk.attribute_neurons(t5.held, tlk.Prompt.from_fact(t5, FACTS[0]))
    with pytest.raises(UnsupportedModelError, match=ELSEWHERE):
        check_model(t5, masked=True)


@pytest.mark.skipif(not hooked_transformer_available(), reason="TransformerLens 4 has no HookedEncoderDecoder")
@pytest.mark.parametrize("shape", T5_SHAPES)
def test_a_conversion_that_goes_wrong_is_refused(tmp_path, shape, monkeypatch):
    """Logits are held against Hugging Face's at every load; encoder and decoder of two depths do not fit the class."""
    folder, right = t5_directory(tmp_path / "t5", shape), loading.t5_weights
    assert type(tlk.load_model(folder).held).__name__ == "HookedEncoderDecoder"
    with pytest.raises(UnsupportedModelError, match="encoder has 3 blocks and the decoder 2"):
        tlk.load_model(t5_directory(tmp_path / "uneven", shape, num_decoder_layers=2))
    monkeypatch.setattr(loading, "t5_weights", lambda module: right(module) | {"unembed.W_U": module.lm_head.weight.T * 1.01})
    with pytest.raises(UnsupportedModelError, match="gives other logits than Hugging Face's"):
        tlk.load_model(folder)


def test_a_directory_that_is_no_t5_is_still_told_so(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bart", "is_encoder_decoder": true}')
    with pytest.raises((DataError, UnsupportedModelError)):
        tlk.load_model(tmp_path)
