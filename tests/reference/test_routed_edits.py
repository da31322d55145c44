"""What every edit that is hooks has to do with the rest: traces, evaluations, files, interrupts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support import build, fingerprint, hooks_left, tokenizer_of_sixty_words
from support.interrupts import InterruptAt
from support.memory_edits import (
    FACTS,
    NEURONS,
    OTHER,
    QUICK,
    TOKENS,
    applies,
    random_edits,
)
from support.models import BUILDERS, HARD_BUILDERS
from support.whole_forwards import attributed, restored_effect

import tl_knowledge as tlk
from tl_knowledge.editing import CodebookEdit, NeuronEdit, load_edit
from tl_knowledge.editing.planned import planned_fields
from tl_knowledge.engine.recording import record
from tl_knowledge.errors import ComponentError, DataError, ModelStateError
from tl_knowledge.evaluation.scores import case_scores, read_candidates
from tl_knowledge.models.mlp_maps import mlp_map
from tl_knowledge.models.routed import routed_on


@pytest.mark.parametrize("method", [replace(QUICK, matrix="W_in"), QUICK, NEURONS], ids=["grace W_in", "grace W_out", "neurons"])
def test_a_trace_under_a_written_edit_equals_the_plain_loop(speaking, method):
    """The engines' probes know the model from before the edit came."""
    prompt = tlk.Prompt.from_fact(speaking, FACTS[0])
    settings = {"corrupt": "subject", "samples": 2, "noise": tlk.GaussianNoise(sd=0.5, seed=0), "progress": False}
    before = tlk.trace(speaking, prompt, component="mlp_out", **settings)
    edit = tlk.plan_edit(speaking, FACTS[0], replace(method, **({} if method is NEURONS else {"radius": 3.0})))
    with edit.applied(speaking):
        for component, sever in (("resid_post", ()), ("mlp_out", "attn_out"), ("neuron", ())):
            places = {"positions": [1, 3], "layers": [1, 3], "units": [2, 5]} if component == "neuron" else {}
            fast, slow = (
                tlk.trace(speaking, prompt, component=component, sever=sever, engine=engine, **places, **settings) for engine in ("rows", "loop")
            )
            torch.testing.assert_close(fast.indirect_effect, slow.indirect_effect, rtol=1e-8, atol=1e-11, equal_nan=True)
            assert slow.provenance.engine == "loop"
            if component == "mlp_out":
                assert fast.clean_probability != before.clean_probability
        scores = tlk.attribute_neurons(speaking, prompt, steps=2, progress=False)
        assert bool(torch.isfinite(scores.scores).all())


NAMES = [name for name in ("bridge-gpt2", "bridge-llama", "bridge-gptneox", "ht-llama") if name in BUILDERS]


@pytest.fixture(params=NAMES)
def fresh(request):
    model = BUILDERS[request.param]()
    model.tokenizer = tokenizer_of_sixty_words()
    return model


@pytest.mark.parametrize("method", [QUICK, NEURONS], ids=["grace", "neurons"])
def test_an_interrupt_in_training_leaves_no_hook(fresh, method, monkeypatch):
    from tl_knowledge.editing.optimise import codebook_values, patches

    before, steps = fingerprint(fresh), []

    def progress_bar(items, **_):
        for item in items:
            steps.append(item)
            if item == 2:
                raise KeyboardInterrupt
            yield item

    monkeypatch.setattr(codebook_values, "progress_bar", progress_bar)
    monkeypatch.setattr(patches, "progress_bar", progress_bar)
    with pytest.raises(KeyboardInterrupt):
        tlk.plan_edit(fresh, FACTS[0], method)
    assert steps == [0, 1, 2] and fingerprint(fresh) == before and hooks_left(fresh) == [] and routed_on(fresh) == []


