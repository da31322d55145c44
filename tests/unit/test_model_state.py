"""The model is left as it was, whatever happens; and a result meets only the weights it was made of."""

from __future__ import annotations

import threading

import pytest
import torch
from support import build, fingerprint, hooks_left, tokenizer_of_sixty_words
from support.edits import random_edit
from support.interrupts import InterruptAt
from support.models import BUILDERS

import tl_knowledge as tlk
from tl_knowledge.errors import DataError, ModelStateError, NumericalError
from tl_knowledge.lock import model_lock
from tl_knowledge.models.description import weights_digest
from tl_knowledge.models.ledger import ledger_of, unedited_fingerprint
from tl_knowledge.models.weights import output_weights

pytestmark = pytest.mark.touches_model


@pytest.fixture
def own():
    """A model that the test may break."""
    model = BUILDERS["bridge-gpt2"]()
    model.tokenizer = tokenizer_of_sixty_words()
    return model


def consistent(model, edits, before) -> None:
    """The weights are the original ones plus what the ledger says."""
    written = [edit for edit in edits if edit.is_written_into(model)]
    assert unedited_fingerprint(model) == before
    for edit in written:
        edit.revert(model)
    assert fingerprint(model) == before and len(ledger_of(model)) == 0 and hooks_left(model) == []


def writes(edit, model):
    edit.write_into(model)
    edit.revert(model)


def applies(edit, model):
    with edit.applied(model):
        model(torch.tensor([[1, 2, 3]]))


@pytest.mark.parametrize("action", [writes, applies])
@pytest.mark.parametrize("name", [name for name in ("bridge-gpt2", "ht-llama") if name in BUILDERS])
def test_an_interrupt_at_any_line(name, action):
    model = BUILDERS[name]()  # its own: the tracer also interrupts where a lock is given back, which a signal cannot
    before = fingerprint(model)
    resident, edit = random_edit(model, (1, 2), 1), random_edit(model, (0, 1), 2)
    interrupted = 0
    for line in range(1, 10_000):
        resident.write_into(model)
        tracer = InterruptAt(line)
        try:
            with tracer:
                action(edit, model)
        except KeyboardInterrupt:
            torch.set_grad_enabled(True)  # what was interrupted as it left a ``no_grad`` of a probe may not have done so
        if not tracer.raised:
            break
        interrupted += 1
        consistent(model, [resident, edit], before)
    resident.revert(model)
    assert fingerprint(model) == before and interrupted > 30


def test_memory_that_runs_out_between_layers_leaves_nothing(own, monkeypatch):
    from tl_knowledge.models import ledger

    before, edit, calls = fingerprint(own), random_edit(own, (0, 1, 2), 1), []
    real = ledger.output_weights

    class Failing:
        def __init__(self, weights):
            self.weights = weights

        def copy_(self, values):
            calls.append(1)
            if len(calls) == 2:
                raise MemoryError
            return self.weights.copy_(values)

        def __getattr__(self, name):
            return getattr(self.weights, name)

    monkeypatch.setattr(ledger, "output_weights", lambda model, layer: Failing(real(model, layer)))
    with pytest.raises(MemoryError):
        edit.write_into(own)
    monkeypatch.undo()
    assert fingerprint(own) == before and not edit.is_written_into(own)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_edit_that_is_not_finite_is_never_written(own, value):
    before = fingerprint(own)
    left = torch.zeros(24, 1, dtype=torch.float64)
    left[3] = value
    with pytest.raises(NumericalError, match="edit of W_out of layer 1 is not finite"):
        tlk.Edit.planned(own, None, {1: tlk.editing.LowRank(left, torch.ones(1, 16, dtype=torch.float64))})
    large = tlk.editing.LowRank(torch.full((24, 1), 1e200, dtype=torch.float64), torch.full((1, 16), 1e200, dtype=torch.float64))
    edit = tlk.Edit.planned(own, None, {0: random_edit(own, (0,), 1).factors[0], 1: large})
    with pytest.raises(NumericalError, match="layer 1 is not finite"):
        edit.write_into(own)
    assert fingerprint(own) == before and not edit.is_written_into(own)


