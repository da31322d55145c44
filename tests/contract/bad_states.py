"""The table of bad input, continued: what states and neurons say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from support.unfit import foreign_prompt, long_prompt

import tl_knowledge as tlk
from tl_knowledge import errors

INTO = tlk.Prompt.from_tokens([1, 2, 3])
TEXTS = ["The capital of France is Paris.", "The child is near the house."]


def of_model(model: Any) -> tlk.NeuronSet:
    return tlk.NeuronSet.of(model, [(0, 1)])


BAD_STATES: dict[str, tuple[Callable[[Any, Any], Any], type[Exception], str]] = {
    "decode_states: foreign": (
        lambda m, p: tlk.states.decode_states(m, foreign_prompt(), into=INTO),
        errors.PromptError,
        "outside the model",
    ),
    "decode_states: into": (lambda m, p: tlk.states.decode_states(m, p, into=long_prompt()), errors.PromptError, "the model's context is 32"),
    "decode_states: no tokenizer": (
        lambda m, p: tlk.states.decode_states(m, p, length=1),
        errors.InputError,
        "no tokenizer, so it cannot read a text",
    ),
    "decode_states: at": (lambda m, p: tlk.states.decode_states(m, p, into=INTO, at="subject"), errors.PromptError, "has no span 'subject'"),
    "decode_states: layers": (lambda m, p: tlk.states.decode_states(m, p, into=INTO, layers=[-2]), errors.ComponentError, "layer -2 is outside"),
    "decode_states: no layer": (lambda m, p: tlk.states.decode_states(m, p, into=INTO, layers=[]), errors.ComponentError, "no layer was given"),
    "decode_states: into_layer": (lambda m, p: tlk.states.decode_states(m, p, into=INTO, into_layer=4), errors.ComponentError, "layer 4 is outside"),
    "decode_states: positions": (
        lambda m, p: tlk.states.decode_states(m, p, into=INTO, positions=7),
        errors.ComponentError,
        "do not lie in",
    ),
    "decode_states: length": (lambda m, p: tlk.states.decode_states(m, p, into=INTO, length=0), errors.InputError, "length=0 writes nothing"),
    "decode_states: room": (lambda m, p: tlk.states.decode_states(m, p, into=INTO, length=30), errors.PromptError, "the context is 32"),
    "decode_states: through": (lambda m, p: tlk.states.decode_states(m, p, into=INTO, through=3), errors.InputError, "through"),
    "decode_states: target": (lambda m, p: tlk.states.decode_states(m, p, into=INTO, target=60), errors.TargetError, "target token 60 is outside"),
    "measure_decoding: layers": (lambda m, p: tlk.states.measure_decoding(m, p, into=INTO, layers=9), errors.ComponentError, "layer 9 is outside"),
    "measure_decoding: lenses": (
        lambda m, p: tlk.states.measure_decoding("factlm", tlk.Prompt.from_tokens([1]), lenses={"logit lens": lens()}),
        errors.InputError,
        "has the name 'logit lens', which is taken",
    ),
    "write_states: shape": (
        lambda m, p: tlk.states.write_states(torch.zeros(1, 2, 3), layer=0, positions=0),
        errors.ComponentError,
        r"shape \(1, 2, 3\)",
    ),
    "write_states: layer": (lambda m, p: tlk.states.write_states(torch.zeros(3), layer=-2, positions=0), errors.ComponentError, "after layer -2"),
    "fit_affine_maps: tokens": (lambda m, p: tlk.states.fit_affine_maps("factlm", TEXTS, tokens=0), errors.InputError, "tokens=0 reads nothing"),
    "fit_affine_maps: few": (lambda m, p: tlk.states.fit_affine_maps("factlm", TEXTS), errors.InputError, "do not tell a map of 128 dimensions"),
    "fit_affine_maps: into_layer": (lambda m, p: tlk.states.fit_affine_maps("factlm", TEXTS, into_layer=8), errors.ComponentError, "layer 8 is out"),
    "train_tuned_lens: validation": (
        lambda m, p: tlk.states.train_tuned_lens("factlm", TEXTS, validation=TEXTS),
        errors.InputError,
        "2 of 2 validation texts are in the corpus",
    ),
    "train_tuned_lens: layers": (
        lambda m, p: tlk.states.train_tuned_lens("factlm", TEXTS[:1], validation=TEXTS[1:], layers=7),
        errors.ComponentError,
        "layer 7 is the last",
    ),
    "neuron_words: k": (lambda m, p: tlk.neurons.neuron_words(m, of_model(m), k=0), errors.InputError, "k=0 tokens cannot be shown"),
    "neuron_words: target": (lambda m, p: tlk.neurons.neuron_words(m, of_model(m), target=60), errors.InputError, "token 60 is outside"),
    "neuron_words: other model": (
        lambda m, p: tlk.neurons.neuron_words(m, tlk.NeuronSet(frozenset({(0, 1)}), 9, 9)),
        errors.ComponentError,
        "of a model of 9 x 9 cannot be looked at",
    ),
    "neuron_contexts: k": (
        lambda m, p: tlk.neurons.neuron_contexts(m, TEXTS, of_model(m), k=0),
        errors.InputError,
        "k=0 and tokens=None show",
    ),
    "neuron_contexts: nothing": (
        lambda m, p: tlk.neurons.neuron_contexts("factlm", [], of_model("factlm")),
        errors.DataError,
        "the corpus has no text with a token",
    ),
}


def lens() -> tlk.states.AffineMaps:
    return tlk.states.fit_affine_maps("factlm", tlk.load_corpus(limit=10), layers=[6], progress=False)
