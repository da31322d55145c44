"""An encoder with a decoder (T5) against Hugging Face's own module, which is run plainly: no row of tokens, and no hook of TransformerLens."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from support import fingerprint, hooks_left, t5_directory
from support.models import T5_SHAPES
from transformers import T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5LayerNorm

import tl_knowledge as tlk
from tl_knowledge.errors import ModelStateError
from tl_knowledge.models.protocol import answered_from
from tl_knowledge.models.weights import output_weights

pytestmark = pytest.mark.touches_model

LAYERS, RELATIVE = 3, 1e-10
FACT = tlk.Fact("france", "the capital of {} is", " paris", "P36", ("{} is a city <extra_id_0> . ?", "a capital in {} is"))


def norm(self: T5LayerNorm, states: torch.Tensor) -> torch.Tensor:
    """T5's norm in the states' own precision; Hugging Face takes it in float32 whatever the weights are."""
    return self.weight * states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


@pytest.fixture(scope="module", params=T5_SHAPES)
def pair(request, tmp_path_factory):
    """The model, and Hugging Face's module with the same weights, both in float64."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(T5LayerNorm, "forward", norm)
        folder = t5_directory(tmp_path_factory.mktemp("t5"), request.param)
        module = T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float64).eval()
        yield tlk.load_model(folder, dtype=torch.float64), module.requires_grad_(False)


@pytest.fixture
def prompts(pair):
    return [tlk.Prompt.from_fact(pair[0], FACT.rephrase(template)) for template in (FACT.template, *FACT.paraphrases)]


def parts(prompt, more=()):
    """What the encoder and what the decoder reads."""
    row = prompt.tokens[0].tolist()
    cut = row.index(0)
    return torch.tensor([row[:cut]]), torch.tensor([[*row[cut:], *more]])


def logits(module, prompt, more=()):
    encoder, decoder = parts(prompt, more)
    return module(input_ids=encoder, decoder_input_ids=decoder).logits[0]


def mlp(module, layer):
    side, number = (module.encoder, layer) if layer < LAYERS else (module.decoder, layer - LAYERS)
    return side.block[number].layer[-1].DenseReluDense


@contextmanager
def replaced(module, layer, change, *, before=False):
    """Hugging Face's own hook on what enters ``wo``, or on what comes out of the MLP's first matrix."""
    part = mlp(module, layer)
    first = getattr(part, "wi_0", None) or getattr(part, "wi", None)
    if before:
        handle = first.register_forward_hook(lambda _, given, out: change(out))
    else:
        handle = part.wo.register_forward_pre_hook(lambda _, given: (change(given[0]),))
    try:
        yield
    finally:
        handle.remove()


def slow_scores(module, prompt, answer, layer, pos, alphas, *, before=False, more=()):
    """One layer's scores at a position of its own side, one forward a step, and the completeness gap."""
    seen = []
    with replaced(module, layer, lambda x: seen.append(x.detach()) or x, before=before):
        logits(module, prompt, more)
    clean = seen[0][0, pos]

    def probability(value):
        def put(activation):
            here = (torch.arange(activation.shape[1]) == pos)[None, :, None]
            return torch.where(here, value, activation)

        with replaced(module, layer, put, before=before):
            return logits(module, prompt, more)[-1].softmax(-1)[answer]

    total = torch.zeros_like(clean)
    for alpha in alphas:
        point = (alpha * clean).requires_grad_(True)
        total += torch.autograd.grad(probability(point), point)[0]
    scores = clean * total / len(alphas)
    return scores, (scores.sum() - probability(clean) + probability(torch.zeros_like(clean))).abs().detach()


def assert_close(scores, expected):
    assert float((scores - expected).abs().max()) < RELATIVE * float(expected.abs().max())


def test_logits_are_hugging_faces(pair, prompts):
    model, module = pair
    for prompt in prompts:
        more = torch.tensor([[7, 9]])
        ours = model(torch.cat([prompt.tokens, more], dim=1))
        theirs, first = logits(module, prompt, (7, 9)), answered_from(model, prompt.tokens)
        torch.testing.assert_close(ours[0, first:], theirs, rtol=0, atol=1e-11)
        assert bool(ours[0, :first].isnan().all()) and ours.shape[1] == len(prompt) + 2
    both = torch.cat([prompts[0].tokens, tlk.Prompt.from_text(model, "a capital of peru is").tokens])
    torch.testing.assert_close(model(both)[0, -1], logits(module, prompts[0])[-1], rtol=0, atol=1e-11)