def test_an_edit_too_large_for_the_weights_type_is_not_written():
    model = BUILDERS["bridge-gpt2"]().to(torch.float16)
    before = fingerprint(model)
    factors = {1: tlk.editing.LowRank(torch.full((24, 1), 1e4), torch.full((1, 16), 1e4))}
    with pytest.raises(NumericalError, match=r"layer 1 is too large for torch\.float16 weights"):
        tlk.Edit.planned(model, None, factors).write_into(model)
    assert fingerprint(model) == before


def test_a_model_with_a_nan_of_its_own_stays_as_it_was(own):
    edit = random_edit(own, (1, 2), 1)
    with torch.no_grad():
        output_weights(own, 1)[0, 0] = float("nan")
        output_weights(own, 1)[0, 1] = -0.0
    before = fingerprint(own)
    edit = tlk.Edit.planned(own, None, edit.factors)
    for _ in range(2):
        with edit.applied(own):
            assert bool(output_weights(own, 1)[0, 0].isnan())
        assert fingerprint(own) == before


def test_a_changed_type_or_replaced_weights_are_noticed(own):
    edit = random_edit(own, (1,), 1)
    edit.write_into(own)
    own.load_state_dict({name: value.clone() for name, value in build("bridge-gpt2").state_dict().items()})
    with pytest.raises(ModelStateError, match=r"changed by something else.*forget_edits\(model\)"):
        edit.revert(own)
    with pytest.raises(ModelStateError, match="changed by something else"):
        unedited_fingerprint(own)
    tlk.editing.forget_edits(own)
    assert unedited_fingerprint(own) == fingerprint(own) and not edit.is_written_into(own)
    with edit.applied(own):  # the weights are those it was planned for again
        pass


def test_an_edit_meets_only_the_weights_it_was_planned_for(own, tmp_path):
    edit = random_edit(own, (1,), 1)
    edit.save(tmp_path / "edit")
    loaded = tlk.Edit.load(tmp_path / "edit")
    prompt = tlk.Prompt.from_tokens([1, 2, 3, 4], subject=[1], target=5)
    output_weights(own, 3).data[0, 0] += 1.0
    for each in (edit, loaded):
        for use in (each.write_into, each.health, lambda model, e=each: tlk.circuits.from_edit(model, prompt, e)):
            with pytest.raises(ModelStateError, match=r"planned for other weights .* plan it on this model, or run it as hooks\(\)"):
                use(own)
    own.run_with_hooks(prompt.tokens, fwd_hooks=edit.hooks())


def test_a_result_meets_only_the_weights_it_was_made_of(own, tmp_path):
    prompt = tlk.Prompt.from_tokens([1, 2, 3, 4, 7], subject=[1], target=5)
    trace = tlk.trace(own, prompt, 1.0, samples=1, progress=False)
    facts = [tlk.Fact(f"w{k}", "w1 {} w4 w8", " w7", relation=f"r{k}", paraphrases=("w2 {} w4",)) for k in (3, 4)]
    fact = facts[0]
    groups = [tlk.neurons.PromptGroup(each.relation, each.subject, (tlk.Prompt.from_fact(own, each),)) for each in facts]
    located = tlk.locate_neurons(own, groups, steps=1, progress=False)
    tlk.trace_facts(own, fact, 1.0, samples=1, known_only=False, store=tmp_path / "run", progress=False)
    own.blocks[0].mlp.W_out.data[0, 0] += 1.0
    with pytest.raises(ModelStateError, match="the trace was computed on other weights"):
        tlk.circuits.from_trace(own, prompt, trace)
    with pytest.raises(ModelStateError, match="located was computed on other weights"):
        tlk.neurons.measure_neuron_effects(own, facts, located=located, progress=False)
    for model in (own, "no-such/model"):  # a finished run answers for the model it was computed with only
        with pytest.raises(DataError, match=r"holds traces of other weights|cannot load model 'no-such/model'"):
            tlk.trace_facts(model, fact, 1.0, samples=1, known_only=False, store=tmp_path / "run", progress=False)


