"""Edits that are hooks (GRACE, Transformer-Patcher) against plain Python, position by position, on every architecture in float64."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from support import build, fingerprint, hooks_left, tokenizer_of_sixty_words
from support.interrupts import InterruptAt
from support.memory_edits import entries_of, plain_codebook, slow_codebook_hooks
from support.models import BUILDERS, HARD_BUILDERS
from support.whole_forwards import attributed, restored_effect

import tl_knowledge as tlk
from tl_knowledge.editing import GRACE, CodebookEdit, NeuronEdit, TransformerPatcher, load_edit
from tl_knowledge.editing.codebook import Codebook
from tl_knowledge.editing.codebook_edit import codebook_of
from tl_knowledge.editing.planned import planned_fields
from tl_knowledge.engine.recording import record
from tl_knowledge.errors import ComponentError, DataError, InputError, ModelStateError
from tl_knowledge.evaluation.scores import case_scores, read_candidates
from tl_knowledge.models.mlp_maps import mlp_map
from tl_knowledge.models.routed import routed_on

FACTS = [
    tlk.Fact("w3 w9", "w1 {} w4 w8", " w9 w2"),
    tlk.Fact("w5", "w1 {} w4 w8", " w30"),
    tlk.Fact("w30 w31", "w2 {} w8 w6", " w11"),
    tlk.Fact("w20 w21", "w2 {} w8", " w30"),
]
OTHER = tlk.Fact("w40 w41", "w44 {} w45", " w1")
QUICK = replace(GRACE.small(), steps=4)
MATRICES = ["W_in", "W_out"]
NEURONS = replace(TransformerPatcher.small(), steps=6)


def tokens_of(model, *facts):
    return torch.cat([tlk.Prompt.from_fact(model, fact).tokens[:, :4] for fact in facts])


TOKENS = torch.randint(0, 57, (3, 6), generator=torch.Generator().manual_seed(5))


def random_edits(model, matrix, count=4, facts=2):
    """Edits with keys near what the map reads of some of those tokens, some of them near each other, and any values."""
    place, draw = mlp_map(model, matrix, 1), torch.Generator().manual_seed(3)
    inputs = record(model, TOKENS, [], [place.query])[place.query].flatten(0, -2)
    radius = float((inputs - inputs.roll(1, 0)).norm(dim=-1).mean()) / 3
    width = record(model, TOKENS, [], [place.output])[place.output].shape[-1]
    like = tlk.plan_edit(model, FACTS[0], replace(QUICK, steps=1, matrix=matrix))
    edits = []
    for number in range(count):
        at = torch.randint(0, 9, (facts,), generator=draw)
        off = torch.randn(facts, inputs.shape[1], generator=draw, dtype=inputs.dtype)
        keys = inputs[at] + radius * 0.8 * off / off.norm(dim=-1, keepdim=True)
        values = torch.randn(facts, width, generator=draw, dtype=inputs.dtype)
        edits.append(replace(like, keys=keys, values=values, labels=tuple(f"label {(number + i) % 3}" for i in range(facts)), radius=radius))
    return edits


@pytest.mark.parametrize("seed", range(12))
def test_a_codebook_is_the_papers_algorithm(seed):
    """Random streams of keys on a line and in the plane, so that all cases occur; each against plain Python."""
    draw = random.Random(seed)
    entries = []
    for _ in range(30):
        key = [round(draw.uniform(-4, 4), 1) + 10, draw.choice([0.0, 0.0, 1.0])]
        entries.append((key, [draw.gauss(0, 1)], draw.choice("abc"), draw.choice([0.3, 1.0])))
    book = Codebook.empty(torch.zeros(2, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    for count, (key, value, label, radius) in enumerate(entries, start=1):
        book = book.with_entry(*(torch.tensor(x, dtype=torch.float64) for x in (key, value)), label, radius)
        expected = plain_codebook(entries[:count])
        assert book.keys.tolist() == [entry[0] for entry in expected] and book.labels == tuple(entry[2] for entry in expected)
        assert book.values.tolist() == [entry[1] for entry in expected]
        assert book.radii.tolist() == pytest.approx([entry[3] for entry in expected], rel=1e-12)


def test_the_random_streams_meet_every_case():
    met = {"new": 0, "split": 0, "grown": 0, "same": 0}
    for seed in range(12):
        draw, entries = random.Random(seed), []
        for _ in range(30):
            key = [round(draw.uniform(-4, 4), 1) + 10, draw.choice([0.0, 0.0, 1.0])]
            entries.append((key, [draw.gauss(0, 1)], draw.choice("abc"), draw.choice([0.3, 1.0])))
            before, after = plain_codebook(entries[:-1]), plain_codebook(entries)
            grew = [entry[3] for entry in after[: len(before)]] != [entry[3] for entry in before]
            what = ("split" if grew else "new") if len(after) > len(before) else "grown" if grew else "same"
            met[what] += 1
    assert min(met.values()) >= 10


@pytest.mark.parametrize("matrix", MATRICES)
def test_edits_on_a_model_are_one_codebook_position_by_position(speaking, matrix):
    """Several edits, in a batch, against one hook that looks at each position alone; and each way to put them there."""
    edits, tokens = random_edits(speaking, matrix), TOKENS
    plain = speaking(tokens)
    book = plain_codebook([entry for edit in edits for entry in entries_of(edit)])
    expected = speaking.run_with_hooks(tokens, fwd_hooks=slow_codebook_hooks(edits[0].place, book))
    assert float((expected - plain).detach().abs().max()) > 1e-3
    for edit in edits:
        edit.write_into(speaking)
    written = speaking(tokens)
    for edit in reversed(edits[2:]):
        edit.revert(speaking)
    joined = speaking.run_with_hooks(tokens, fwd_hooks=[pair for edit in edits[2:] for pair in edit.hooks()])
    for edit in edits[:2]:
        edit.revert(speaking)
    hooked = speaking.run_with_hooks(tokens, fwd_hooks=[pair for edit in edits for pair in edit.hooks()])
    assert torch.equal(written, expected) and torch.equal(hooked, expected) and torch.equal(joined, expected)
    assert torch.equal(speaking(tokens), plain) and hooks_left(speaking) == []


@pytest.mark.parametrize("matrix", MATRICES)
def test_nothing_changes_outside_every_radius(speaking, matrix):
    """Bit for bit: the whole of another prompt, and the positions of the same one before the key."""
    edit = tlk.plan_edit(speaking, FACTS[0], replace(QUICK, matrix=matrix, radius=1e-3))
    prompt, other = (tlk.Prompt.from_fact(speaking, fact).tokens for fact in (FACTS[0], OTHER))
    plain, elsewhere = speaking(prompt), speaking(other)
    with edit.applied(speaking):
        assert torch.equal(speaking(other), elsewhere)
        edited = speaking(prompt)
    assert torch.equal(edited[:, :-1], plain[:, :-1]) and not torch.equal(edited[:, -1], plain[:, -1])


@pytest.mark.parametrize("matrix", MATRICES)
def test_edits_leave_in_any_order_and_leave_what_they_found(speaking, matrix):
    edits, tokens, before = random_edits(speaking, matrix), TOKENS, fingerprint(speaking)
    plain = speaking(tokens)
    for order in ([2, 0, 3, 1], [0, 1, 2, 3], [3, 2, 1, 0]):
        for edit in edits:
            edit.write_into(speaking)
        on = list(range(4))
        for gone in order:
            edits[gone].revert(speaking)
            on.remove(gone)
            assert routed_on(speaking) == [edits[i] for i in on]
            left = speaking(tokens)
            fresh = [load_like(edits[i]) for i in on]
            alone = speaking.run_with_hooks(tokens, fwd_hooks=[pair for edit in fresh for pair in edit.hooks()])
            assert torch.equal(left, alone)
        assert torch.equal(speaking(tokens), plain) and fingerprint(speaking) == before and hooks_left(speaking) == []


def load_like(edit):
    """The same edit, as one that nobody has used."""
    return replace(edit)


def test_a_sequence_of_plans_goes_on_from_the_codebook(speaking):
    """Same prompt, another target: the later one is said; another prompt with the same target near: the radius grows to reach it."""
    method = replace(QUICK, steps=40, learning_rate=0.5, radius=1e-3)
    prompt = tlk.Prompt.from_fact(speaking, FACTS[1])
    first = tlk.plan_edit(speaking, FACTS[1], method)
    first.write_into(speaking)
    again = tlk.plan_edit(speaking, FACTS[1].retarget(" w12"), method)
    assert again.notes[0]["key"] == "replaced" and again.notes[0]["distance"] == 0
    again.write_into(speaking)
    assert len(codebook_of(routed_on(speaking))) == 1
    assert again.notes[0]["target_probability"] == pytest.approx(
        float(speaking(prompt.tokens)[0, -1].softmax(-1)[prompt_token(speaking, " w12")]), rel=1e-6
    )
    wide = tlk.plan_edit(speaking, FACTS[2].retarget(" w12"), replace(method, radius=50.0))
    assert wide.notes[0]["key"] == "grown" and len(codebook_of([*routed_on(speaking), wide])) == 1
    with wide.applied(speaking):
        grown = codebook_of(routed_on(speaking))
        assert float(grown.radii[0]) == pytest.approx(1.01 * wide.notes[0]["distance"])
        said = float(speaking(tlk.Prompt.from_fact(speaking, FACTS[2]).tokens)[0, -1].softmax(-1)[prompt_token(speaking, " w12")])
        assert said == pytest.approx(wide.notes[0]["target_probability"], rel=1e-6)
    split = tlk.plan_edit(speaking, FACTS[2].retarget(" w13"), replace(method, radius=50.0))
    with split.applied(speaking):
        assert codebook_of(routed_on(speaking)).radii.tolist() == pytest.approx([split.notes[0]["distance"] / 2] * 2)
    again.revert(speaking)
    first.revert(speaking)
    assert hooks_left(speaking) == []


def prompt_token(model, text):
    return tlk.Prompt.from_fact(model, FACTS[1].retarget(text)).target_token


def test_the_value_is_that_of_a_plain_loop(speaking):
    """Adam by hand on one vector, written at the prompt's last position by a plain hook."""
    method = replace(QUICK, steps=5, learning_rate=0.1, start="warm", radius=1e-6)
    edit = tlk.plan_edit(speaking, FACTS[0], method)
    prompt = tlk.Prompt.from_fact(speaking, FACTS[0])
    answer, last = torch.tensor(prompt.answer), len(prompt) - 1
    tokens = torch.cat([prompt.tokens, answer[None, :-1]], dim=1)
    found: list = []
    speaking.run_with_hooks(tokens, fwd_hooks=[(edit.place.output, lambda x, *, hook: found.append(x.reshape(-1, x.shape[-1])[last].detach()))])
    value = found[0].clone().requires_grad_(True)
    optimiser, losses = torch.optim.Adam([value], lr=0.1), []

    def put(outputs, *, hook):
        changed = outputs.clone()
        changed.view(-1, changed.shape[-1])[last] = value
        return changed

    for step in range(5):
        log_p = speaking.run_with_hooks(tokens, fwd_hooks=[(edit.place.output, put)])[0].log_softmax(-1)
        loss = -torch.stack([log_p[last + i, token] for i, token in enumerate(answer)]).mean()
        losses.append(float(loss.detach()))
        if step < 4:
            (value.grad,) = torch.autograd.grad(loss, [value])
            optimiser.step()
    assert edit.notes[0]["losses"] == pytest.approx(losses, rel=1e-9)
    torch.testing.assert_close(edit.values[0], value.detach(), rtol=1e-8, atol=1e-10)