@pytest.mark.parametrize("method", [QUICK, NEURONS], ids=["grace", "neurons"])
def test_evaluations_equal_edits_by_hand(fresh, method, tmp_path):
    """Single, batch, sequential and growing numbers, against edits that are planned, written and read here."""
    cases = [tlk.EditCase(replace(fact, target=" w7"), fact.target, (fact.rephrase("w2 {} w4"),), (OTHER,)) for fact in FACTS]
    before = fingerprint(fresh)
    reports = {how: tlk.evaluate(fresh, cases, method, protocol=how, progress=False) for how in ("single", "batch", "sequential")}
    growth = tlk.evaluation.measure_growth(fresh, cases, {"it": method}, [1, 4], progress=False)
    assert fingerprint(fresh) == before and hooks_left(fresh) == []
    by_hand: dict = {"single": [], "batch": [], "sequential": []}

    def magnitude(case):
        return case_scores({}, read_candidates(fresh, case))["EM"]

    for case in cases:
        with tlk.plan_edit(fresh, case.rewrite, method).applied(fresh):
            by_hand["single"].append(magnitude(case))
    with tlk.plan_edit(fresh, [case.rewrite for case in cases], method).applied(fresh):
        by_hand["batch"] = [magnitude(case) for case in cases]
    written = []
    for case in cases:
        written.append(tlk.plan_edit(fresh, case.rewrite, method))
        written[-1].write_into(fresh)
    by_hand["sequential"] = [magnitude(case) for case in cases]
    for edit in written:
        edit.revert(fresh)
    for how, report in reports.items():
        assert report.table["EM"].tolist() == pytest.approx(by_hand[how], rel=1e-6), how
    assert by_hand["single"] != pytest.approx(reports["single"].table["base_EM"].tolist(), rel=1e-3)
    assert set(growth.to_dataframe()["edits"]) == {1, 4} and hooks_left(fresh) == []


def test_any_edits_file_is_read_by_the_class_it_names(gpt2, tmp_path, monkeypatch):
    monkeypatch.setattr(gpt2, "tokenizer", tokenizer_of_sixty_words())
    methods = {CodebookEdit: QUICK, NeuronEdit: NEURONS, tlk.Edit: tlk.FineTune.small()}
    for kind, method in methods.items():
        edit = tlk.plan_edit(gpt2, FACTS[0], method)
        assert type(load_edit(edit.save(tmp_path / kind.__name__))) is kind
    trace = tlk.trace(gpt2, tlk.Prompt.from_fact(gpt2, FACTS[0]), corrupt="subject", samples=1, noise=tlk.GaussianNoise(sd=0.5), progress=False)
    with pytest.raises(DataError, match="holds a CausalTrace, which is no edit"):
        load_edit(trace.save(tmp_path / "trace"))
    with pytest.raises(DataError, match="pass a file written by save"):
        load_edit(tmp_path / "nothing")


def test_an_edit_of_another_model_is_refused(gpt2, monkeypatch):
    other = build("bridge-gptneox")
    for model in (gpt2, other):
        monkeypatch.setattr(model, "tokenizer", tokenizer_of_sixty_words())
    for method in (QUICK, NEURONS):
        edit = tlk.plan_edit(gpt2, FACTS[0], method)
        with pytest.raises((ModelStateError, ComponentError)):
            edit.write_into(other)
        assert hooks_left(other) == []
        with edit.applied(gpt2), pytest.raises(ModelStateError, match="already on the model"):
            edit.write_into(gpt2)
        with pytest.raises(ModelStateError, match="not on this model"):
            edit.revert(gpt2)


def test_views_and_health_of_edits_that_are_hooks(gpt2, monkeypatch, texts):
    monkeypatch.setattr(gpt2, "tokenizer", tokenizer_of_sixty_words())
    for method in (QUICK, NEURONS):
        edit = tlk.plan_edit(gpt2, FACTS[0], method)
        prompt = tlk.Prompt.from_fact(gpt2, FACTS[0])
        assert len(tlk.editing.edit_view(gpt2, prompt, edit).views) == 2
        health = edit.health(gpt2, texts, limit=5)
        assert health.perplexity_before > 1 and health.perplexity_after > 1 and "no weight changes" in health.headline()
        assert health.plot() is not None and len(health.to_dataframe()) == 0 and repr(health)