def test_moments_and_base_scores_are_of_the_weights_there_are(own, texts):
    moments = tlk.collect_key_moments(own, texts, layers=[1], progress=False)
    case = tlk.EditCase(
        tlk.Fact("w3 w9", "w1 {} w4 w8", " w7"),
        " w11",
        paraphrases=(tlk.Fact("w3 w9", "w2 {} w4", " w7"),),
        neighbourhood=(tlk.Fact("w2", "w1 {} w4 w8", " w7"),),
    )
    first = tlk.evaluate(own, case, tlk.FineTune(1, steps=1), progress=False).to_dataframe()
    own.embed.W_E.data[:, :] = own.embed.W_E.data.roll(1, 0)
    with pytest.raises(tlk.errors.InputError, match="belong to other weights"):
        tlk.plan_edit(own, case.rewrite, tlk.ROME(1, contexts=()), moments=moments)
    again = tlk.evaluate(own, case, tlk.FineTune(1, steps=1), progress=False).to_dataframe()
    bases = [name for name in first.columns if name.startswith("base_")]
    assert not first[bases].equals(again[bases])


def test_threads_take_turns(gpt2):
    """Three traces and an edit that comes and goes, at once: every trace is what it is alone."""
    prompts = [tlk.Prompt.from_tokens([7, 8, 9, 1, 2, 3, k], subject=[3, 4], target=5) for k in range(3)]
    alone = [tlk.trace(gpt2, prompt, 1.0, samples=2, engine="loop", progress=False).indirect_effect for prompt in prompts]
    results: dict[int, torch.Tensor] = {}
    edit = random_edit(gpt2, (0, 1), 1)
    edited = []

    def work(k: int) -> None:
        results[k] = tlk.trace(gpt2, prompts[k], 1.0, samples=2, engine="loop", progress=False).indirect_effect

    def come_and_go() -> None:
        for _ in range(20):
            with edit.applied(gpt2):
                edited.append(tlk.trace(gpt2, prompts[0], 1.0, samples=1, layers=[0], progress=False).indirect_effect)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(3)] + [threading.Thread(target=come_and_go)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k in range(3):
        assert torch.equal(results[k], alone[k])
    assert all(torch.equal(edited[0], each) for each in edited) and hooks_left(gpt2) == []


def test_threads_that_go_by_a_models_name_take_turns():
    """The model behind a name is one, too."""
    prompt = tlk.Prompt.from_text("factlm", "The capital of France is", subject="France", target=" Paris")
    alone = tlk.trace("factlm", prompt, samples=2, layers=[0, 3], engine="loop", progress=False).indirect_effect
    results: dict[int, torch.Tensor] = {}

    def work(k: int) -> None:
        results[k] = tlk.trace("factlm", prompt, samples=2, layers=[0, 3], engine="loop", progress=False).indirect_effect

    threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(results[k], alone) for k in range(3))


def test_the_lock_is_of_one_model_and_re_entrant(gpt2, own):
    with model_lock(gpt2), model_lock(gpt2):
        taken = []
        thread = threading.Thread(target=lambda: (taken.append(1), model_lock(own).__enter__(), taken.append(2)))
        thread.start()
        thread.join()
        assert taken == [1, 2]


GREEDY = {"max_new_tokens": 4, "do_sample": False, "verbose": False, "return_type": "tokens"}


