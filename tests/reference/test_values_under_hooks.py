"""Values of edits where a short cut would be wrong: somebody's hooks behind the edit, and rows as long as a sliding window."""

from __future__ import annotations

import warnings

import pytest
import torch
from support import tokenizer_of_sixty_words
from support.edits import slow_value
from support.models import HF_SIZES, _bridge
from transformers import MistralConfig, MistralForCausalLM

import tl_knowledge as tlk
from tl_knowledge.editing.optimise.fact_rows import rows_of
from tl_knowledge.editing.optimise.values import optimise_values
from tl_knowledge.errors import UnreadEditWarning
from tl_knowledge.models.hook_names import block_output
from tl_knowledge.models.weights import output_hook

SETTINGS = tlk.editing.ValueSettings(steps=4, learning_rate=0.3, clamp=2.0, stop_below=0.0)
WINDOW = 9


def equals_the_slow_one(model, fact, layer, site, exact):
    rows = rows_of(model, fact, ("{}",), "subject", essence_alike=True)
    value = optimise_values(model, [rows], layer, site, SETTINGS)[0]
    delta, losses = slow_value(model, rows, layer, SETTINGS, [site])
    assert value.losses == pytest.approx(losses, rel=exact)
    torch.testing.assert_close(value.delta, delta, rtol=exact, atol=exact * float(delta.abs().max()))


@pytest.fixture
def exact(request):
    """Some bridges have norms or a softmax in float32."""
    return 1e-6 if "bridge" in request.node.name and "gpt2" not in request.node.name else 1e-10


def test_what_a_hook_makes_of_the_edited_block_is_seen(speaking, exact):
    """Also where the same edit was made before without the hook, and what was found out then no longer holds."""
    fact, site = tlk.Fact("w3 w9", "w1 {} w4 w8", " w7 w11"), output_hook(speaking, 1)
    equals_the_slow_one(speaking, fact, 1, site, exact)
    speaking.add_hook(block_output(1), lambda states, hook: 1.5 * states)
    try:
        equals_the_slow_one(speaking, fact, 1, site, exact)
    finally:
        speaking.reset_hooks()


@pytest.mark.parametrize("hooked", ["unembed", "whole"])
def test_what_a_module_hook_makes_of_the_logits_is_seen(speaking, hooked, exact):
    fact, site = tlk.Fact("w3 w9", "w1 {} w4 w8", " w7 w11"), output_hook(speaking, 1)
    module = speaking.unembed if hooked == "unembed" else speaking
    handle = module.register_forward_hook(lambda module, given, made: 1.5 * made)
    try:
        equals_the_slow_one(speaking, fact, 1, site, exact)
    finally:
        handle.remove()


@pytest.mark.parametrize("length", [WINDOW - 1, WINDOW, WINDOW + 1])
def test_rows_as_long_as_a_sliding_window(length):
    """A cache that is full has let the first token go."""
    shape = MistralConfig(num_key_value_heads=2, head_dim=4, sliding_window=WINDOW, **HF_SIZES)
    model = _bridge(lambda: MistralForCausalLM(shape), "MistralForCausalLM")()
    model.tokenizer = tokenizer_of_sixty_words()
    fact = tlk.Fact("w3 w9", "w1 w2 w3 {} " + " ".join(f"w{10 + i}" for i in range(length - 5)), " w7")
    for layer in (0, 2):
        equals_the_slow_one(model, fact, layer, block_output(layer), 1e-6)


def test_in_the_last_layer_it_is_said_where_no_target_token_reads_the_value(speaking):
    """What is left of the gradient there is rounding, which Adam follows in full steps."""
    last = speaking.cfg.n_layers - 1
    away, read = tlk.Fact("w3 w9", "w1 {} w4 w8", " w7 w11"), tlk.Fact("w3 w9", "w1 {}", " w7 w11")
    rows = [rows_of(speaking, fact, ("{}", "w5 {}"), "subject", essence_alike=True) for fact in (away, read)]
    said = r"layer 3 is the last one: a change at position 2 reaches no position that predicts the target \(4, 5\), so the values of 1 of 2 facts"
    with pytest.warns(UnreadEditWarning, match=said):
        optimise_values(speaking, rows, last, output_hook(speaking, last), SETTINGS)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnreadEditWarning)
        (value,) = optimise_values(speaking, rows[1:], last, output_hook(speaking, last), SETTINGS)
        optimise_values(speaking, rows, last - 1, output_hook(speaking, last - 1), SETTINGS)
    assert value.losses[0] != value.losses[-1]