@pytest.mark.parametrize("at", ["last", "subject"])
@pytest.mark.parametrize(("variant", "before", "alphas"), [("ours", False, (1 / 3, 2 / 3, 1)), ("eleutherai2022", True, (0, 0.5, 1))])
@pytest.mark.parametrize("budget", [1.0, 2.0**30], ids=["one by one", "together"])
def test_integrated_gradients_equal_the_slow_loop(pair, prompts, at, variant, before, alphas, budget):
    """At the last position the decoder's neurons, at the subject the encoder's; a block has none on the other side."""
    model, module = pair
    result = tlk.attribute_neurons(model, prompts, at=at, steps=3, variant=variant, memory_budget=budget, progress=False)
    own, other = (range(LAYERS, 2 * LAYERS), range(LAYERS)) if at == "last" else (range(LAYERS), range(LAYERS, 2 * LAYERS))
    for k, prompt in enumerate(prompts):
        pos = -1 if at == "last" else prompt.subject.last
        pos = pos % parts(prompt)[1].shape[1] if at == "last" else pos
        for layer in own:
            scores, gap = slow_scores(module, prompt, prompt.target_token, layer, pos, alphas, before=before)
            assert_close(result.scores[k, layer], scores)
            torch.testing.assert_close(result.completeness_gap[k, layer], gap, rtol=0, atol=1e-11)
        assert not bool(result.scores[k, list(other)].any()) and not bool(result.completeness_gap[k, list(other)].gt(1e-12).any())
        assert float(result.clean_probability[k]) == pytest.approx(float(logits(module, prompt)[-1].softmax(-1)[prompt.target_token]), rel=1e-10)


@pytest.mark.parametrize("at", ["last", "subject"])
def test_another_metric_is_differentiated_as_the_probability_is(pair, prompts, at):
    """The probability and the divergence as functions of the logits, which go through the model's own unembedding."""
    model, module = pair
    for prompt in prompts:
        token, clean = prompt.target_token, logits(module, prompt)[-1].detach().log_softmax(-1)
        written_out = {
            "probability": lambda rows, token=token: rows.softmax(-1)[:, token],
            "kl": lambda rows, clean=clean: (clean.exp() * (rows.log_softmax(-1) - clean)).sum(-1),
        }
        for word, function in written_out.items():
            found, expected = (tlk.attribute_neurons(model, prompt, at=at, steps=3, metric=metric, progress=False) for metric in (word, function))
            assert float(expected.scores.abs().max()) > 1e-12
            assert_close(found.scores, expected.scores)


def test_every_token_of_an_answer_is_attributed_in_the_decoder(pair):
    model, module = pair
    prompt = tlk.Prompt.from_text(model, FACT.text, target=" new york")
    result = tlk.attribute_neurons(model, prompt, multi_token=True, steps=2, progress=False)
    for layer in range(LAYERS, 2 * LAYERS):
        expected = sum(slow_scores(module, prompt, prompt.answer[k], layer, k, (0.5, 1.0), more=prompt.answer[:k])[0] for k in range(2))
        assert_close(result.scores[0, layer], expected)


@pytest.mark.parametrize("factor", [0.0, 2.0])
@pytest.mark.parametrize("everywhere", [False, True])
def test_neurons_are_scaled_where_hugging_faces_are(pair, prompts, factor, everywhere):
    model, module = pair
    prompt, chosen = prompts[1], {4: [3, 7, 11], 1: [0, 5]}
    neurons = tlk.NeuronSet.of(model, [(layer, number) for layer, numbers in chosen.items() for number in numbers])
    positions = None if everywhere else [prompt.subject.last, prompt.last.last]
    ours = model.run_with_hooks(prompt.tokens, fwd_hooks=neurons.scale(factor, positions=positions))[0, -1]

    def scaled(numbers, at):
        def change(activation):
            changed = activation.clone()
            for position in range(activation.shape[1]) if everywhere else [at]:
                changed[:, position, numbers] *= factor
            return changed

        return change

    with replaced(module, 4, scaled(chosen[4], -1)), replaced(module, 1, scaled(chosen[1], prompt.subject.last)):
        theirs = logits(module, prompt)[-1]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)
    assert not torch.allclose(ours, model(prompt.tokens)[0, -1]) and hooks_left(model) == []


