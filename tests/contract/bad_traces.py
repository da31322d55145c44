"""The table of bad input: models, hooks, traces and fact sets."""

from __future__ import annotations

from functools import cache

import torch
from support.unfit import bidirectional_model, dropout_model, experts_model, foreign_prompt, long_prompt

import tl_knowledge as tlk
from tl_knowledge import errors

FACTS = [tlk.Fact("France", "The capital of {} is", " Paris", "P36")]


@cache
def average():
    return tlk.trace_facts("factlm", FACTS, corrupt="subject", components="mlp_out", layers=[0], samples=1, progress=False)


BAD_TRACES = {
    "trace: no such span": (lambda m, p: tlk.trace(m, p, corrupt="verb"), errors.PromptError, "has no span 'verb'"),
    "trace: span outside": (lambda m, p: tlk.trace(m, p, corrupt=[99]), errors.PromptError, "pass positions from 0 to 6"),
    "trace: empty span": (lambda m, p: tlk.trace(m, p, corrupt=[]), errors.PromptError, "at least one"),
    "trace: component": (
        lambda m, p: tlk.trace(m, p, component="resid"),
        errors.ComponentError,
        "'resid' is unknown, did you mean 'resid_pre'. Pass one of",
    ),
    "trace: engine": (lambda m, p: tlk.trace(m, p, engine="fast"), errors.ComponentError, "'fast' is unknown; pass one of 'rows', 'loop', 'screen'"),
    "trace: variant": (lambda m, p: tlk.trace(m, p, variant="x"), errors.ComponentError, "pass one of 'ours', 'meng2022_code'"),
    "trace: seeds": (lambda m, p: tlk.trace(m, p, tlk.GaussianNoise(0.1, seed=3), seed=4), errors.CorruptionError, "has seed 3, but seed=4 was"),
    "trace: negative seed": (lambda m, p: tlk.trace(m, p, seed=-1), errors.CorruptionError, "seed -1 is negative; pass an integer"),
    "trace: noise": (lambda m, p: tlk.trace(m, p, [0.1]), errors.CorruptionError, r"noise \[0.1\] is not understood; pass settings"),
    "trace: layer": (lambda m, p: tlk.trace(m, p, layers=[4]), errors.ComponentError, "layer 4 is outside .* layers 0 to 3"),
    "trace: no layer": (lambda m, p: tlk.trace(m, p, layers=[]), errors.ComponentError, "no layer was given"),
    "trace: position": (lambda m, p: tlk.trace(m, p, positions=[7]), errors.ComponentError, "pass positions from 0 to 6"),
    "trace: unit": (lambda m, p: tlk.trace(m, p, component="head", units=[9]), errors.ComponentError, "pass numbers from 0 to 3"),
    "trace: units of a state": (lambda m, p: tlk.trace(m, p, units=[1]), errors.ComponentError, "has no units"),
    "trace: window": (lambda m, p: tlk.trace(m, p, window=0), errors.ComponentError, "window 0 does not fit"),
    "trace: sever": (lambda m, p: tlk.trace(m, p, sever="resid_post"), errors.ComponentError, "cannot be severed"),
    "trace: zero samples": (lambda m, p: tlk.trace(m, p, samples=0), errors.CorruptionError, "samples=0 draws no noise"),
    "trace: negative noise": (lambda m, p: tlk.trace(m, p, -0.1), errors.CorruptionError, "scale -0.1"),
    "trace: infinite noise": (lambda m, p: tlk.trace(m, p, float("inf")), errors.CorruptionError, "scale inf"),
    "trace: noise rule": (lambda m, p: tlk.trace(m, p, "3x"), errors.CorruptionError, "'3x' is not understood"),
    "trace: target": (lambda m, p: tlk.trace(m, p, target=60), errors.TargetError, "target token 60 is outside"),
    "trace: long prompt": (lambda m, p: tlk.trace(m, long_prompt()), errors.PromptError, "33 tokens; the model's context is 32: shorten"),
    "trace: foreign tokens": (lambda m, p: tlk.trace(m, foreign_prompt()), errors.PromptError, "token 600 is outside the model's vocabulary"),
    "trace: unequal swap": (lambda m, p: tlk.trace(m, p, tlk.PromptSwap(long_prompt())), errors.CorruptionError, "prompt of equal length"),
    "trace: dropout": (lambda m, p: tlk.trace(dropout_model(), p), errors.ModelStateError, r"dropout 0.1; call model.eval\(\)"),
    "trace: experts": (lambda m, p: tlk.trace(experts_model(), p), errors.UnsupportedModelError, "mixture of experts"),
    "trace: BERT": (lambda m, p: tlk.trace(bidirectional_model(), p), errors.UnsupportedModelError, "both directions"),
    "load_model: no model": (lambda m, p: tlk.load_model(3), errors.UnsupportedModelError, "int is not a TransformerLens model"),
    "load_model: experts": (lambda m, p: tlk.load_model(experts_model()), errors.UnsupportedModelError, "no single W_out"),
    "load_model: name": (lambda m, p: tlk.load_model("no-such/model"), errors.DataError, "cannot load model 'no-such/model'"),
    "load_model: backend": (lambda m, p: tlk.load_model("factlm", backend="nnsight"), errors.InputError, "'nnsight' is unknown"),
    "trace: verify": (lambda m, p: tlk.trace(m, p, engine="screen", verify=-1), errors.ComponentError, "verify=-1 is negative"),
    "trace: screen of severed": (
        lambda m, p: tlk.trace(m, p, engine="screen", sever="mlp_out"),
        errors.ComponentError,
        "estimates no severed effects; pass engine='rows'",
    ),
    "trace: screen of windows": (lambda m, p: tlk.trace(m, p, engine="screen", window=2), errors.ComponentError, "but window > 1 was given"),
    "trace_together: no component": (lambda m, p: tlk.tracing.trace_together(m, p, components=()), errors.DataError, "no component was given"),
    "trace_together: no span": (lambda m, p: tlk.tracing.trace_together(m, p, corrupt=()), errors.DataError, "no span to corrupt was given"),
    "trace_together: such a span": (lambda m, p: tlk.tracing.trace_together(m, p, corrupt="verb"), errors.PromptError, "has no span 'verb'"),
    "trace_together: component": (lambda m, p: tlk.tracing.trace_together(m, p, components="resid"), errors.ComponentError, "'resid' is unknown"),
    "trace_together: engine": (lambda m, p: tlk.tracing.trace_together(m, p, engine="screen"), errors.ComponentError, "pass one of 'rows', 'loop'"),
    "trace_together: sever": (
        lambda m, p: tlk.tracing.trace_together(m, p, sever=["mlp_out", ("head",)]),
        errors.ComponentError,
        "'head' cannot be severed",
    ),
    "trace_together: units": (lambda m, p: tlk.tracing.trace_together(m, p, units=[0]), errors.ComponentError, "has no units, but units="),
    "trace_together: samples": (lambda m, p: tlk.tracing.trace_together(m, p, samples=0), errors.CorruptionError, "samples=0 draws no noise"),
    "trace_facts: no fact": (lambda m, p: tlk.trace_facts(m, []), errors.DataError, "pass at least one"),
    "trace_facts: side": (lambda m, p: tlk.trace_facts(m, FACTS, corrupt="verb"), errors.CorruptionError, "'verb' is unknown; pass one of 'subject'"),
    "trace_facts: component": (lambda m, p: tlk.trace_facts(m, FACTS, components="resid"), errors.ComponentError, "'resid' is unknown"),
    "trace_facts: no component": (lambda m, p: tlk.trace_facts(m, FACTS, components=()), errors.ComponentError, "no component was given"),
    "trace_facts: units": (lambda m, p: tlk.trace_facts(m, FACTS, units=[0]), errors.ComponentError, "have no units, but units="),
    "trace_facts: head": (
        lambda m, p: tlk.trace_facts("factlm", FACTS, components="head", units=[4], progress=False),
        errors.ComponentError,
        r"head \[4\] is outside the model; pass numbers from 0 to 3",
    ),
    "TraceAverage.plot_units": (lambda m, p: average().plot_units(), errors.ComponentError, "pass components='head' to trace_facts"),
    "trace_facts: sever": (lambda m, p: tlk.trace_facts(m, FACTS, sever="head"), errors.ComponentError, "cannot be severed"),
    "trace_facts: engine": (lambda m, p: tlk.trace_facts(m, FACTS, engine="screen"), errors.ComponentError, "pass engine='rows' or 'loop'"),
    "trace_facts: swap": (lambda m, p: tlk.trace_facts(m, FACTS, tlk.PromptSwap(p)), errors.CorruptionError, "PromptSwap belongs to one prompt"),
    "trace_facts: samples": (lambda m, p: tlk.trace_facts(m, FACTS, samples=0), errors.CorruptionError, "samples=0"),
    "trace_facts: runner": (
        lambda m, p: tlk.trace_facts(m, FACTS, runner="slurm"),
        errors.InputError,
        "'slurm' is unknown; pass one of 'local', 'ray'",
    ),
    "trace_facts: ray needs a name": (lambda m, p: tlk.trace_facts(m, FACTS, runner="ray"), errors.InputError, "pass its name or directory"),
    "trace_facts: workers": (lambda m, p: tlk.trace_facts("factlm", FACTS, runner="ray", workers=0), errors.InputError, "workers=0"),
    "trace_facts: parts": (lambda m, p: tlk.trace_facts(m, FACTS, facts_per_part=0), errors.InputError, "facts_per_part=0"),
    "trace_facts: layer": (lambda m, p: tlk.trace_facts("factlm", FACTS, layers=[8], progress=False), errors.ComponentError, "layer 8 is outside"),
    "trace_facts: none known": (
        lambda m, p: tlk.trace_facts("factlm", [tlk.Fact("France", "The capital of {} is", " Oslo")], progress=False),
        errors.DataError,
        r"none of the 1 fact could be traced \(the first: not known: the model predicts ' Paris'\)",
    ),
    "TraceAverage.load: nothing": (lambda m, p: tlk.TraceAverage.load("nowhere.parquet"), errors.DataError, "cannot read"),
    "TraceAverage.of": (lambda m, p: average().of("relation", "mlp_out"), errors.ComponentError, "was not traced; there is subject, mlp_out"),
    "TraceAverage.role_effects": (lambda m, p: average().role_effects("subject", "mlp_out", "verb"), errors.ComponentError, "'verb' is unknown"),
    "TraceAverage.top": (lambda m, p: average().top(0), errors.ComponentError, "pass at least 1"),
    "TraceAverage.compare_sides": (lambda m, p: average().compare_sides(), errors.ComponentError, "only subject corruption was traced"),
    "TraceAverage.plot_severed": (lambda m, p: average().plot_severed(), errors.ComponentError, "no severed trace"),
    "TraceAverage.variant": (lambda m, p: average().to_dataframe("t"), errors.InputError, "'t' is unknown; pass one of 'ours'"),
    "measure_attention_knockout: no fact": (lambda m, p: tlk.measure_attention_knockout(m, []), errors.DataError, "pass at least one"),
    "measure_attention_knockout: set": (
        lambda m, p: tlk.measure_attention_knockout(m, FACTS, at=["verb"]),
        errors.ComponentError,
        "at 'verb' is unknown",
    ),
    "measure_attention_knockout: window": (
        lambda m, p: tlk.measure_attention_knockout(m, FACTS, window=9),
        errors.ComponentError,
        "window 9 does not fit",
    ),
    "knock_out_attention: nothing": (lambda m, p: tlk.knock_out_attention(3, [], layers=0), errors.ComponentError, "must both be given"),
    "knock_out_attention: everything": (lambda m, p: tlk.knock_out_attention(1, [0, 1], layers=0), errors.ComponentError, "could attend to nothing"),
    "knock_out_attention: from the end": (lambda m, p: tlk.knock_out_attention(-1, [1], layers=0), errors.ComponentError, "count from the start"),
    "knock_out_attention: head": (
        lambda m, p: m.run_with_hooks(p.tokens, fwd_hooks=tlk.knock_out_attention(6, [1], layers=0, heads=4)),
        errors.ComponentError,
        "head 4 is outside the layer's 4 heads",
    ),
    "knock_out_attention: outside": (
        lambda m, p: m.run_with_hooks(p.tokens, fwd_hooks=tlk.knock_out_attention(50, [1], layers=0)),
        errors.ComponentError,
        "do not lie in the prompt of 7 tokens",
    ),
    "scale_neurons": (lambda m, p: tlk.scale_neurons([(0, 1)], float("inf")), errors.ComponentError, "factor inf is not finite"),
    "perturb_embeddings: no fact": (lambda m, p: tlk.tracing.perturb_embeddings(m, []), errors.DataError, "pass at least one"),
    "perturb_embeddings: noise": (lambda m, p: tlk.tracing.perturb_embeddings(m, FACTS, -0.1), errors.CorruptionError, "scale -0.1"),
    "perturb_embeddings: swap": (lambda m, p: tlk.tracing.perturb_embeddings(m, FACTS, tlk.PromptSwap(p)), errors.CorruptionError, "one prompt"),
    "perturb_embeddings: samples": (lambda m, p: tlk.tracing.perturb_embeddings(m, FACTS, samples=0), errors.CorruptionError, "samples=0"),
    "compare: one": (lambda m, p: tlk.compare(tlk.trace(m, p, 0.5)), errors.ComponentError, "pass at least two"),
    "compare: two prompts": (
        lambda m, p: tlk.compare(tlk.trace(m, p, 0.5), tlk.trace(m, tlk.Prompt.from_tokens([1, 2, 3], subject=[1]), 0.5)),
        errors.ComponentError,
        "different prompts",
    ),
    "CausalTrace.top": (lambda m, p: tlk.trace(m, p, 0.5).top(0), errors.ComponentError, "pass at least 1"),
    "CausalTrace.load": (lambda m, p: tlk.CausalTrace.load("nowhere"), errors.DataError, "cannot read"),
    "corrupt: nothing": (lambda m, p: tlk.corrupt([], tlk.GaussianNoise(0.1)), errors.CorruptionError, "no position"),
    "corrupt: outside": (
        lambda m, p: m.run_with_hooks(p.tokens, fwd_hooks=tlk.corrupt([50], tlk.GaussianNoise(0.1))),
        errors.ComponentError,
        "position 50 is outside the 7 positions of hook_embed",
    ),
    "corrupt: unresolved": (
        lambda m, p: m.run_with_hooks(p.tokens, fwd_hooks=tlk.corrupt([1], tlk.GaussianNoise("3sd"))),
        errors.CorruptionError,
        r"call noise.resolve\(model\) first",
    ),
    "restore: component": (lambda m, p: tlk.restore({}, "mlp", layers=1), errors.ComponentError, "'mlp' is unknown"),
    "restore: unit": (lambda m, p: tlk.restore({}, "mlp_out", layers=1, units=3), errors.ComponentError, "has no units"),
    "restore: other length": (
        lambda m, p: m.run_with_hooks(p.tokens, fwd_hooks=tlk.restore({"blocks.1.hook_mlp_out": torch.zeros(1, 3, 16)}, "mlp_out", layers=1)),
        errors.ComponentError,
        "same length",
    ),
    "add_low_rank: other model": (
        lambda m, p: m.run_with_hooks(p.tokens, fwd_hooks=tlk.add_low_rank(1, torch.zeros(9, 1), torch.zeros(1, 16), "blocks.1.mlp.out.hook_out")),
        errors.ComponentError,
        "factors for 9 neurons",
    ),
    "restore: mlp_in": (lambda m, p: tlk.restore({}, "mlp_in", layers=1), errors.ComponentError, "neither blocks.1.mlp.hook_in nor"),
    "ablate: nothing": (lambda m, p: tlk.ablate(), errors.ComponentError, "nothing was given to ablate; pass heads="),
    "ablate: by": (lambda m, p: tlk.ablate(heads=(0, 1), by="average"), errors.ComponentError, "by 'average' is unknown"),
    "ablate: module": (lambda m, p: tlk.ablate(modules=(0, "resid_post")), errors.ComponentError, "modules 'resid_post' is unknown"),
    "ablate: no mean": (lambda m, p: tlk.ablate(heads=(0, 1), by="mean"), errors.ComponentError, "by='mean' needs recorded=, activations whose mean"),
    "ablate: no run": (lambda m, p: tlk.ablate(heads=(0, 1), by="resample"), errors.ComponentError, "needs recorded=, the run whose"),
    "ablate: not in the mean": (
        lambda m, p: tlk.ablate(modules=[(0, "mlp_out")], by="mean", recorded={}),
        errors.ComponentError,
        "by='mean' writes what was recorded, but blocks.0.hook_mlp_out was not",
    ),
    "ablate: not in the run": (
        lambda m, p: tlk.ablate(heads=[(0, 1), (1, 1)], by="resample", recorded=m.run_with_cache(p.tokens, names_filter="blocks.0.attn.hook_z")[1]),
        errors.ComponentError,
        "by='resample' writes what was recorded, but blocks.1.attn.hook_z was not",
    ),
    "ablate: head": (
        lambda m, p: m.run_with_hooks(p.tokens, fwd_hooks=tlk.ablate(heads=(0, 4))),
        errors.ComponentError,
        "unit 4 is outside the 4 of blocks.0.attn.hook_z; pass numbers from 0 to 3",
    ),
    "ablate: position": (
        lambda m, p: m.run_with_hooks(p.tokens, fwd_hooks=tlk.ablate(heads=(0, 3), positions=7)),
        errors.ComponentError,
        "position 7 is outside the 7 positions of blocks.0.attn.hook_z",
    ),
    "ablate: other model": (
        lambda m, p: m.run_with_hooks(
            p.tokens, fwd_hooks=tlk.ablate(modules=(1, "mlp_out"), by="mean", recorded={"blocks.1.hook_mlp_out": torch.zeros(1, 7, 9)})
        ),
        errors.ComponentError,
        r"is \(9,\) at a position, the running one \(16,\)",
    ),
    "measure_ablation: no prompt": (lambda m, p: tlk.tracing.measure_ablation(m, [], heads="all"), errors.DataError, "pass at least one"),
    "measure_ablation: nothing": (tlk.tracing.measure_ablation, errors.ComponentError, "pass heads='all', or heads="),
    "measure_ablation: heads": (lambda m, p: tlk.tracing.measure_ablation(m, p, heads="every"), errors.ComponentError, "heads 'every' is unknown"),
    "measure_ablation: head": (
        lambda m, p: tlk.tracing.measure_ablation(m, p, heads=(0, 4)),
        errors.ComponentError,
        "head 4 is outside the model's 4",
    ),
    "measure_ablation: layer": (lambda m, p: tlk.tracing.measure_ablation(m, p, heads=(4, 0)), errors.ComponentError, "layer 4 is outside"),
    "measure_ablation: module": (lambda m, p: tlk.tracing.measure_ablation(m, p, modules="mlp"), errors.ComponentError, "modules 'mlp' is unknown"),
    "measure_ablation: engine": (
        lambda m, p: tlk.tracing.measure_ablation(m, p, heads=(0, 1), engine="screen"),
        errors.ComponentError,
        "engine 'screen' is unknown",
    ),
    "measure_ablation: alone": (
        lambda m, p: tlk.tracing.measure_ablation(m, p, heads=(0, 1), by="resample"),
        errors.DataError,
        "none to resample from; pass more prompts",
    ),
    "measure_ablation: span": (lambda m, p: tlk.tracing.measure_ablation(m, p, heads=(0, 1), at="verb"), errors.PromptError, "has no span 'verb'"),
    "measure_ablation: corpus": (
        lambda m, p: tlk.tracing.measure_ablation(m, p, heads=(0, 1), by="mean", corpus=["A text."]),
        errors.InputError,
        "this model has no tokenizer, so it reads no text",
    ),
    "mean_activations: tokens": (
        lambda m, p: tlk.tracing.mean_activations(m, p, heads=(0, 1), tokens=0),
        errors.InputError,
        "tokens=0 reads nothing",
    ),
    "sever: module": (lambda m, p: tlk.sever({}, "resid_post", layers=1), errors.ComponentError, "cannot be severed"),
}
