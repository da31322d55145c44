"""What neurons write and where they are active, against what one would write by hand."""

from __future__ import annotations

import pytest
import torch
from support import build, fingerprint, hooks_left

import tl_knowledge as tlk
from tl_knowledge.errors import ComponentError, DataError, InputError, NumericalError, UnsupportedModelError
from tl_knowledge.models.final_norm import normalised
from tl_knowledge.models.unembedding import Unembedding
from tl_knowledge.neurons.vocabulary import neuron_logits


def some(model):
    return tlk.NeuronSet.of(model, [(0, 3), (1, 7), (1, 20), (3, 0)])


def post_norm(model):
    """Gemma 2 normalises what its MLPs write."""
    return "gemma" in str(getattr(model.cfg, "original_architecture", "") or getattr(model.cfg, "architecture", "")).lower()


def test_a_neuron_s_logits_are_what_scaling_it_adds(model):
    """The derivative of the logits by what the neuron writes, with the norm's scale taken off: by finite states, not by our norm."""
    if post_norm(model):
        with pytest.raises(UnsupportedModelError, match="passes a norm before it reaches the residual stream"):
            tlk.neurons.neuron_words(model, some(model))
        return
    before = fingerprint(model)
    logits = neuron_logits(model, some(model))
    head = Unembedding.of(model)
    for (layer, neuron), own in logits.items():
        row = model.blocks[layer].mlp.W_out[neuron].detach()
        # A norm of a very long state along the row and against it: their difference is twice the direction, and rms is its length.
        long = 1e6 * torch.stack([row, -row])
        out = normalised(model, long)
        direction = (out[0] - out[1]) / 2
        centred = row - row.mean() if getattr(model.cfg, "normalization_type", None) in ("LN", "LNPre") or _centres(model, row) else row
        expected = head.scale * (direction * centred.square().mean().sqrt()) @ head.weights
        torch.testing.assert_close(own, (expected - expected.mean()).double(), rtol=0, atol=2e-5)
    assert fingerprint(model) == before and not hooks_left(model)


def _centres(model, row):
    """Whether the final norm takes the mean off: a constant state then says nothing."""
    return float((normalised(model, torch.stack([row, row + 5.0]))[0] - normalised(model, torch.stack([row, row + 5.0]))[1]).abs().max()) < 1e-6


def test_the_table_is_those_logits(speaking):
    if post_norm(speaking):
        pytest.skip("refused, which is tested above")
    words = tlk.neurons.neuron_words(speaking, some(speaking), k=5, target="w9")
    logits = neuron_logits(speaking, some(speaking))
    assert len(words.table) == 4 * 2 * 5 and words.target == "w9"
    for row in words.table.to_dict("records"):
        own = logits[row["layer"], row["neuron"]]
        token = int(row["token"][1:])
        signed = own if row["sign"] == "promotes" else -own
        assert int((signed > signed[token]).sum()) == row["rank"]
        assert row["logit"] == pytest.approx(float(own[token])) and row["z"] == pytest.approx(float(own[token] / own.std()))
        assert row["target_rank"] == int((own > own[9]).sum())


def test_a_planted_neuron_promotes_its_word(prompt):
    """A row of ``W_out`` that is a token's own unembedding, on a model whose norm has no weights of its own."""
    model = build("bridge-llama")
    weights = model.blocks[2].mlp.W_out
    before = fingerprint(model)
    kept = weights.detach().clone()
    with torch.no_grad():
        column = model.W_U[:, 17]
        weights[5] = 3 * column / column.norm()
    try:
        words = tlk.neurons.neuron_words(model, tlk.NeuronSet.of(model, [(2, 5), (2, 6)]), k=1).table
        first = words.query("neuron == 5 and sign == 'promotes'")
        assert first["token"].tolist() == ["17"] and first["z"].item() > 2
    finally:
        with torch.no_grad():
            weights.copy_(kept)
    assert fingerprint(model) == before