def one_by_one(model, tokens, hooks):
    """What `generate` should give: whole forwards, a token at a time."""
    for _ in range(GREEDY["max_new_tokens"]):
        logits = model.run_with_hooks(tokens, fwd_hooks=hooks)
        tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], dim=1)
    return tokens


@pytest.mark.parametrize("name", [name for name in ("bridge-gpt2", "bridge-llama", "ht-gpt2") if name in BUILDERS])
@pytest.mark.parametrize("cached", [True, False])
def test_hooks_in_generate(name, cached):
    """The table of docs/editing.md: what works, and what is refused at the first token that it would be wrong for."""
    model, tokens = build(name), torch.tensor([[7, 8, 9, 1, 2, 3, 4]])
    before, model.tokenizer = model.tokenizer, tokenizer_of_sixty_words()
    recorded = model.run_with_cache(tokens)[1]
    always = [random_edit(model, (1,), 1).hooks(), tlk.scale_neurons([(0, 3)], 0.0)]
    uncached = [tlk.scale_neurons([(0, 3)], 0.0, positions=2), tlk.knock_out_attention(6, [0], layers=[0])]
    uncached += [tlk.scale_neurons([(0, 3)], 9.0, positions=-1), tlk.ablate(modules=(1, "mlp_out"), positions=-1)]  # a cache keeps every last token
    patched = {"component": "resid_post", "layer": 1, "positions": -1}
    uncached.append(tlk.hooks.patch_subspace(torch.eye(16, 2), torch.ones(16, dtype=torch.float64), **patched))
    uncached += [tlk.scale_neurons([(0, 3)], 0.0, positions=0), tlk.knock_out_attention([0], [5], layers=[0])]  # a new token is no first one
    always.append(tlk.ablate(heads=[(0, 1)], neurons=[(1, 3)], modules=[(1, "mlp_out")]))
    uncached += [tlk.ablate(heads=(0, 1), positions=2), tlk.ablate(modules=[(0, "mlp_out")], positions=0), tlk.ablate(neurons=(0, 3), positions=0)]
    embedding = tlk.corrupt([0], tlk.GaussianNoise(3.0))
    never = [tlk.restore(recorded, "mlp_out", layers=[1], positions=2), tlk.sever(recorded, "mlp_out", layers=[1])]
    (never if name == "ht-gpt2" else uncached).append(embedding)
    try:
        for hooks in [*always, *uncached, *never]:
            with model.hooks(fwd_hooks=hooks):
                if hooks in always or (hooks in uncached and not cached):
                    generated = model.generate(tokens, use_past_kv_cache=cached, **GREEDY)
                else:
                    with pytest.raises(tlk.errors.InputError, match=r"generate|same length|do not lie in the prompt"):
                        model.generate(tokens, use_past_kv_cache=cached, **GREEDY)
                    continue
            assert generated.tolist() == one_by_one(model, tokens, hooks).tolist()
    finally:
        model.tokenizer = before
    assert hooks_left(model) == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_fingerprint_notices_changed_signs_and_places(dtype):
    """What a plain sum over rows and columns does not: signs of whole rows, columns and blocks."""
    weights = torch.randn(8, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    rows, columns = torch.tensor([1, 5]), torch.tensor([3, 7])
    changes = {
        "all": lambda w: w.neg_(),
        "rows": lambda w: w.index_copy_(0, rows, -w[rows]),
        "columns": lambda w: w.index_copy_(1, columns, -w[:, columns]),
        "block": lambda w: w.__setitem__((rows[:, None], columns), -w[rows[:, None], columns]),
        "places": lambda w: w.index_copy_(0, rows, w[rows.flip(0)]),
        "twice": lambda w: w.mul_(2),
        "one bit": lambda w: w.view(torch.uint8)[0, 0].bitwise_xor_(1),
    }
    assert weights_digest(weights) == weights_digest(weights.clone())
    for name, change in changes.items():
        changed = weights.clone()
        change(changed)
        assert weights_digest(changed) != weights_digest(weights), name
