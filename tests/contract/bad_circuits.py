"""The table of bad input, continued: circuits, attention and reports."""

from __future__ import annotations

import torch
from support import build, fingerprint

import tl_knowledge as tlk
from tl_knowledge import errors
from tl_knowledge.circuits.edges import refuse_overlaps
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.runs.nodes import Node

FACT = tlk.Fact("France", "The capital of {} is", " Paris")
FACTORS = {1: tlk.editing.LowRank(torch.zeros(24, 1, dtype=torch.float64), torch.zeros(1, 16, dtype=torch.float64))}
EDIT = tlk.Edit(
    FACTORS,
    {1: "blocks.1.mlp.out.hook_out"},
    "M",
    {},
    fingerprint(build("bridge-gpt2")),
    (),
    Provenance("m", "b", {}, False, "float64", "cpu", 0, "e", {}),
)


def traced(model, prompt, noise=0.5, **settings):
    return tlk.trace(model, prompt, noise, **{"component": "mlp_out", "samples": 2, **settings})


def circuit(model, prompt, **settings):
    return tlk.circuits.from_trace(model, prompt, traced(model, prompt), limit=3, **settings)


def while_written(model, prompt, call):
    with EDIT.applied(model):
        call(model, prompt, EDIT)


BAD_CIRCUITS = {
    "circuits.from_trace: no trace": (lambda m, p: tlk.circuits.from_trace(m, p, []), errors.DataError, "no trace was given; pass at least one"),
    "circuits.from_trace: rank": (lambda m, p: circuit(m, p, rank="needs"), errors.ComponentError, "rank 'needs' is unknown, did you mean 'need'"),
    "circuits.from_trace: no node": (
        lambda m, p: tlk.circuits.from_trace(m, p, tlk.trace(m, p, 0.5, component="q", samples=1, layers=[1])),
        errors.ComponentError,
        "a trace's component 'q' is unknown; pass one of 'resid_post'",
    ),
    "circuits.from_trace: metric": (lambda m, p: circuit(m, p, metric="logits"), errors.ComponentError, "metric 'logits' is unknown"),
    "circuits.from_trace: threshold": (lambda m, p: circuit(m, p, threshold=1.5), errors.ComponentError, "threshold 1.5 is no share"),
    "circuits.from_trace: limit": (
        lambda m, p: tlk.circuits.from_trace(m, p, traced(m, p), limit=0),
        errors.ComponentError,
        "limit=0 is too small; pass at least 1",
    ),
    "circuits.from_trace: other noise": (
        lambda m, p: tlk.circuits.from_trace(m, p, [traced(m, p), traced(m, p, noise=0.6)]),
        errors.ComponentError,
        "have other noise or targets",
    ),
    "circuits.from_trace: two sides": (
        lambda m, p: tlk.circuits.from_trace(m, p, [traced(m, p), traced(m, p, corrupt="relation")]),
        errors.ComponentError,
        "corrupt different tokens",
    ),
    "circuits.from_trace: other prompt": (
        lambda m, p: tlk.circuits.from_trace(m, tlk.Prompt.from_tokens([1, 2, 3], subject=[1]), traced(m, p)),
        errors.PromptError,
        "pass the traced prompt",
    ),
    "circuits.from_trace: overlap": (
        lambda m, p: tlk.circuits.from_trace(m, p, [traced(m, p), traced(m, p, component="resid_post")], limit=60),
        errors.ComponentError,
        "states hold what mlp_out write",
    ),
    "circuits.from_trace: nothing to explain": (
        lambda m, p: tlk.circuits.from_trace(m, p, traced(m, p, noise=0.0, samples=1)),
        errors.CorruptionError,
        "in both runs, so there is nothing to explain",
    ),
    "circuits.from_facts: no fact": (lambda m, p: tlk.circuits.from_facts(m, []), errors.DataError, "no fact was given"),
    "circuits.from_facts: heads": (
        lambda m, p: tlk.circuits.from_facts(m, FACT, components="head"),
        errors.ComponentError,
        "states or modules, not heads",
    ),
    "circuits.from_facts: states and modules": (
        lambda m, p: tlk.circuits.from_facts(m, FACT, components=("resid_post", "mlp_out")),
        errors.ComponentError,
        "pass components='resid_post' alone",
    ),
    "circuits.from_facts: side": (lambda m, p: tlk.circuits.from_facts(m, FACT, corrupt="last"), errors.CorruptionError, "corrupt 'last' is unknown"),
    "circuits.from_facts: limit": (lambda m, p: tlk.circuits.from_facts(m, FACT, limit=0), errors.InputError, "limit"),
    "circuits.from_neurons: none": (
        lambda m, p: tlk.circuits.from_neurons(m, p, tlk.NeuronSet.of(m, [])),
        errors.ComponentError,
        "0 neurons .* has no circuit here",
    ),
    "circuits.from_neurons: position": (
        lambda m, p: tlk.circuits.from_neurons(m, p, tlk.NeuronSet.of(m, [(0, 1)]), positions=[9]),
        errors.ComponentError,
        "pass positions from 0 to 6",
    ),
    "circuits.from_neurons: limit": (
        lambda m, p: tlk.circuits.from_neurons(m, p, tlk.NeuronSet.of(m, [(0, 1)]), limit=-1),
        errors.ComponentError,
        "limit=-1 is too small; pass at least 0",
    ),
    "circuits.from_neurons: samples": (
        lambda m, p: tlk.circuits.from_neurons(m, p, tlk.NeuronSet.of(m, [(0, 1)]), samples=0),
        errors.CorruptionError,
        "samples=0 draws no noise",
    ),
    "circuits.from_edit: no target": (
        lambda m, p: tlk.circuits.from_edit(m, tlk.Prompt.from_tokens([1, 2, 3]), EDIT),
        errors.PromptError,
        "has no target",
    ),
    "circuits.from_edit: written": (
        lambda m, p: while_written(m, p, tlk.circuits.from_edit),
        errors.ModelStateError,
        r"edit.revert\(model\) first",
    ),
    "circuits.from_edit: components": (
        lambda m, p: tlk.circuits.from_edit(m, p, EDIT, components="head"),
        errors.ComponentError,
        "components 'head' is unknown; pass one of 'mlp_out', 'attn_out'",
    ),
    "circuits.from_edit: no component": (lambda m, p: tlk.circuits.from_edit(m, p, EDIT, components=()), errors.ComponentError, "leaves no node"),
    "circuits.from_edit: no change": (lambda m, p: tlk.circuits.from_edit(m, p, EDIT), errors.CorruptionError, "nothing to explain"),
    "circuits.compare: other tokens": (
        lambda m, p: tlk.circuits.compare(circuit(m, p), circuit(m, tlk.Prompt.from_tokens([1, 2, 3], subject=[1], target=5))),
        errors.ComponentError,
        "pass two of the same tokens",
    ),
    "circuits.compare: one name": (
        lambda m, p: tlk.circuits.compare(circuit(m, p), circuit(m, p)),
        errors.ComponentError,
        "both circuits are called 'subject corrupted'; pass names=",
    ),
    "Circuit.top": (lambda m, p: circuit(m, p).top(0), errors.ComponentError, "pass at least 1"),
    "Circuit.load": (lambda m, p: tlk.circuits.Circuit.load("nowhere"), errors.DataError, "cannot read"),
    "Circuit.attention_view: no attention": (lambda m, p: circuit(m, p).attention_view(), errors.ComponentError, "there is no head to show"),
    "Circuit.to_nodes: states": (
        lambda m, p: tlk.circuits.from_trace(m, p, traced(m, p, component="resid_post")).to_nodes(),
        errors.ComponentError,
        "not states",
    ),
    "circuits.Node: component": (lambda m, p: Node("mlp", 0, 0), errors.ComponentError, "component 'mlp' is unknown"),
    "circuits.Node: units": (lambda m, p: Node("head", 0, 0), errors.ComponentError, "heads and neurons have units"),
    "circuits.Node: head in attention": (
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
    "analyse_attention: seeds": (
        lambda m, p: tlk.analyse_attention(m, p, tlk.GaussianNoise(0.5, seed=3), seed=4),
        errors.CorruptionError,
        "the noise has seed 3, but seed=4 was given too",
    ),
    "AttentionAnalysis.top: by": (
        lambda m, p: tlk.analyse_attention(m, p, 0.5, samples=1).top(by="effects"),
        errors.InputError,
        "by 'effects' is unknown, did you mean 'effect_",
    ),
    "analyse_attention: target": (lambda m, p: tlk.analyse_attention(m, p, target=99), errors.TargetError, "target token 99"),
    "direct_logit_attribution: target": (lambda m, p: tlk.direct_logit_attribution(m, p, target=99), errors.TargetError, "target token 99"),
    "direct_logit_attribution: against": (lambda m, p: tlk.direct_logit_attribution(m, p, against=99), errors.TargetError, "token 99 is outside"),
    "logit_lens: long": (
        lambda m, p: tlk.logit_lens(m, tlk.Prompt.from_tokens([1] * 33, target=5)),
        errors.PromptError,
        "33 tokens; the model's context is 32",
    ),
    "effect_view: heads": (lambda m, p: tlk.tracing.effect_view(traced(m, p, component="head")), errors.ComponentError, "one value a unit"),
    "effect_view: layer": (lambda m, p: tlk.tracing.effect_view(traced(m, p), layer=9), errors.ComponentError, "layer 9 was not traced"),
    "edit_view: written": (lambda m, p: while_written(m, p, tlk.editing.edit_view), errors.ModelStateError, "so there is no unedited run"),
    "tracing.trace_page: no trace": (lambda m, p: tlk.tracing.trace_page([]), errors.DataError, "no trace was given"),
    "tracing.trace_page: columns": (lambda m, p: tlk.tracing.trace_page([traced(m, p)], columns=0), errors.InputError, "pass at least 1"),
    "ViewPage: empty": (lambda m, p: tlk.drawing.ViewPage("none", []), errors.DataError, "no view was given"),
    "report_fact: no moments": (
        lambda m, p: tlk.report_fact(tlk.load_model("factlm"), FACT, edit_to=" Rome"),
        errors.InputError,
        "needs the second moments",
    ),
    "report_fact: samples": (lambda m, p: tlk.report_fact(tlk.load_model("factlm"), FACT, samples=0), errors.CorruptionError, "samples=0"),
}