def test_a_full_codebook_is_an_error_and_leaves_the_model(speaking):
    method = replace(QUICK, steps=1, radius=1e-6, most_keys=2)
    before = fingerprint(speaking)
    with pytest.raises(InputError, match="would have 3 keys, and most_keys=2"):
        tlk.plan_edit(speaking, FACTS[:3], method)
    both, third = tlk.plan_edit(speaking, FACTS[:2], method), tlk.plan_edit(speaking, FACTS[2], method)
    both.write_into(speaking)
    inside = fingerprint(speaking)
    for attempt in (lambda: third.write_into(speaking), lambda: tlk.plan_edit(speaking, FACTS[3], method), lambda: applies(third, speaking)):
        with pytest.raises(InputError, match="would have 3 keys"):
            attempt()
        assert fingerprint(speaking) == inside and routed_on(speaking) == [both]
    both.revert(speaking)
    assert fingerprint(speaking) == before and hooks_left(speaking) == []


def applies(edit, model):
    with edit.applied(model):
        model(torch.tensor([[1, 2, 3]]))


def test_neurons_add_their_formula_and_nothing_where_they_are_silent(speaking):
    edit = tlk.plan_edit(speaking, FACTS[:2], NEURONS)
    assert isinstance(edit, NeuronEdit) and edit.nonlinearity == "relu"
    tokens, plain = tokens_of(speaking, *FACTS[:2], OTHER), []
    place, layer = edit.place, len(speaking.blocks) - 1
    assert place.layer == layer

    def add(outputs, *, hook):
        reads, changed = plain.pop(), outputs.clone()
        flat, queries = changed.view(-1, changed.shape[-1]), reads.reshape(-1, reads.shape[-1])
        for position in range(len(flat)):
            for key, bias, value in zip(edit.keys, edit.biases, edit.values, strict=True):
                activation = max(float(key @ queries[position]) + float(bias), 0.0)
                flat[position] = flat[position] + activation * value
        return changed

    expected = speaking.run_with_hooks(tokens, fwd_hooks=[(place.query, lambda x, *, hook: plain.append(x.detach())), (place.output, add)])
    with edit.applied(speaking):
        torch.testing.assert_close(speaking(tokens), expected, rtol=1e-9, atol=1e-11)
    silent, before = replace(edit, biases=edit.biases - 1e6), speaking(tokens)
    with silent.applied(speaking):
        assert torch.equal(speaking(tokens), before)
    frame = edit.to_dataframe()
    at_edit = [max(float(k @ q) + float(b), 0.0) for k, q, b in zip(edit.keys, edit.queries, edit.biases, strict=True)]
    assert frame["activation"].tolist() == pytest.approx(at_edit)
    assert frame["key_norm"].tolist() == pytest.approx(edit.keys.norm(dim=-1).tolist())


