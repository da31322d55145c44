"""Training editors: what is refused, what is kept, a run that was killed and goes on to the same weights; and a published checkpoint's reader."""

from __future__ import annotations

import os
import pickle
import sys
import zipfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import build, fingerprint, hooks_left, tokenizer_of_sixty_words
from support.edits import TEXTS, training_cases
from support.killed import kill_once, run_here
from transformers import GPT2Config

import tl_knowledge as tlk
from tl_knowledge.editing import KE, MEND, SERAC, TrainingSettings, load_training_data
from tl_knowledge.editing.training import gradient_editor, trainer
from tl_knowledge.errors import DataError, InputError, ModelStateError, NumericalError
from tl_knowledge.runs.training_state import TrainingState

pytestmark = pytest.mark.touches_model

CASES, HELD = training_cases(), training_cases(40, 2)
SETTINGS = TrainingSettings(steps=12, learning_rate=1e-3, accumulate=2, validate_every=4, validation_samples=2)
METHODS = {
    "mend": replace(MEND.small(), training=SETTINGS),
    "ke": replace(KE.small(), training=SETTINGS),
    "serac": SERAC(training=replace(SETTINGS, batch_size=3), separator=" w41"),
}


@pytest.fixture
def small(gpt2, monkeypatch):
    monkeypatch.setattr(gpt2, "tokenizer", tokenizer_of_sixty_words())
    return gpt2


def train(model, method, **more):
    return method.train(model, CASES, TEXTS, **{"validation": HELD, "progress": False} | more)


