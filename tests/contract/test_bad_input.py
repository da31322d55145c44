"""One table over every public function: bad input gives our error with the remedy, and the model is left as it was."""

from __future__ import annotations

import re
from types import SimpleNamespace

import jaxtyping
import pytest
import torch
from conftest import build, fingerprint, hooks_left

import tl_knowledge as tlk
from tl_knowledge import errors
from tl_knowledge.model import check_model


@pytest.fixture(autouse=True)
def without_type_checks():
    """Users run without the test suite's type checker, and it would refuse wrong words before we do."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def dropout_model():
    model = build("bridge-gpt2")  # set back to eval by the test
    model.train()
    return model


def nan_model():
    model = build("bridge-llama")
    poison = [("blocks.1.hook_mlp_out", lambda x, *, hook: x * float("nan"))]
    return SimpleNamespace(model=model, hooks=poison)


def moe_model():
    """A block whose MLP has one W_out an expert."""
    real = build("bridge-gpt2")
    blocks = [SimpleNamespace(mlp=SimpleNamespace(W_out=torch.zeros(2, 24, 16)))]

    class MixtureOfExperts:
        cfg, tokenizer, training = SimpleNamespace(model_name="moe", n_layers=1), None, False
        hook_dict = real.hook_dict
        run_with_hooks = run_with_cache = hooks = parameters = modules = named_parameters = __call__ = lambda *a, **k: None

    made = MixtureOfExperts()
    made.blocks = blocks
    return made


def bidirectional_model():
    made = moe_model()
    made.cfg = SimpleNamespace(model_name="bert", attention_dir="bidirectional")
    return made


def long_prompt():
    return tlk.Prompt.from_tokens(torch.zeros(1, 33, dtype=torch.long), subject=range(1, 3), target=5)


def foreign_prompt():
    return tlk.Prompt.from_tokens(torch.tensor([[1, 2, 600]]), subject=[1], target=5)


BAD: dict[str, tuple[object, type[Exception], str]] = {
    "trace: no such span": (lambda m, p: tlk.trace(m, p, corrupt="verb"), errors.PromptError, "has no span 'verb'"),
    "trace: span outside": (lambda m, p: tlk.trace(m, p, corrupt=[99]), errors.PromptError, "pass positions from 0 to 6"),
    "trace: empty span": (lambda m, p: tlk.trace(m, p, corrupt=[]), errors.PromptError, "at least one"),
    "trace: component": (lambda m, p: tlk.trace(m, p, component="resid"), errors.ComponentError, "'resid' is unknown; pass one of 'resid_post'"),
    "trace: engine": (lambda m, p: tlk.trace(m, p, engine="fast"), errors.ComponentError, "'fast' is unknown; pass 'rows', 'loop' or 'screen'"),
    "trace: semantics": (lambda m, p: tlk.trace(m, p, semantics="x"), errors.ComponentError, "pass 'paper' or 'rome_code'"),
    "trace: layer": (lambda m, p: tlk.trace(m, p, layers=[4]), errors.ComponentError, "layer 4 is outside .* layers 0 to 3"),
    "trace: no layer": (lambda m, p: tlk.trace(m, p, layers=[]), errors.ComponentError, "no layer was given"),
    "trace: position": (lambda m, p: tlk.trace(m, p, positions=[7]), errors.ComponentError, "pass positions from 0 to 6"),
    "trace: unit": (lambda m, p: tlk.trace(m, p, component="head", units=[9]), errors.ComponentError, "pass numbers from 0 to 3"),
    "trace: units of a state": (lambda m, p: tlk.trace(m, p, units=[1]), errors.ComponentError, "has no units"),
    "trace: window": (lambda m, p: tlk.trace(m, p, window=0), errors.ComponentError, "window 0 does not fit"),
    "trace: sever": (lambda m, p: tlk.trace(m, p, sever="resid_post"), errors.ComponentError, "cannot be severed"),
    "trace: zero samples": (lambda m, p: tlk.trace(m, p, samples=0), errors.CorruptionError, "samples=0 draws no noise"),
    "trace: negative noise": (lambda m, p: tlk.trace(m, p, -0.1), errors.CorruptionError, "scale -0.1"),
    "trace: infinite noise": (lambda m, p: tlk.trace(m, p, float("inf")), errors.CorruptionError, "scale inf"),
    "trace: noise rule": (lambda m, p: tlk.trace(m, p, "3x"), errors.CorruptionError, "'3x' is not understood"),
    "trace: target": (lambda m, p: tlk.trace(m, p, target=60), errors.TargetError, "target token 60 is outside"),
    "trace: long prompt": (lambda m, p: tlk.trace(m, long_prompt()), errors.PromptError, "33 tokens; the model's context is 32: shorten"),
    "trace: foreign tokens": (lambda m, p: tlk.trace(m, foreign_prompt()), errors.PromptError, "token 600 is outside the model's vocabulary"),
    "trace: unequal swap": (lambda m, p: tlk.trace(m, p, tlk.PromptSwap(long_prompt())), errors.CorruptionError, "prompt of equal length"),
    "trace: dropout": (lambda m, p: tlk.trace(dropout_model(), p), errors.ModelStateError, r"dropout 0.1; call model.eval\(\)"),
    "trace: experts": (lambda m, p: tlk.trace(moe_model(), p), errors.UnsupportedModelError, "mixture of experts"),
    "trace: BERT": (lambda m, p: tlk.trace(bidirectional_model(), p), errors.UnsupportedModelError, "both directions"),
    "trace: no model": (lambda m, p: tlk.trace(None, p), errors.UnsupportedModelError, "NoneType is not a TransformerLens model"),
    "load_model: no model": (lambda m, p: tlk.load_model(3), errors.UnsupportedModelError, "int is not a TransformerLens model"),
    "load_model: experts": (lambda m, p: tlk.load_model(moe_model()), errors.UnsupportedModelError, "no single W_out"),
    "load_model: name": (lambda m, p: tlk.load_model("no-such/model"), errors.DataError, "cannot load model 'no-such/model'"),
    "load_model: backend": (lambda m, p: tlk.load_model("factlm", backend="nnsight"), errors.UnsupportedModelError, "'nnsight' is unknown"),
    "load_facts": (lambda m, p: tlk.load_facts("counterfoil"), errors.DataError, "'counterfoil' is unknown; pass 'factlm', 'known_1000'"),
    "load_relations": (lambda m, p: tlk.load_relations("x"), errors.DataError, "unknown"),
    "load_edit_cases": (lambda m, p: tlk.load_edit_cases("x"), errors.DataError, "unknown"),
    "load_corpus": (lambda m, p: tlk.load_corpus("x"), errors.DataError, "unknown"),
    "paraphrases": (lambda m, p: tlk.paraphrases(m, tlk.Fact("a", "{} is", " b")), errors.DataError, "has no paraphrases"),
    "compare: one": (lambda m, p: tlk.compare(tlk.trace(m, p, 0.5)), errors.ComponentError, "pass at least two"),
    "compare: two prompts": (
        lambda m, p: tlk.compare(tlk.trace(m, p, 0.5), tlk.trace(m, tlk.Prompt.from_tokens([1, 2, 3], subject=[1]), 0.5)),
        errors.ComponentError,
        "different prompts",
    ),
    "top: none": (lambda m, p: tlk.trace(m, p, 0.5).top(0), errors.ComponentError, "pass at least 1"),
    "CausalTrace.load": (lambda m, p: tlk.CausalTrace.load("nowhere"), errors.DataError, "cannot read"),
    "corrupt: nothing": (lambda m, p: tlk.corrupt([], tlk.GaussianNoise(0.1)), errors.CorruptionError, "no position"),
    "corrupt: outside": (
        lambda m, p: m.run_with_hooks(p.tokens, fwd_hooks=tlk.corrupt([50], tlk.GaussianNoise(0.1))),
        errors.ComponentError,
        "position 50 is outside the 7 positions of hook_embed",
    ),
    "corrupt: unresolved": (
        lambda m, p: m.run_with_hooks(p.tokens, fwd_hooks=tlk.corrupt([1], tlk.GaussianNoise("3sd"))),
        errors.CorruptionError,
        r"call noise.resolve\(model\) first",
    ),
    "restore: component": (lambda m, p: tlk.restore({}, "mlp", layer=1), errors.ComponentError, "'mlp' is unknown"),
    "restore: unit": (lambda m, p: tlk.restore({}, "mlp_out", layer=1, unit=3), errors.ComponentError, "has no units"),
    "restore: other length": (
        lambda m, p: m.run_with_hooks(p.tokens, fwd_hooks=tlk.restore({"blocks.1.hook_mlp_out": torch.zeros(1, 3, 16)}, "mlp_out", layer=1)),
        errors.ComponentError,
        "same length",
    ),
    "sever: module": (lambda m, p: tlk.sever({}, "resid_post", layer=1), errors.ComponentError, "cannot be severed"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(gpt2, prompt, case):
    call, error, message = BAD[case]
    before = fingerprint(gpt2)
    try:
        with pytest.raises(error) as raised:
            call(gpt2, prompt)
    finally:
        build("bridge-gpt2").eval()
    text = str(raised.value)
    assert re.search(message, text), text
    assert isinstance(raised.value, errors.TLKnowledgeError)
    assert ";" in text or ":" in text  # the remedy follows what failed
    assert hooks_left(gpt2) == []
    assert fingerprint(gpt2) == before


COVERED = {name.split(":")[0].split(".")[0] for name in BAD}
VALUES = {"CausalTrace", "EditCase", "Fact", "GaussianNoise", "HookedModel", "MultivariateGaussianNoise", "Prompt", "PromptSwap", "Relation"}
VALUES |= {"Span", "StudentTNoise", "TraceComparison", "UniformNoise", "embedding_sd", "subject_embedding_sd"}  # their own unit tests


@pytest.mark.parametrize("name", [n for n in tlk.__all__ if callable(getattr(tlk, n))])
def test_every_public_function_is_in_the_table(name):
    assert name in COVERED | VALUES


@pytest.mark.parametrize("engine", ["rows", "loop"])
def test_non_finite_activations(engine, prompt):
    poisoned = nan_model()
    with poisoned.model.hooks(fwd_hooks=poisoned.hooks), pytest.raises(errors.NumericalError, match="not finite"):
        tlk.trace(poisoned.model, prompt, 0.5, engine=engine)


@pytest.mark.parametrize("engine", ["rows", "loop"])
def test_an_exception_in_mid_run_leaves_no_hook(gpt2, prompt, engine, monkeypatch):
    from tl_knowledge.tracing import engines, experiment

    calls = iter(range(100))

    def fail(logits, answer):
        if next(calls) == 1:
            raise KeyboardInterrupt
        return logits.softmax(-1)[:, 0, 5]

    before = fingerprint(gpt2)
    for module in (engines, experiment):
        monkeypatch.setattr(module, "answer_probability", fail)
    with pytest.raises(KeyboardInterrupt):
        tlk.trace(gpt2, prompt, 0.5, engine=engine)
    assert hooks_left(gpt2) == []
    assert fingerprint(gpt2) == before


def test_a_trace_leaves_the_model_as_it_was(model, prompt):
    before, logits = fingerprint(model), model(prompt.tokens)
    tlk.trace(model, prompt, 0.5, samples=2, component="mlp_out", sever="attn_out")
    assert hooks_left(model) == []
    assert fingerprint(model) == before
    torch.testing.assert_close(model(prompt.tokens), logits, rtol=0, atol=0)


def test_training_mode_without_dropout_is_fine(prompt):
    if not any(name.startswith("ht-") for name in __import__("conftest").BUILDERS):
        pytest.skip("TransformerLens 4 has no HookedTransformer")
    model = build("ht-gpt2")
    model.train()
    try:
        assert check_model(model) is model
    finally:
        model.eval()
