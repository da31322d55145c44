"""Loading: every backend gives the same model, checked, in evaluation mode, without gradients."""

from __future__ import annotations

import logging
import random
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import build
from transformers import AutoModelForCausalLM, AutoTokenizer

import tl_knowledge as tlk
from tl_knowledge.errors import DataError, UnsupportedModelError
from tl_knowledge.models.description import weight_processing
from tl_knowledge.models.loading import hooked_transformer_available
from tl_knowledge.models.protocol import prepends_bos

BACKENDS = ["bridge", *(["hooked_transformer"] if hooked_transformer_available() else [])]
TEXT = "The capital of France is"


@pytest.fixture(scope="module")
def hugging_face_log_probs():
    tokenizer = AutoTokenizer.from_pretrained(tlk.factlm.directory)
    model = AutoModelForCausalLM.from_pretrained(tlk.factlm.directory).eval()
    with torch.no_grad():
        return model(torch.tensor([[0, *tokenizer(TEXT)["input_ids"]]])).logits.log_softmax(-1)


@pytest.mark.parametrize("processed", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_way_to_load_gives_the_hugging_face_model(hugging_face_log_probs, backend, processed):
    model = tlk.load_model("factlm", backend=backend, process_weights=processed)
    logits = model(tlk.Prompt.from_text(model, TEXT).tokens)
    torch.testing.assert_close(logits.log_softmax(-1), hugging_face_log_probs, rtol=0, atol=2e-4)
    assert weight_processing(model) == {"fold_ln": processed, "center_writing_weights": processed}
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_model_is_known_by_what_its_class_can_do(backend):
    """``isinstance`` does not see ``blocks``, which lies among the modules of an instance, since Python 3.12: there every model was refused."""
    assert issubclass(type(tlk.load_model("factlm", backend=backend)), tlk.HookedModel)
    assert not issubclass(torch.nn.Linear, tlk.HookedModel)


def test_another_hooked_module_is_no_model():
    """TransformerLens' own class of them has all methods, as every autoencoder that is built on it."""

    class Hooked(torch.nn.Module):
        run_with_hooks = run_with_cache = hooks = lambda self: None

    with pytest.raises(UnsupportedModelError, match="Hooked is not a TransformerLens model; pass"):
        tlk.trace(Hooked(), tlk.Prompt.from_text("factlm", TEXT, subject="France"), 0.3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_dtype_gradients_and_bos_as_asked(backend):
    model = tlk.load_model("factlm", backend=backend, dtype=torch.float64, requires_grad=True, prepend_bos=False)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert all(p.requires_grad for p in model.parameters())
    assert not prepends_bos(model)
    prompt = tlk.Prompt.from_text(model, TEXT, subject="France")
    result = tlk.trace(model, prompt, samples=1)
    assert result.provenance.prepends_bos is False and result.provenance.dtype == "float64"


def test_the_backend_default(factlm):
    assert type(factlm).__name__ == ("HookedTransformer" if hooked_transformer_available() else "TransformerBridge")
    assert factlm.cfg.model_name == "factlm"


def test_a_local_directory_and_an_object(factlm):
    local = tlk.load_model(str(tlk.factlm.directory))
    tokens = tlk.Prompt.from_text(factlm, TEXT).tokens
    torch.testing.assert_close(local(tokens), factlm(tokens))
    assert tlk.load_model(factlm) is factlm


def test_other_architectures_go_through_the_bridge(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=2500, **sizes)).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tlk.factlm.directory).save_pretrained(tmp_path)
    model = tlk.load_model(str(tmp_path))
    assert type(model).__name__ == "TransformerBridge"
    assert tlk.trace(model, tlk.Prompt.from_text(model, TEXT, subject="France"), samples=1).provenance.engine == "rows"
    if hooked_transformer_available():
        with pytest.raises(UnsupportedModelError, match="no GPT-2 model; local directories of other families need backend='bridge'"):
            tlk.load_model(str(tmp_path), backend="hooked_transformer")


@pytest.mark.skipif(hooked_transformer_available(), reason="this TransformerLens still has HookedTransformer")
def test_hooked_transformer_is_refused_where_there_is_none():
    with pytest.raises(UnsupportedModelError, match=r"4\.0 removed it"):
        tlk.load_model("factlm", backend="hooked_transformer")


def test_a_hub_name_that_cannot_be_reached_says_so(caplog):
    with caplog.at_level(logging.CRITICAL), pytest.raises(DataError, match=r"cannot load model 'gpt2'.*pass 'factlm'"):
        tlk.load_model("gpt2")


@pytest.mark.skipif(not hooked_transformer_available(), reason="TransformerLens 4 has no HookedEncoder")
@pytest.mark.parametrize(("name", "expected"), [("bert-base-cased", "hooked-encoder"), ("pythia-70m", "ht-gpt2"), ("solu-1l", "ht-gpt2")])
def test_names_of_transformer_lens_reach_the_right_class(monkeypatch, name, expected):
    """Without any hub: TransformerLens' own short names, BERT's to the encoder."""
    import transformer_lens

    names = []
    encoder, transformer = transformer_lens.HookedEncoder, transformer_lens.HookedTransformer
    monkeypatch.setattr(encoder, "from_pretrained", lambda name, **_: names.append(name) or build("hooked-encoder"))
    monkeypatch.setattr(transformer, "from_pretrained_no_processing", lambda name, **_: names.append(name) or build("ht-gpt2"))
    assert tlk.load_model(name, device="cpu", requires_grad=True) is build(expected) and names == [name]


@pytest.fixture
def copied(tmp_path):
    """The bundled model's files, to be broken."""
    for name in ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tlk.factlm.directory / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("backend", BACKENDS)
def test_missing_weights_are_named_and_never_drawn(copied, backend):
    weights = load_file(copied / "model.safetensors")
    del weights["transformer.h.3.mlp.c_proj.weight"], weights["transformer.h.1.ln_1.bias"]
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"not complete: transformer\.h\.1\.ln_1\.bias, transformer\.h\.3\.mlp\.c_proj\.weight missing"):
        tlk.load_model(copied, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b'{"model_type": "no_such_type"}'),
        ("config.json", b"[]"),
        ("model.safetensors", b""),
        ("model.safetensors", None),
        ("tokenizer.json", b"{}"),
    ],
)
def test_broken_files_are_our_error(copied, backend, file, content):
    whole = (copied / file).read_bytes()
    (copied / file).write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises((DataError, UnsupportedModelError), match=r"cannot load model|is no GPT-2 model"):
        tlk.load_model(copied, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_loading_uses_up_no_random_numbers(backend):
    torch.manual_seed(3)
    before = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist(), torch.is_grad_enabled(), torch.get_default_dtype()
    tlk.load_model("factlm", backend=backend)
    after = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist(), torch.is_grad_enabled(), torch.get_default_dtype()
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
