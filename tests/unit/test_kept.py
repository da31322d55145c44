"""Values that a stored run keeps: a batch that was killed half-way goes on with them, by ``kill -9`` too, and ends the same."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import pytest
import torch
from support import fingerprint
from support.killed import kill_once, run_here
from support.places import FACTLM_LAYER

import tl_knowledge as tlk
from tl_knowledge.editing.optimise import values
from tl_knowledge.errors import DataError
from tl_knowledge.models.description import weight_fingerprint
from tl_knowledge.results.kept import forget_kept, kept, kept_in

METHOD = tlk.MEMIT(layers=(FACTLM_LAYER,), moment_weight=50.0, contexts=((4, 2),), value=tlk.editing.ValueSettings(steps=5, clamp=0.75))


@dataclass(frozen=True, eq=False)
class Value:
    state: torch.Tensor
    names: tuple[str, ...]


def test_values_are_read_instead_of_made_again(tmp_path):
    made: list[int] = []

    def make():
        made.append(1)
        return Value(torch.randn(3, dtype=torch.float64), ("a", "b"))

    def two(fingerprint="x"):
        with kept_in(tmp_path, "s"):
            return [kept(Value, make, fingerprint) for _ in range(2)]

    first, again = two(), two()
    assert len(made) == 2 and [torch.equal(a.state, b.state) and a.names == b.names for a, b in zip(first, again, strict=True)] == [True, True]
    assert not torch.equal(first[0].state, first[1].state)
    with pytest.raises(DataError, match="is of another run than its folder"):
        two("y")
    with kept_in(tmp_path, "other"):
        kept(Value, make, "x")
    assert len(made) == 3
    kept(Value, make, "x")  # outside: nothing is read or written
    assert len(made) == 4 and len(list(tmp_path.iterdir())) == 3
    forget_kept(tmp_path, "s")
    assert [path.name for path in tmp_path.iterdir()] == ["kept-other-00000.safetensors"]


@pytest.mark.parametrize(("protocol", "batch_size"), [("batch", 1), ("sequential", 3)])
def test_a_killed_plan_goes_on_with_its_values(factlm, factlm_moments, tmp_path, monkeypatch, protocol, batch_size):
    monkeypatch.setattr(values.optimise_values, "__kwdefaults__", {"rows_at_once": 8})  # two facts at once
    cases, more = tlk.load_edit_cases()[:6], {"moments": factlm_moments, "protocol": protocol, "batch_size": batch_size, "progress": False}
    whole = tlk.evaluate(factlm, cases, METHOD, **more)
    before, optimised, run = fingerprint(factlm), [], values.Descent.run

    def killed(self):
        optimised.append(len(self.number))
        if len(optimised) == 3:
            raise KeyboardInterrupt
        return run(self)

    monkeypatch.setattr(values.Descent, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        tlk.evaluate(factlm, cases, METHOD, store=tmp_path / "run", **more)
    assert fingerprint(factlm) == before and len(list((tmp_path / "run").glob("kept-*"))) == 2
    again = tlk.evaluate(factlm, cases, METHOD, store=tmp_path / "run", **more)
    pd.testing.assert_frame_equal(again.table, whole.table)
    alone = {"batch": 3, "sequential": 4}[protocol]  # batches of values in an undisturbed run
    assert len(optimised) == 3 + alone - 2 and not list((tmp_path / "run").glob("kept-*"))


def test_a_killed_growth_goes_on_with_its_values(factlm, factlm_moments, tmp_path, monkeypatch):
    cases, methods, more = tlk.load_edit_cases()[:5], {"MEMIT": METHOD}, {"moments": factlm_moments, "batch_size": 2, "progress": False}
    whole = tlk.evaluation.measure_growth(factlm, cases, methods, [3, 5], **more)
    before, optimised, run = fingerprint(factlm), [], values.Descent.run

    def killed(self):
        optimised.append(len(self.number))
        if len(optimised) == 4:
            raise KeyboardInterrupt
        return run(self)

    monkeypatch.setattr(values.Descent, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        tlk.evaluation.measure_growth(factlm, cases, methods, [3, 5], store=tmp_path / "run", **more)
    assert fingerprint(factlm) == before
    again = tlk.evaluation.measure_growth(factlm, cases, methods, [3, 5], store=tmp_path / "run", **more)
    pd.testing.assert_frame_equal(again.table, whole.table)
    assert {whole.provenance.weights, again.provenance.weights} == {weight_fingerprint(factlm)}  # the unedited model's
    assert optimised == [2, 1, 2, 1, 1]  # two, one more for size 3, which is taken back; two, one more for size 5 (killed, then done)
    assert sorted(path.name for path in (tmp_path / "run").glob("[!.]*")) == ["part-00000.parquet", "part-00001.parquet", "run.json"]


RUN = """
import sys
import tl_knowledge as tlk
from tl_knowledge.editing.optimise import values
values.optimise_values.__kwdefaults__ = {"rows_at_once": 4}
model = tlk.load_model("factlm")
layers = tlk.MEMIT.for_model(model).layers
moments = tlk.collect_key_moments(model, tlk.load_corpus(), layers=layers, progress=False)
method = tlk.MEMIT(layers=layers, moment_weight=50.0, contexts=((4, 2),), value=tlk.editing.ValueSettings(steps=25, clamp=0.75, stop_below=0.0))
report = tlk.evaluate(model, tlk.load_edit_cases()[:16], method, moments=moments, protocol="batch", store=sys.argv[1], progress=False)
report.save(sys.argv[2])
"""


@pytest.mark.slow
def test_a_batch_goes_on_after_kill_9(tmp_path, monkeypatch):
    monkeypatch.setattr(values.optimise_values, "__kwdefaults__", values.optimise_values.__kwdefaults__)  # which the program changes
    run = tmp_path / "run"
    kill_once(RUN, run, tmp_path / "first", ready=lambda: len(list(run.glob("kept-*.safetensors"))) >= 5)
    there = {path.name: path.stat().st_mtime_ns for path in run.glob("kept-*.safetensors")}
    assert 5 <= len(there) < 16
    run_here(RUN, run, tmp_path / "again")
    run_here(RUN, tmp_path / "other", tmp_path / "whole")
    reports = [tlk.EditReport.load(tmp_path / name) for name in ("again", "whole")]
    pd.testing.assert_frame_equal(reports[0].table, reports[1].table)