def same_weights(one, other):
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", METHODS)
def test_a_training_that_was_stopped_goes_on_to_the_same_weights(small, tmp_path, monkeypatch, name):
    method, before = METHODS[name], fingerprint(small)
    whole, again = train(small, method), train(small, method)
    assert whole == again and whole.editor and same_weights(whole.trained.networks, again.trained.networks)
    steps, step = [], trainer.Trainer._step

    def stopped(self, state):
        steps.append(state.step)
        if len(steps) == 7:
            raise KeyboardInterrupt
        step(self, state)

    monkeypatch.setattr(trainer.Trainer, "_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(small, method, store=tmp_path / "run")
    assert fingerprint(small) == before and hooks_left(small) == [] and torch.is_grad_enabled()
    went_on = train(small, method, store=tmp_path / "run")
    assert steps == [*range(7), *range(4, 12)]  # from the validation at step 4
    assert went_on == whole and same_weights(went_on.trained.networks, whole.trained.networks)
    assert went_on.trained.curve.table.equals(whole.trained.curve.table)
    assert train(small, method, store=tmp_path / "run") == whole and len(steps) == 15  # nothing left to do
    with pytest.raises(DataError, match=r"a run with other settings|a run with other training"):
        train(small, replace(method, training=replace(SETTINGS, seed=1)), store=tmp_path / "run")
    with pytest.raises(DataError, match="a run with other cases"):
        method.train(small, CASES[:2], TEXTS, validation=HELD, store=tmp_path / "run", progress=False)


RUN = """
import sys
import tl_knowledge as tlk
from tl_knowledge.editing import MEND, TrainingSettings, load_training_data
model, data = tlk.load_model("factlm"), load_training_data("factlm")
settings = TrainingSettings(steps=60, learning_rate=1e-4, accumulate=2, validate_every=6, validation_samples=2, text_tokens=8)
mend = MEND(layers=(6, 7), rank=16, training=settings)
mend.train(model, data.cases, data.corpus[:9], validation=data.validation, store=sys.argv[1], progress=False).save(sys.argv[2])
"""


@pytest.mark.slow
def test_a_training_goes_on_after_kill_9(tmp_path):
    kill_once(RUN, tmp_path / "run", tmp_path / "first", ready=(tmp_path / "run" / "state.safetensors").is_file)
    assert not (tmp_path / "first.safetensors").exists()
    run_here(RUN, tmp_path / "run", tmp_path / "again")
    run_here(RUN, tmp_path / "other", tmp_path / "whole")
    one, other = (MEND.load(tmp_path / name) for name in ("again", "whole"))
    assert one == other and same_weights(one.trained.networks, other.trained.networks)


def test_the_best_networks_are_kept_and_no_progress_ends_the_training(small, monkeypatch):
    losses = iter([3.0, 1.0, 2.0, 2.0, 2.0])
    row, seen = trainer.Trainer._row, {}

    def scripted(self, step, split, found):
        own = row(self, step, split, found)
        if split == "validation":
            seen[step] = {name: each.detach().clone() for name, each in self.network.state_dict().items()}
            own["loss"] = next(losses)
        return own

    monkeypatch.setattr(trainer.Trainer, "_row", scripted)
    mend = replace(METHODS["mend"], training=replace(SETTINGS, steps=100, patience=10))
    trained = train(small, mend).trained
    assert list(seen) == [4, 8, 12, 16, 20]  # 20 is 12 steps after the best, 16 only 8
    assert same_weights(trained.networks, seen[8]) and not same_weights(trained.networks, seen[20])
    assert trained.curve.best["step"] == 8 and "best at 8" in trained.curve.headline()


def test_what_is_not_finite_stops_and_says_where_the_last_state_is(small, tmp_path, monkeypatch):
    outcome_of, calls, before = gradient_editor.outcome_of, [], fingerprint(small)

    def broken(*args, learn):
        outcome = outcome_of(*args, learn=learn)
        calls.append(learn)
        return replace(outcome, kl=outcome.kl * float("nan")) if learn and sum(calls) == 7 else outcome

    monkeypatch.setattr(gradient_editor, "outcome_of", broken)
    with pytest.raises(
        NumericalError, match=r"the loss of MEND is nan after step 6; the state of step 4 is kept in .*run.*learning_rate below 0\.001"
    ):
        train(small, METHODS["mend"], store=tmp_path / "run")
    assert fingerprint(small) == before and hooks_left(small) == []
    network = METHODS["mend"].network(small)
    state = TrainingState(network, torch.optim.Adam(network.parameter_groups()))
    state.read(tmp_path / "run")
    assert state.step == 4 and all(bool(each.isfinite().all()) for each in network.state_dict().values())


def test_a_trained_editor_is_a_file_for_one_model(small, tmp_path):
    mend = train(small, METHODS["mend"])
    path, fact = mend.save(tmp_path / "mend"), CASES[0].rewrite
    loaded = MEND.load(path)
    assert loaded == mend and hash(loaded) == hash(mend) and loaded != METHODS["mend"] and loaded.trained.digest == mend.editor
    one, other = (tlk.plan_edit(small, fact, method) for method in (mend, loaded))
    assert all(torch.equal(change.dense, other.changes[name].dense) for name, change in one.changes.items())
    with pytest.raises(DataError, match="holds a trained MEND, not a KE"):
        KE.load(path)
    with pytest.raises(InputError, match="trained with other layers than these settings have"):
        replace(loaded, layers=(1, 3))
    with pytest.raises(InputError, match="names networks that are not here"):
        MEND(layers=(0, 2), editor=mend.editor)
    llama = build("bridge-llama")
    before, llama.tokenizer = llama.tokenizer, small.tokenizer
    try:
        with pytest.raises(ModelStateError, match="was trained for other weights"):
            tlk.plan_edit(llama, fact, mend)
    finally:
        llama.tokenizer = before
    edit = tlk.plan_edit(small, fact, mend)
    with edit.applied(small):
        assert tlk.plan_edit(small, CASES[1].rewrite, mend).fingerprint == edit.fingerprint  # its own weights are still those
        with pytest.raises(ModelStateError, match="edits are written into this model"):
            train(small, METHODS["mend"])


def test_facts_of_the_training_are_not_evaluated(small):
    mend, fresh = train(small, METHODS["mend"]), training_cases(10, 2)
    for cases in ([*fresh, CASES[0]], [*fresh, HELD[1]]):
        with pytest.raises(InputError, match=r"1 of 3 cases are of facts .* trained or validated on, such as 'w\d+ w\d+'; leave them out"):
            tlk.evaluate(small, cases, mend, progress=False)
        with pytest.raises(InputError, match="trained or validated on"):
            tlk.evaluation.measure_growth(small, cases, {"MEND": mend}, [3], progress=False)
    assert mend.trained.unseen([*fresh, *CASES, *HELD]) == fresh
    assert len(tlk.evaluate(small, fresh, mend, progress=False).table) == 2


def test_models_that_want_gradients_get_none(small):
    wanted = [parameter.requires_grad for parameter in small.parameters()]
    try:
        for parameter in small.parameters():
            parameter.requires_grad_(True)
        train(small, METHODS["mend"])
        assert all(parameter.grad is None for parameter in small.parameters())
    finally:
        for parameter, own in zip(small.parameters(), wanted, strict=True):
            parameter.requires_grad_(own)


def test_the_recipes_have_no_fact_in_two_parts(tmp_path):
    data = load_training_data("factlm")
    parts = [{(case.fact.subject, case.fact.relation) for case in cases} for cases in (data.cases, data.validation, tlk.load_edit_cases()[:200])]
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    assert all(case.target_new != case.fact.target for case in data.cases)


@pytest.fixture(scope="module")
def converter():
    sys.path.insert(0, str(Path(__file__).parents[2] / "training"))
    try:
        import convert_mend

        yield convert_mend
    finally:
        sys.path.pop(0)


def checkpoint(model, method):
    """What the published program saves of such networks: its names, with a configuration beside them."""
    state = OrderedDict()
    for name, ours in method.network(model).state_dict().items():
        if name == "rates":
            state["edit_lrs"] = torch.nn.Parameter(-ours)
            continue
        _, shape, what, *number = name.split(".")
        d_in, d_out = shape.split("x")
        prefix, drawn = f"mend.({d_in}, {d_out})", torch.randn(ours.shape)
        theirs = {"U": "u", "V": "v", "b": "bias", "s": "mode_scale.weight", "o": "mode_shift.weight"}
        if what in theirs:
            state[f"{prefix}.mlp.layers.{number[0]}.{theirs[what]}"] = drawn
        elif what == "count":
            state[f"{prefix}.k"] = torch.tensor([50.0])
        else:
            for letter, part in zip("uv", (drawn if what == "mean" else drawn.abs()).split([int(d_in), int(d_out)]), strict=True):
                state[f"{prefix}.{letter}_{'mean' if what == 'mean' else 's'}"] = part
                if what == "squares":
                    state[f"{prefix}.{letter}_std"] = (part / 49) ** 0.5
    state["model_config"] = GPT2Config(n_layer=2)
    return {"model": state, "config": {"lr": 1e-6, "model": GPT2Config()}, "step": 7}


def test_a_published_checkpoint_becomes_a_file(small, tmp_path, converter):
    method = MEND(layers=(0, 2), rank=8)
    saved = checkpoint(small, method)
    torch.save(saved, tmp_path / "mend.pt")
    mend = converter.convert(tmp_path / "mend.pt", small, (0, 2))
    assert mend.trained.networks["rates"].tolist() == pytest.approx([1e-4] * 4)
    torch.testing.assert_close(mend.trained.networks["shapes.16x24.U.1"], saved["model"]["mend.(16, 24).mlp.layers.1.u"])
    loaded = MEND.load(mend.save(tmp_path / "mend"))
    assert loaded.rank == 8 and float(tlk.plan_edit(small, CASES[0].rewrite, loaded).to_dataframe()["norm"].min()) > 0
    assert "trained elsewhere" in repr(loaded.trained) and loaded.trained.plot().layout.meta["title"]
    with pytest.raises(DataError, match="is of other matrices than W_in and W_out of layers"):
        converter.convert(tmp_path / "mend.pt", small, (0, 1, 2))
    saved["model"]["mend.(16, 24).u_std"] += 1
    torch.save(saved, tmp_path / "odd.pt")
    with pytest.raises(DataError, match="are not those of its sums"):
        converter.convert(tmp_path / "odd.pt", small, (0, 2))


class Hostile:
    def __init__(self, callable_, *args):
        self.call = (callable_, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("call", [(os.mkdir,), (exec, "open({!r}, 'w')"), (eval, "open({!r}, 'w')"), (getattr, "", "upper")])
def test_a_hostile_checkpoint_is_refused_and_nothing_of_it_runs(small, tmp_path, converter, call):
    victim, path = tmp_path / "victim", tmp_path / "mend.pt"
    arguments = [each.format(str(victim)) for each in call[1:]] or [str(victim)]
    saved = checkpoint(small, MEND(layers=(0, 2), rank=8))
    saved["model"]["model_config"] = Hostile(call[0], *arguments)
    torch.save(saved, path)
    with pytest.raises(DataError, match="which is neither tensor nor configuration: it is refused"):
        converter.read_checkpoint(path)
    assert not victim.exists()


def test_what_is_no_checkpoint_is_refused(tmp_path, converter):
    (tmp_path / "text.pt").write_text("no archive")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps({"model": {}}))
    with zipfile.ZipFile(tmp_path / "empty.pt", "w") as archive:
        archive.writestr("a/b", "c")
    for name in ("text.pt", "bare.pt", "empty.pt", "missing.pt"):
        with pytest.raises(DataError, match="checkpoint of torch"):
            converter.read_checkpoint(tmp_path / name)
    torch.save({"model": {"edit_lrs": torch.ones(1)}}, tmp_path / "other.pt")
    with pytest.raises(DataError, match="holds no MEND whose networks are shared by shape"):
        converter.networks_of(converter.read_checkpoint(tmp_path / "other.pt")["model"])