@pytest.mark.parametrize("erase", [False, True])
def test_a_neuron_edit_is_the_formula_on_hugging_faces_weights(pair, prompts, erase):
    """``W_out[i] += -E[old] + 8 E[new]``, or zeros; written, as hooks, and in Hugging Face's own module."""
    model, module = pair
    before = fingerprint(model)
    method = tlk.localised.KnowledgeNeuronEdit(erase=erase, threshold=0.1, shared_by=0.3)
    edit = tlk.plan_edit(model, FACT.retarget(" rome"), method)
    neurons, embeddings = edit.notes[0]["neurons"], module.shared.weight
    located = tlk.select_neurons(tlk.attribute_neurons(model, prompts, progress=False), threshold=0.1, shared_by=0.3)
    assert [tuple(each) for each in neurons] == list(located) and all(layer >= LAYERS for layer, _ in neurons)
    rome, paris = (tlk.Prompt.from_text(model, "a", target=target).target_token for target in (" rome", " paris"))
    kept = [{name: tensor.clone() for name, tensor in module.state_dict().items()}, [output_weights(model, k).clone() for k in range(2 * LAYERS)]]
    for layer in range(2 * LAYERS):
        rows = [number for at, number in neurons if at == layer]
        expected = kept[1][layer].clone()
        expected[rows] = 0.0 if erase else expected[rows] - embeddings[paris] + 8 * embeddings[rome]
        with edit.applied(model):
            torch.testing.assert_close(output_weights(model, layer), expected, rtol=0, atol=1e-12)
    hooked = model.run_with_hooks(prompts[0].tokens, fwd_hooks=edit.hooks())[0, -1]
    with edit.applied(model):
        applied = model(prompts[0].tokens)[0, -1]
    edit.to_hf(module)
    torch.testing.assert_close(applied, logits(module, prompts[0])[-1], rtol=0, atol=1e-10)
    torch.testing.assert_close(applied, hooked, rtol=0, atol=1e-10)
    module.load_state_dict(kept[0])
    assert not torch.allclose(applied, model(prompts[0].tokens)[0, -1])
    assert fingerprint(model) == before and all(torch.equal(output_weights(model, k), kept[1][k]) for k in range(2 * LAYERS))


def test_scores_are_of_teacher_forced_answers(pair):
    """Hugging Face shifts labels to the right behind the start token, and gives their mean loss."""
    model, module = pair
    method = tlk.localised.KnowledgeNeuronEdit(threshold=0.1, shared_by=0.3)
    near = (tlk.Fact("peru", FACT.template, " lima"), tlk.datasets.Statement("a city in <extra_id_0> is", " peru"))
    case = tlk.EditCase(FACT, " new york", (FACT.rephrase(FACT.paraphrases[1]),), near)
    table = tlk.evaluate(model, case, method, progress=False).table
    encoder, kept = parts(tlk.Prompt.from_fact(model, FACT))[0], {name: tensor.clone() for name, tensor in module.state_dict().items()}
    tlk.plan_edit(model, case.rewrite, method).to_hf(module)
    answers = {target: torch.tensor([tlk.Prompt.from_text(model, "a", target=target).answer]) for target in (" new york", " paris")}
    said = {target: module(input_ids=encoder, labels=answer).logits[0] for target, answer in answers.items()}
    module.load_state_dict(kept)
    nll = {target: torch.nn.functional.cross_entropy(said[target], answers[target][0]) for target in answers}
    new, true = (float((-nll[target]).exp()) for target in (" new york", " paris"))
    assert table["EM"][0] == pytest.approx(100 * (new - true), abs=1e-9) and table["ES"][0] == 100 * (new > true)
    assert table["token_reliability"][0] == 100 * float((said[" new york"].argmax(-1) == answers[" new york"][0]).double().mean())
    assert table["base_EM"][0] != table["EM"][0] and table["locality"][0] <= 100 and table["PS"].notna().all()


def test_the_model_is_left_as_it_was_by_what_stops_a_run(pair, prompts):
    model, _ = pair
    before = fingerprint(model)
    edit = tlk.plan_edit(model, FACT.retarget(" rome"), tlk.localised.KnowledgeNeuronEdit(threshold=0.1, shared_by=0.3))

    def stop(_, *, hook):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), edit.applied(model):
        model.run_with_hooks(prompts[0].tokens, fwd_hooks=[("blocks.4.mlp.hook_post", stop)])
    assert fingerprint(model) == before and hooks_left(model) == []
    with model.hooks(fwd_hooks=edit.hooks()), pytest.raises(ModelStateError, match=r"model\.held was run"):
        model.held(*parts(prompts[0]))
