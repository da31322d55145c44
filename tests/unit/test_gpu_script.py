"""``benchmarks/gpu.py`` without a GPU: every engine in bfloat16 beside float32 on the CPU, and what the script says and returns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.benchmarks import imported

import tl_knowledge as tlk

device_checks, gpu = imported("device_checks"), imported("gpu")

pytestmark = pytest.mark.touches_model
QUICK = ["--device", "cpu", "--quick", "--only"]


@pytest.fixture(scope="module")
def works(factlm):
    return {torch.float32: device_checks.Work(factlm, 1), torch.bfloat16: device_checks.Work(gpu.load("factlm", "cpu", torch.bfloat16), 1)}


@pytest.mark.parametrize("name", list(device_checks.ENGINES))
def test_every_engine_in_bfloat16(works, name):
    """Finite, near the float32 numbers, and not the same: it was computed in bfloat16."""
    engine = device_checks.ENGINES[name]
    single, half = (engine.run(work) for work in works.values())
    assert single and all(np.isfinite(numbers).any() for numbers in single.values())
    assert 0 < device_checks.difference(single, half) <= engine.tolerance[torch.bfloat16]


def test_the_script_on_the_cpu(capsys):
    assert gpu.main([*QUICK, "logit lens", "attribution"]) == 0
    printed = capsys.readouterr().out
    assert "CPU, bfloat16" in printed and printed.endswith("all passed\n")
    assert [line.split("  ")[0] for line in printed.splitlines() if line.startswith(("logit", "attr"))][:2] == ["logit lens", "attribution"]
    assert ("two devices" in printed) == (type(tlk.load_model("factlm")).__name__ == "HookedTransformer")


def test_the_script_says_what_does_not_pass(capsys, monkeypatch):
    def fails(work):
        if next(work.model.parameters()).dtype == torch.bfloat16:
            raise ValueError("no such kernel")
        return {"x": np.ones(1)}

    def drifts(work):
        return {"x": np.array([1.0, 1.0 + 0.2 * (next(work.model.parameters()).dtype == torch.bfloat16)])}

    monkeypatch.setitem(device_checks.ENGINES, "logit lens", device_checks.Engine(fails))
    monkeypatch.setitem(device_checks.ENGINES, "attribution", device_checks.Engine(drifts))
    assert gpu.main([*QUICK, "logit lens", "attribution"]) == 1
    printed = capsys.readouterr().out
    assert "ValueError: no such kernel" in printed and "TOO FAR" in printed and "2 did not pass" in printed


def test_no_cuda_is_said(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    assert "no CUDA device was found" in capsys.readouterr().err


def test_what_cannot_be_compared_is_far_apart():
    one = {"x": np.array([1.0, np.nan, -4.0])}
    assert device_checks.difference(one, {"x": np.array([1.0, np.nan, -3.0])}) == 0.25
    for other in ({}, {"x": np.ones(2)}, {"y": one["x"]}, {"x": np.array([1.0, 1.0, -4.0])}, {"x": np.array([np.nan, np.nan, -4.0])}):
        assert device_checks.difference(one, other) == float("inf")
