"""What a type checker sees of the public face; checked by basedpyright, never run."""

from __future__ import annotations

import plotly.graph_objects as go
import torch
from typing_extensions import assert_type

import tl_knowledge as tlk
from tl_knowledge.arrays import Hooks


def never_called() -> None:
    model = tlk.load_model("factlm")
    assert_type(model, tlk.HookedModel)
    prompt = tlk.Prompt.from_fact(model, tlk.Fact("France", "The capital of {} is", " Paris"))
    assert_type(prompt, tlk.Prompt)
    assert_type(prompt.subject, tlk.Span)
    assert_type(prompt.subject.last, int)
    result = tlk.trace(model, prompt, corrupt="subject", component="mlp_out", sever=("mlp_out", "attn_out"))
    assert_type(result, tlk.CausalTrace)
    assert_type(result.total_effect, torch.Tensor)
    assert_type(result.plot(), go.Figure)
    assert_type(tlk.compare(result, result), tlk.tracing.TraceComparison)
    hooks = tlk.corrupt(prompt.subject, tlk.GaussianNoise(sd=0.4, seed=0)) + tlk.sever({}, "mlp_out", layers=range(8))
    assert_type(hooks, Hooks)
    average = tlk.trace_facts(model, tlk.load_facts("factlm"), corrupt="subject", components=("mlp_out",), sever="mlp_out")
    assert_type(average, tlk.TraceAverage)
    assert_type(average.plot(), go.Figure)
    assert_type(average.traces, tuple[tlk.tracing.FactTrace, ...])
    assert_type(tlk.knock_out_attention(prompt.last, prompt.subject, layers=3), Hooks)
    assert_type(tlk.datasets.load_counterfact(limit=3), list[tlk.EditCase])
    assert_type(tlk.load_facts("factlm"), list[tlk.Fact])
    assert_type(tlk.load_edit_cases("factlm"), list[tlk.EditCase])
    circuit = tlk.circuits.from_trace(model, prompt, [result])
    assert_type(circuit, tlk.circuits.Circuit)
    assert_type(circuit.plot(), go.Figure)
    assert_type(circuit.faithfulness, float)
    assert_type(tlk.circuits.compare(circuit, circuit), tlk.circuits.CircuitComparison)
    assert_type(tlk.analyse_attention(model, prompt), tlk.attention.AttentionAnalysis)
    assert_type(tlk.drawing.dark(circuit.plot()), go.Figure)
    assert_type(tlk.report_fact(model, tlk.load_facts()[0]), tlk.report.FactReport)