def test_a_wrong_token_gets_a_neuron_and_a_right_one_none(speaking):
    prompt = tlk.Prompt.from_fact(speaking, FACTS[1])
    said = int(speaking(prompt.tokens)[0, -1].argmax())
    nothing = tlk.plan_edit(speaking, FACTS[1].retarget(f" w{said}"), NEURONS)
    assert len(nothing.keys) == 0 and nothing.notes[0]["stopped"] == "nothing was wrong"
    before = speaking(prompt.tokens)
    with nothing.applied(speaking):
        assert torch.equal(speaking(prompt.tokens), before)
    with pytest.raises(InputError, match=r"tokens of .* are wrong, and most_neurons=1"):
        tlk.plan_edit(speaking, FACTS[1].retarget(" w50 w51 w52"), replace(NEURONS, most_neurons=1))


def test_the_neurons_losses_are_the_papers(speaking):
    """The first loss, by hand from whole forwards: keys q / ||q||^2, activation 1, values gain times a draw."""
    edit = tlk.plan_edit(speaking, FACTS[1], replace(NEURONS, memory_weight=3.0))
    prompt = tlk.Prompt.from_fact(speaking, FACTS[1])
    place, last = edit.place, len(prompt) - 1
    query = record(speaking, prompt.tokens, [], [place.query])[place.query].reshape(-1, edit.keys.shape[1])[last]
    texts = [torch.tensor([[int(word[1:]) for word in text.split()]]) for text in NEURONS.corpus]
    stored = torch.cat([record(speaking, row, [], [place.query])[place.query].reshape(-1, len(query)) for row in texts])
    value = torch.randn(1, len(query), generator=torch.Generator().manual_seed(0), dtype=torch.float64)[0]

    def put(outputs, *, hook):
        changed = outputs.clone()
        flat = changed.view(-1, changed.shape[-1])
        flat[last] = flat[last] + value
        return changed

    log_p = speaking.run_with_hooks(prompt.tokens, fwd_hooks=[(place.output, put)])[0, last].log_softmax(-1)
    memory = stored @ (query / query.norm() ** 2)
    smoothed = -0.9 * log_p[prompt.target_token] - 0.1 * log_p.mean()
    expected = smoothed + torch.tensor(-1.0).exp() + 3.0 * ((memory - 1 + 3).exp().mean() + (memory + 3).exp().mean())
    assert edit.notes[0]["losses"][0] == pytest.approx(float(expected.detach()), rel=1e-6)


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
