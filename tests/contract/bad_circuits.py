"""The table of bad input, continued: circuits, attention and reports."""

from __future__ import annotations

import torch

import tl_knowledge as tlk
from tl_knowledge import errors
from tl_knowledge.circuits.edges import refuse_overlaps
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.runs.nodes import Node

FACT = tlk.Fact("France", "The capital of {} is", " Paris")
FACTORS = {1: tlk.editing.LowRank(torch.zeros(24, 1, dtype=torch.float64), torch.zeros(1, 16, dtype=torch.float64))}
EDIT = tlk.Edit(FACTORS, {1: "blocks.1.mlp.out.hook_out"}, "M", {}, "f", (), Provenance("m", "b", {}, False, "float64", "cpu", 0, "e", {}))


def traced(model, prompt, **settings):
    return tlk.trace(model, prompt, 0.5, samples=2, **{"component": "mlp_out", **settings})


def circuit(model, prompt, **settings):
    return tlk.circuits.from_trace(model, prompt, traced(model, prompt), noise=0.5, limit=3, **settings)


def while_written(model, prompt, call):
    with EDIT.applied(model):
        call(model, EDIT, prompt)


BAD_CIRCUITS = {
    "circuits: from_trace: no trace": (lambda m, p: tlk.circuits.from_trace(m, p, []), errors.ComponentError, "no trace was given"),
    "circuits: from_trace: top": (lambda m, p: circuit(m, p, rank="x"), errors.ComponentError, "rank 'x' is unknown"),
    "circuits: from_trace: metric": (lambda m, p: circuit(m, p, metric="logit"), errors.ComponentError, "metric 'logit' is unknown"),
    "circuits: from_trace: threshold": (lambda m, p: circuit(m, p, threshold=1.5), errors.ComponentError, "threshold 1.5 is no share"),
    "circuits: from_trace: none": (
        lambda m, p: tlk.circuits.from_trace(m, p, traced(m, p), limit=0),
        errors.ComponentError,
        "top=0 keeps no node",
    ),
    "circuits: from_trace: other noise": (
        lambda m, p: tlk.circuits.from_trace(m, p, traced(m, p)),
        errors.CorruptionError,
        "was made with GaussianNoise.*; pass the same noise= here",
    ),
    "circuits: from_trace: two sides": (
        lambda m, p: tlk.circuits.from_trace(m, p, [traced(m, p), traced(m, p, corrupt="relation")], noise=0.5),
        errors.ComponentError,
        "corrupt different tokens",
    ),
    "circuits: from_trace: other prompt": (
        lambda m, p: tlk.circuits.from_trace(m, tlk.Prompt.from_tokens([1, 2, 3], subject=[1]), traced(m, p), noise=0.5),
        errors.PromptError,
        "pass the traced prompt",
    ),
    "circuits: from_trace: overlap": (
        lambda m, p: tlk.circuits.from_trace(m, p, [traced(m, p), traced(m, p, component="resid_post")], noise=0.5, limit=60),
        errors.ComponentError,
        "states hold what mlp_out write",
    ),
    "circuits: from_trace: nothing to explain": (
        lambda m, p: tlk.circuits.from_trace(m, p, tlk.trace(m, p, 0.0, samples=1, component="mlp_out"), noise=0.0),
        errors.CorruptionError,
        "in both runs, so there is nothing to explain",
    ),
    "circuits: from_trace: no model": (lambda m, p: tlk.circuits.from_trace(None, p, []), errors.UnsupportedModelError, "NoneType"),
    "circuits: from_neurons: none": (
        lambda m, p: tlk.circuits.from_neurons(m, p, tlk.NeuronSet.of(m, [])),
        errors.ComponentError,
        "0 neurons .* has no circuit here",
    ),
    "circuits: from_neurons: position": (
        lambda m, p: tlk.circuits.from_neurons(m, p, tlk.NeuronSet.of(m, [(0, 1)]), positions=[9]),
        errors.ComponentError,
        "pass positions from 0 to 6",
    ),
    "circuits: from_neurons: carriers": (
        lambda m, p: tlk.circuits.from_neurons(m, p, tlk.NeuronSet.of(m, [(0, 1)]), limit=-1),
        errors.ComponentError,
        "carriers=-1 is negative",
    ),
    "circuits: from_neurons: samples": (
        lambda m, p: tlk.circuits.from_neurons(m, p, tlk.NeuronSet.of(m, [(0, 1)]), samples=0),
        errors.CorruptionError,
        "samples=0 draws no noise",
    ),
    "circuits: from_edit: no target": (
        lambda m, p: tlk.circuits.from_edit(m, EDIT, tlk.Prompt.from_tokens([1, 2, 3])),
        errors.PromptError,
        "has no target",
    ),
    "circuits: from_edit: written": (
        lambda m, p: while_written(m, p, tlk.circuits.from_edit),
        errors.ModelStateError,
        r"edit.revert\(model\) first",
    ),
    "circuits: from_edit: components": (lambda m, p: tlk.circuits.from_edit(m, EDIT, p, components="head"), errors.ComponentError, "pass 'mlp_out'"),
    "circuits: from_edit: no change": (lambda m, p: tlk.circuits.from_edit(m, EDIT, p), errors.CorruptionError, "nothing to explain"),
    "circuits: compare: other tokens": (
        lambda m, p: tlk.circuits.compare(circuit(m, p), circuit(m, tlk.Prompt.from_tokens([1, 2, 3], subject=[1], target=5))),
        errors.ComponentError,
        "pass two of the same tokens",
    ),
    "circuits: compare: one name": (
        lambda m, p: tlk.circuits.compare(circuit(m, p), circuit(m, p)),
        errors.ComponentError,
        "both circuits are called 'subject corrupted'; pass names=",
    ),
    "Circuit.top": (lambda m, p: circuit(m, p).top(0), errors.ComponentError, "pass at least 1"),
    "Circuit.load": (lambda m, p: tlk.circuits.Circuit.load("nowhere"), errors.DataError, "cannot read"),
    "Circuit.attention_view: no attention": (lambda m, p: circuit(m, p).attention_view(), errors.ComponentError, "there is no head to show"),
    "Circuit.to_nodes: states": (
        lambda m, p: tlk.circuits.from_trace(m, p, traced(m, p, component="resid_post"), noise=0.5).to_nodes(),
        errors.ComponentError,
        "not states",
    ),
    "circuits: Node: component": (lambda m, p: Node("mlp", 0, 0), errors.ComponentError, "component 'mlp' is unknown"),
    "circuits: Node: units": (lambda m, p: Node("head", 0, 0), errors.ComponentError, "heads and neurons have units"),
    "circuits: head in attention": (
        lambda m, p: refuse_overlaps([Node("head", 1, 2, (0,)), Node("attn_out", 1, 2)]),
        errors.ComponentError,
        "head 1.0 at position 2 is part of another node",
    ),
    "analyse_attention: no relation": (
        lambda m, p: tlk.analyse_attention(m, tlk.Prompt.from_tokens([1, 2], target=5)),
        errors.PromptError,
        "has no span 'subject'",
    ),
    "analyse_attention: noise": (lambda m, p: tlk.analyse_attention(m, p, -1.0), errors.CorruptionError, "scale -1.0"),
    "analyse_attention: target": (lambda m, p: tlk.analyse_attention(m, p, target=99), errors.TargetError, "target token 99"),
    "attribute_directly: target": (lambda m, p: tlk.direct_logit_attribution(m, p, target=99), errors.TargetError, "target token 99"),
    "attribute_directly: against": (lambda m, p: tlk.direct_logit_attribution(m, p, against=99), errors.TargetError, "token 99 is outside"),
    "logit_lens: long": (
        lambda m, p: tlk.logit_lens(m, tlk.Prompt.from_tokens([1] * 33, target=5)),
        errors.PromptError,
        "33 tokens; the model's context is 32",
    ),
    "effect_view: heads": (lambda m, p: tlk.tracing.effect_view(traced(m, p, component="head")), errors.ComponentError, "one value a unit"),
    "effect_view: layer": (lambda m, p: tlk.tracing.effect_view(traced(m, p), layer=9), errors.ComponentError, "layer 9 was not traced"),
    "edit_view: written": (lambda m, p: while_written(m, p, tlk.editing.edit_view), errors.ModelStateError, "so there is no unedited run"),
    "ViewPage: empty": (lambda m, p: tlk.drawing.ViewPage("none", []), errors.InputError, "no view was given"),
    "report: no model": (lambda m, p: tlk.report_fact(None, FACT), errors.UnsupportedModelError, "NoneType"),
    "report: no moments": (
        lambda m, p: tlk.report_fact(tlk.load_model("factlm"), FACT, edit_to=" Rome"),
        errors.InputError,
        "needs the second moments",
    ),
    "report: samples": (lambda m, p: tlk.report_fact(tlk.load_model("factlm"), FACT, samples=0), errors.CorruptionError, "samples=0"),
}
