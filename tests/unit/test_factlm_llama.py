"""The LLaMA-shaped bundled model: the same facts, looked up in layer 2 at the last subject token, and rewritten there."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

import tl_knowledge as tlk
from tl_knowledge.cli import app
from tl_knowledge.cli.options import bundled_names
from tl_knowledge.editing import METHODS, method_for_model
from tl_knowledge.errors import InputError
from tl_knowledge.explore.code import loading_options
from tl_knowledge.explore.session import ExplorerSession
from tl_knowledge.models.bundled import BUNDLED
from tl_knowledge.models.description import weight_processing
from tl_knowledge.models.hooked_directories import check_same_logits
from tl_knowledge.models.loading import hooked_transformer_available

NAME = "factlm-llama"
BACKENDS = ["bridge", *(["hooked_transformer"] if hooked_transformer_available() else [])]


@pytest.fixture(scope="module")
def source():
    return AutoModelForCausalLM.from_pretrained(tlk.factlm.llama_directory).eval()


@pytest.fixture(scope="module", params=BACKENDS)
def llama(request):
    return tlk.load_model(NAME, backend=request.param)


@pytest.fixture(scope="module")
def facts():
    return tlk.sample_facts(tlk.load_facts(), 60, seed=1)


@pytest.mark.parametrize("processed", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_way_to_load_gives_the_hugging_face_model(source, backend, processed):
    model = tlk.load_model(NAME, backend=backend, process_weights=processed)
    tokens = tlk.Prompt.from_text(model, "The capital of France is").tokens
    assert tokens[0, 0] == model.tokenizer.bos_token_id and model.cfg.model_name == NAME
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).log_softmax(-1), source(tokens).logits.log_softmax(-1), rtol=0, atol=2e-4)
    if backend == "hooked_transformer":
        assert weight_processing(model) == {"fold_ln": processed, "center_writing_weights": False}


def test_its_tokenizer_is_the_one_of_factlm(factlm, llama):
    assert not (BUNDLED[NAME] / "tokenizer.json").exists()
    assert llama.tokenizer.get_vocab() == factlm.tokenizer.get_vocab()


@pytest.mark.skipif(not hooked_transformer_available(), reason="TransformerLens 4 has the bridge only")
def test_a_hooked_transformer_of_other_numbers_is_refused(source):
    model = tlk.load_model(NAME, backend="hooked_transformer")
    check_same_logits(model, source, NAME)
    with torch.no_grad():
        model.blocks[3].mlp.W_out.mul_(1.01)
    with pytest.raises(tlk.errors.UnsupportedModelError, match="other logits than Hugging Face's 'factlm-llama'; pass backend='bridge'"):
        check_same_logits(model, source, NAME)


def test_it_says_what_it_was_taught(llama, facts):
    right = 0
    for fact in facts:
        prompt = tlk.Prompt.from_fact(llama, fact)
        with torch.no_grad():
            right += int(llama(prompt.tokens)[0, -1].argmax()) == int(prompt.answer[0])
    assert right >= 0.98 * len(facts)


def test_a_trace_peaks_in_layer_2_at_the_last_subject_token(llama, facts):
    effects = []
    for fact in facts[:8]:
        prompt = tlk.Prompt.from_fact(llama, fact)
        trace = tlk.trace(llama, prompt, component="mlp_out", window=1, samples=5, progress=False)
        effects.append(trace.mean_effect[:, prompt.subject.last])
    mean = torch.stack(effects).mean(0)
    assert int(mean.argmax()) == tlk.ROME.for_model(llama).layer == 2
    assert mean[:2].abs().max() < 0.1 * mean.max()  # the narrow layers


def test_published_settings_are_its_own(llama):
    assert tlk.ROME.for_model(llama).layer == 2
    memit = tlk.MEMIT.for_model(llama)
    assert (memit.layers, memit.moment_weight) == ((2, 3), 30.0)


@pytest.mark.parametrize("name", METHODS)
def test_every_editor_that_needs_no_training_has_settings_and_plans(name):
    model, case = tlk.load_model(NAME), tlk.load_edit_cases()[0]
    if name in ("mend", "ke", "serac"):
        with pytest.raises(InputError, match=r"nothing is published for 'factlm-llama'|train"):
            tlk.plan_edit(model, case.rewrite, method_for_model(model, name), progress=False)
        return
    moments = tlk.collect_key_moments(model, tlk.load_corpus(limit=200), layers=[1, 2, 3], progress=False)
    prompt = tlk.Prompt.from_fact(model, case.rewrite)
    edit = tlk.plan_edit(model, case.rewrite, method_for_model(model, name), moments=moments, progress=False)
    with torch.no_grad():
        before = model(prompt.tokens)[0, -1].softmax(-1)[prompt.target_token]
        with edit.applied(model):
            after = model(prompt.tokens)[0, -1].softmax(-1)[prompt.target_token]
    assert name in ("ike", "kn", "cne") or float(after) > max(0.1, float(before))  # the three do little to FactLM in any shape


def test_rome_at_its_layer_makes_it_say_the_new_object_and_leaves_no_trace(llama):
    held = {name: value.clone() for name, value in llama.state_dict().items()}
    moments = tlk.collect_key_moments(llama, tlk.load_corpus(limit=200), layers=[2], progress=False)
    said = 0
    for case in tlk.load_edit_cases()[:3]:
        edit = tlk.plan_edit(llama, case.fact, tlk.ROME.for_model(llama), moments=moments)
        prompt = tlk.Prompt.from_fact(llama, case.fact)
        with edit.applied(llama), torch.no_grad():
            said += int(llama(prompt.tokens)[0, -1].argmax()) == int(prompt.answer[0])
    assert said == 3
    assert all(torch.equal(value, held[name]) for name, value in llama.state_dict().items())


def test_the_command_line_knows_it():
    runner = CliRunner()
    assert bundled_names("factlm") == ["factlm", NAME] and bundled_names("factlm-") == [NAME] and bundled_names("g") == []
    told = runner.invoke(app, ["info"])
    assert told.exit_code == 0 and "factlm, factlm-llama" in told.stdout
    traced = runner.invoke(app, ["trace", "--model", NAME, "--component", "mlp_out", "--no-progress"])
    assert traced.exit_code == 0, traced.output
    assert "model factlm-llama" in traced.output and "layer 2" in traced.output


def test_the_explorer_has_moments_and_programs_for_it():
    model = tlk.load_model(NAME)
    assert loading_options(model, NAME) == ""
    session = ExplorerSession(model, name=NAME)
    try:
        assert all(not offer.refusal and offer.layers for offer in session.methods if offer.name in ("rome", "memit"))
    finally:
        session.close()