def test_contexts_are_those_of_a_loop(speaking, texts):
    bos = [speaking.tokenizer.bos_token_id] if speaking.tokenizer.bos_token_id is not None else []
    rows = [bos + [int(word[1:]) for word in text.split()] for text in texts[:15]]
    runs = [speaking.run_with_cache(torch.tensor([tokens]))[1] for tokens in rows]
    for either_sign in (False, True):
        contexts = tlk.neurons.neuron_contexts(speaking, texts[:15], some(speaking), k=3, either_sign=either_sign, progress=False)
        for layer, neuron in some(speaking):
            active = [run[f"blocks.{layer}.mlp.hook_post"][0, :, neuron] for run in runs]
            strongest = sorted((float((own.abs() if either_sign else own).max()) for own in active), reverse=True)
            found = contexts.table.query("layer == @layer and neuron == @neuron").to_dict("records")
            for row, strength in zip(found, strongest[:3], strict=True):  # of equal texts rounding decides, which some norms do in float32
                tokens, own, pos = rows[row["text"]], active[row["text"]].tolist(), row["pos"]
                assert (abs(row["activation"]) if either_sign else row["activation"]) == pytest.approx(strength, abs=1e-5)
                assert row["activation"] == pytest.approx(own[pos], abs=1e-5) and row["token"] == f"w{tokens[pos]}"
                assert row["tokens"] == [f"w{token}" for token in tokens[: pos + 9]]  # never as long before it as the window
                assert row["activations"] == pytest.approx(own[: pos + 9], abs=1e-5)
            assert len({row["text"] for row in found}) == 3
        assert contexts.texts == 15 and contexts.tokens == sum(map(len, rows)) and not hooks_left(speaking)


def test_what_was_located_is_an_entry(gpt2, texts):
    from support import tokenizer_of_sixty_words

    gpt2.tokenizer = tokenizer_of_sixty_words()
    facts = [tlk.Fact(f"w{i}", "{} w3 w4", "w5", relation="r", paraphrases=("w6 {} w7",)) for i in (1, 2)]
    located = tlk.locate_neurons(gpt2, facts, steps=2, threshold=0.5, progress=False)
    everything = tlk.NeuronSet.of(gpt2, {neuron for own in located.sets for neuron in own})
    assert tlk.neurons.neuron_words(gpt2, located, k=2).neurons == everything
    assert tlk.neurons.neuron_contexts(gpt2, texts, located, k=2, tokens=50, progress=False).neurons == everything
    gpt2.tokenizer = None


@pytest.mark.usefixtures("without_type_checks")
def test_bad_questions_are_refused(gpt2, texts):
    with pytest.raises(ComponentError, match="a set of 0 neurons"):
        tlk.neurons.neuron_words(gpt2, tlk.NeuronSet.of(gpt2, []))
    with pytest.raises(ComponentError, match="of a model of 2 x 3"):
        tlk.neurons.neuron_words(gpt2, tlk.NeuronSet(frozenset({(1, 1)}), 2, 3))
    with pytest.raises(InputError, match="a vocabulary of 60"):
        tlk.neurons.neuron_words(gpt2, some(gpt2), k=61)
    with pytest.raises(InputError, match="has no tokenizer"):
        tlk.neurons.neuron_contexts(gpt2, texts, some(gpt2))
    with pytest.raises(InputError, match="k=0"):
        tlk.neurons.neuron_contexts(gpt2, texts, some(gpt2), k=0)


def test_no_text_is_refused(factlm):
    with pytest.raises(DataError, match="no text with a token"):
        tlk.neurons.neuron_contexts(factlm, iter(()), tlk.NeuronSet.of(factlm, [(0, 1)]), progress=False)


def test_texts_keep_their_numbers_where_some_have_no_token(factlm):
    """BOS alone is no text."""
    corpus = ["", "Paris is the capital of France", "", "the red apple"]
    contexts = tlk.neurons.neuron_contexts(factlm, corpus, tlk.NeuronSet.of(factlm, [(4, 28)]), k=4, progress=False)
    assert sorted(contexts.table["text"]) == [1, 3]


def test_what_is_kept_of_a_text_holds_on_to_nothing_else():
    from tl_knowledge.neurons.contexts import _Strongest

    batch, strongest = torch.randn(1000, 50), _Strongest(1)
    strongest.offer(0, torch.arange(50), batch[7], False)
    assert strongest.kept[0][-1].untyped_storage().nbytes() == 50 * 4


def test_a_neuron_that_writes_nothing_is_refused(gpt2):
    before = gpt2.blocks[1].mlp.W_out[4].detach().clone()
    with torch.no_grad():
        gpt2.blocks[1].mlp.W_out[4] = 0
    try:
        with pytest.raises(NumericalError, match="neuron 4 of layer 1 writes nothing"):
            tlk.neurons.neuron_words(gpt2, tlk.NeuronSet.of(gpt2, [(1, 4)]), k=2, target=3)
    finally:
        with torch.no_grad():
            gpt2.blocks[1].mlp.W_out[4] = before