@pytest.mark.parametrize("action", ["writes", "applies"])
def test_an_interrupt_at_any_line_leaves_an_edit_on_or_off(action):
    """On with everything, or off with everything; the resident edit stays."""
    fresh = BUILDERS["bridge-gpt2"]()  # its own: the tracer also interrupts where a lock is given back, which a signal cannot
    fresh.tokenizer = tokenizer_of_sixty_words()
    tokens, before = TOKENS[:1], fingerprint(fresh)
    resident, edit = random_edits(fresh, "W_out", count=2)
    plain = fresh(tokens)
    resident.write_into(fresh)
    without = fresh(tokens)
    edit.write_into(fresh)
    with_both = fresh(tokens)
    edit.revert(fresh)
    interrupted = 0
    for line in range(1, 2000):
        tracer = InterruptAt(line, ("models/routed.py", "editing/routed.py", "editing/planned.py", "codebook_edit.py"))
        try:
            with tracer:
                if action == "applies":
                    applies(edit, fresh)
                else:
                    edit.write_into(fresh)
                    edit.revert(fresh)
        except KeyboardInterrupt:
            torch.set_grad_enabled(True)
        if not tracer.raised:
            break
        interrupted += 1
        assert torch.equal(fresh(tokens), with_both if edit.is_written_into(fresh) else without), line
        assert resident.is_written_into(fresh)
        if edit.is_written_into(fresh):
            edit.revert(fresh)
    resident.revert(fresh)
    assert interrupted > 20 and torch.equal(fresh(tokens), plain) and fingerprint(fresh) == before and hooks_left(fresh) == []


WHOLE = [name for name in ("bridge-gpt2", "bridge-llama", "bridge-gptneox", "bridge-opt", "ht-parallel") if name in BUILDERS | HARD_BUILDERS]


@pytest.mark.parametrize("kind", ["W_in", "W_out", "neurons"])
@pytest.mark.parametrize("name", WHOLE)
def test_traces_and_attributions_under_an_edit_equal_whole_forwards(name, kind, prompt):
    """Engines whose probes were made before the edit came, against whole forwards with the model's own hooks."""
    model, noise = build(name), tlk.GaussianNoise(1.0)
    before = tlk.trace(model, prompt, noise, component="mlp_out", samples=2, progress=False)
    plain = tlk.attribute_neurons(model, prompt, steps=2, progress=False)
    with edit_near(model, prompt, kind).applied(model):
        for component in ("resid_post", "mlp_out", "attn_out"):
            trace = tlk.trace(model, prompt, noise, component=component, samples=2, progress=False)
            for layer, pos in ((0, 2), (1, 2), (3, 6)):
                effect = restored_effect(model, prompt, noise, component, layer, pos)
                assert float(trace.indirect_effect[:, layer, pos].mean()) == pytest.approx(effect, abs=1e-12), (component, layer)
        scores = tlk.attribute_neurons(model, prompt, steps=2, progress=False)
        for layer in (0, 2, 3):
            expected = attributed(model, prompt.tokens, 5, layer, 2)
            assert float((scores.scores[0, layer] - expected).abs().max()) < 1e-9 * float(expected.abs().max())
    assert abs(trace.clean_probability - before.clean_probability) > 1e-4
    again = tlk.attribute_neurons(model, prompt, steps=2, progress=False)
    assert torch.equal(again.scores, plain.scores) and not torch.equal(scores.scores, plain.scores)


def edit_near(model, prompt, kind):
    """An edit in layer 1 that acts at two positions of a prompt (neurons: in the last layer)."""
    place, draw = mlp_map(model, "MLP" if kind == "neurons" else kind, 3 if kind == "neurons" else 1), torch.Generator().manual_seed(2)
    queries, outputs = (record(model, prompt.tokens, [], [site])[site].flatten(0, -2)[[2, 6]] for site in (place.query, place.output))
    values = outputs + torch.randn(outputs.shape, generator=draw, dtype=outputs.dtype)
    fields = planned_fields(model, None, [{}])
    if kind == "neurons":
        keys = queries / queries.norm(dim=-1, keepdim=True) ** 2
        return NeuronEdit(place, keys, torch.full((2,), -0.5, dtype=keys.dtype), values, queries, "relu", ("a", "b"), **fields)
    radius = 0.3 * float(queries.norm(dim=-1).mean())
    return CodebookEdit(place, queries, values, ("a", "b"), radius, None, **fields)
