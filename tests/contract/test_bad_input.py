"""One table over every public function: bad input gives our error with the remedy, and the model is left as it was."""

from __future__ import annotations

import re
from functools import cache
from types import SimpleNamespace

import jaxtyping
import pytest
import torch
from contract.bad_circuits import BAD_CIRCUITS
from contract.bad_edits import BAD_EDITS
from support import build, fingerprint, hooks_left

import tl_knowledge as tlk
from tl_knowledge import errors
from tl_knowledge.models.checks import check_model


@pytest.fixture(autouse=True)
def without_type_checks():
    """Users run without the test suite's type checker, and it would refuse wrong words before we do."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def dropout_model():
    model = build("bridge-gpt2")  # set back to eval by the test
    model.train()
    return model


def nan_model():
    model = build("bridge-llama")
    poison = [("blocks.1.hook_mlp_out", lambda x, *, hook: x * float("nan"))]
    return SimpleNamespace(model=model, hooks=poison)


def moe_model():
    """A block whose MLP has one W_out an expert."""
    real = build("bridge-gpt2")
    blocks = [SimpleNamespace(mlp=SimpleNamespace(W_out=torch.zeros(2, 24, 16)))]

    class MixtureOfExperts:
        cfg, tokenizer, training = SimpleNamespace(model_name="moe", n_layers=1), None, False
        hook_dict = real.hook_dict
        run_with_hooks = run_with_cache = hooks = parameters = modules = named_parameters = __call__ = lambda *a, **k: None

    made = MixtureOfExperts()
    made.blocks = blocks
    return made


def bidirectional_model():
    made = moe_model()
    made.cfg = SimpleNamespace(model_name="bert", attention_dir="bidirectional")
    return made


GROUPS = [tlk.neurons.PromptGroup("relation", "name", (tlk.Prompt.from_tokens([3, 4], target=5),))]


def long_prompt():
    return tlk.Prompt.from_tokens(torch.zeros(1, 33, dtype=torch.long), subject=range(1, 3), target=5)


def foreign_prompt():
    return tlk.Prompt.from_tokens(torch.tensor([[1, 2, 600]]), subject=[1], target=5)


FACTS = [tlk.Fact("France", "The capital of {} is", " Paris", "P36")]


@cache
def average():
    return tlk.trace_facts("factlm", FACTS, corrupt="subject", components="mlp_out", layers=[0], samples=1, progress=False)


BAD: dict[str, tuple[object, type[Exception], str]] = {
    "trace: no such span": (lambda m, p: tlk.trace(m, p, corrupt="verb"), errors.PromptError, "has no span 'verb'"),
    "trace: span outside": (lambda m, p: tlk.trace(m, p, corrupt=[99]), errors.PromptError, "pass positions from 0 to 6"),
    "trace: empty span": (lambda m, p: tlk.trace(m, p, corrupt=[]), errors.PromptError, "at least one"),
    "trace: component": (lambda m, p: tlk.trace(m, p, component="resid"), errors.ComponentError, "'resid' is unknown, did you mean 'resid_post'. Pass one of"),
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
    "trace: experts": (lambda m, p: tlk.trace(moe_model(), p), errors.UnsupportedModelError, "mixture of experts"),
    "trace: BERT": (lambda m, p: tlk.trace(bidirectional_model(), p), errors.UnsupportedModelError, "both directions"),
    "trace: no model": (lambda m, p: tlk.trace(None, p), errors.UnsupportedModelError, "NoneType is not a TransformerLens model"),
    "load_model: no model": (lambda m, p: tlk.load_model(3), errors.UnsupportedModelError, "int is not a TransformerLens model"),
    "load_model: experts": (lambda m, p: tlk.load_model(moe_model()), errors.UnsupportedModelError, "no single W_out"),
    "load_model: name": (lambda m, p: tlk.load_model("no-such/model"), errors.DataError, "cannot load model 'no-such/model'"),
    "load_model: backend": (lambda m, p: tlk.load_model("factlm", backend="nnsight"), errors.InputError, "'nnsight' is unknown"),
    "load_facts": (lambda m, p: tlk.load_facts("counterfoil"), errors.DataError, "'counterfoil' is unknown, did you mean 'counterfact'"),
    "load_relations": (lambda m, p: tlk.datasets.load_relations("x"), errors.DataError, "unknown"),
    "load_edit_cases": (lambda m, p: tlk.load_edit_cases("x"), errors.DataError, "unknown"),
    "load_corpus": (lambda m, p: tlk.load_corpus("x"), errors.DataError, "unknown"),
    "paraphrases": (lambda m, p: tlk.paraphrases(m, tlk.Fact("a", "{} is", " b")), errors.DataError, "has no paraphrases"),
    "trace: verify": (lambda m, p: tlk.trace(m, p, engine="screen", verify=-1), errors.ComponentError, "verify=-1 is negative"),
    "trace: screen of severed": (
        lambda m, p: tlk.trace(m, p, engine="screen", sever="mlp_out"),
        errors.ComponentError,
        "estimates no severed effects; pass engine='rows'",
    ),
    "trace: screen of windows": (lambda m, p: tlk.trace(m, p, engine="screen", window=2), errors.ComponentError, "but window > 1 was given"),
    "trace_facts: no fact": (lambda m, p: tlk.trace_facts(m, []), errors.DataError, "pass at least one"),
    "trace_facts: side": (lambda m, p: tlk.trace_facts(m, FACTS, corrupt="verb"), errors.CorruptionError, "'verb' is unknown; pass one of 'subject'"),
    "trace_facts: component": (lambda m, p: tlk.trace_facts(m, FACTS, components="resid"), errors.ComponentError, "'resid' is unknown"),
    "trace_facts: no component": (lambda m, p: tlk.trace_facts(m, FACTS, components=()), errors.ComponentError, "no component was given"),
    "trace_facts: heads": (lambda m, p: tlk.trace_facts(m, FACTS, components="head"), errors.ComponentError, r"fact by fact with trace\(\)"),
    "trace_facts: sever": (lambda m, p: tlk.trace_facts(m, FACTS, sever="head"), errors.ComponentError, "cannot be severed"),
    "trace_facts: engine": (lambda m, p: tlk.trace_facts(m, FACTS, engine="screen"), errors.ComponentError, "pass engine='rows' or 'loop'"),
    "trace_facts: swap": (lambda m, p: tlk.trace_facts(m, FACTS, tlk.PromptSwap(p)), errors.CorruptionError, "PromptSwap belongs to one prompt"),
    "trace_facts: samples": (lambda m, p: tlk.trace_facts(m, FACTS, samples=0), errors.CorruptionError, "samples=0"),
    "trace_facts: runner": (lambda m, p: tlk.trace_facts(m, FACTS, runner="slurm"), errors.InputError, "'slurm' is unknown; pass one of 'local', 'ray'"),
    "trace_facts: ray needs a name": (lambda m, p: tlk.trace_facts(m, FACTS, runner="ray"), errors.InputError, "pass its name or directory"),
    "trace_facts: workers": (lambda m, p: tlk.trace_facts("factlm", FACTS, runner="ray", workers=0), errors.InputError, "workers=0"),
    "trace_facts: parts": (lambda m, p: tlk.trace_facts(m, FACTS, facts_per_part=0), errors.InputError, "facts_per_part=0"),
    "trace_facts: layer": (lambda m, p: tlk.trace_facts("factlm", FACTS, layers=[8], progress=False), errors.ComponentError, "layer 8 is outside"),
    "trace_facts: none known": (
        lambda m, p: tlk.trace_facts("factlm", [tlk.Fact("France", "The capital of {} is", " Oslo")], progress=False),
        errors.DataError,
        r"none of the 1 facts could be traced \(the first: not known: the model predicts ' Paris'\)",
    ),
    "TraceAverage.load: nothing": (lambda m, p: tlk.TraceAverage.load("nowhere.parquet"), errors.DataError, "cannot read"),
    "TraceAverage.of": (lambda m, p: average().of("relation", "mlp_out"), errors.ComponentError, "was not traced; there is subject, mlp_out"),
    "TraceAverage.role_effects": (lambda m, p: average().role_effects("subject", "mlp_out", "verb"), errors.ComponentError, "'verb' is unknown"),
    "TraceAverage.top": (lambda m, p: average().top(0), errors.ComponentError, "pass at least 1"),
    "TraceAverage.compare_sides": (lambda m, p: average().compare_sides(), errors.ComponentError, "only subject corruption was traced"),
    "TraceAverage.plot_severed": (lambda m, p: average().plot_severed(), errors.ComponentError, "no severed trace"),
    "TraceAverage.variant": (lambda m, p: average().to_dataframe("t"), errors.InputError, "'t' is unknown; pass one of 'ours'"),
    "attention_knockout: no fact": (lambda m, p: tlk.measure_attention_knockout(m, []), errors.DataError, "pass at least one"),
    "attention_knockout: set": (
        lambda m, p: tlk.measure_attention_knockout(m, FACTS, at=["verb"]),
        errors.ComponentError,
        "'verb'.* is not understood",
    ),
    "attention_knockout: window": (lambda m, p: tlk.measure_attention_knockout(m, FACTS, window=9), errors.ComponentError, "window 9 does not fit"),
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
    "attribute_neurons: no prompt": (lambda m, p: tlk.attribute_neurons(m, []), errors.DataError, "pass at least one"),
    "attribute_neurons: no target": (
        lambda m, p: tlk.attribute_neurons(m, tlk.Prompt.from_tokens([[1, 2]])),
        errors.TargetError,
        "has no target; pass target=",
    ),
    "attribute_neurons: target": (
        lambda m, p: tlk.attribute_neurons(m, tlk.Prompt.from_tokens([[1, 2]], target=60)),
        errors.TargetError,
        "target token 60 is outside",
    ),
    "attribute_neurons: foreign": (lambda m, p: tlk.attribute_neurons(m, foreign_prompt()), errors.PromptError, "outside the model's vocabulary"),
    "attribute_neurons: long": (lambda m, p: tlk.attribute_neurons(m, long_prompt()), errors.PromptError, "33 tokens; the model's context is 32"),
    "attribute_neurons: steps": (lambda m, p: tlk.attribute_neurons(m, p, steps=0), errors.InputError, "steps=0 makes no path"),
    "attribute_neurons: method": (lambda m, p: tlk.attribute_neurons(m, p, method="x"), errors.InputError, "method 'x' is unknown"),
    "attribute_neurons: variant": (lambda m, p: tlk.attribute_neurons(m, p, variant="x"), errors.InputError, "variant 'x' is unknown"),
    "attribute_neurons: baseline": (lambda m, p: tlk.attribute_neurons(m, p, baseline="mean"), errors.InputError, "baseline 'mean' is unknown"),
    "attribute_neurons: baseline's shape": (
        lambda m, p: tlk.attribute_neurons(m, p, baseline=torch.zeros(4, 3)),
        errors.InputError,
        r"shape \(4, 3\); pass finite activations of shape \(4, 24\)",
    ),
    "attribute_neurons: layer": (lambda m, p: tlk.attribute_neurons(m, p, layers=[9]), errors.ComponentError, "layer 9 is outside"),
    "attribute_neurons: experts": (lambda m, p: tlk.attribute_neurons(moe_model(), p), errors.UnsupportedModelError, "mixture of experts"),
    "attribute_neurons: MoE": (lambda m, p: tlk.attribute_neurons(moe_model(), p), errors.UnsupportedModelError, "no single W_out"),
    "measure_neuron_effects: no fact": (lambda m, p: tlk.neurons.measure_neuron_effects(m, []), errors.DataError, "pass facts of at least two"),
    "mean_activation": (lambda m, p: tlk.neurons.mean_activation(m, []), errors.DataError, "pass at least one"),
    "scale_neurons": (lambda m, p: tlk.scale_neurons([(0, 1)], float("inf")), errors.ComponentError, "factor inf is not finite"),
    "select_neurons": (lambda m, p: tlk.select_neurons(None, shared_by=2), errors.InputError, "shared_by=2 is no share"),
    "coarse_neurons": (lambda m, p: tlk.neurons.coarse_neurons(None, kind="x"), errors.InputError, "kind 'x' is unknown"),
    "adapt_sharing": (lambda m, p: tlk.neurons.adapt_sharing([]), errors.DataError, "no attribution was given"),
    "perturb_embeddings: no fact": (lambda m, p: tlk.tracing.perturb_embeddings(m, []), errors.DataError, "pass at least one"),
    "perturb_embeddings: noise": (lambda m, p: tlk.tracing.perturb_embeddings(m, FACTS, -0.1), errors.CorruptionError, "scale -0.1"),
    "perturb_embeddings: swap": (lambda m, p: tlk.tracing.perturb_embeddings(m, FACTS, tlk.PromptSwap(p)), errors.CorruptionError, "one prompt"),
    "perturb_embeddings: samples": (lambda m, p: tlk.tracing.perturb_embeddings(m, FACTS, samples=0), errors.CorruptionError, "samples=0"),
    "of_relation": (lambda m, p: tlk.datasets.of_relation(FACTS, "P0"), errors.DataError, "no fact has relation 'P0'; the facts have"),
    "sample_facts": (lambda m, p: tlk.sample_facts(FACTS, 0), errors.DataError, "pass at least 1"),
    "known_facts: no model": (lambda m, p: tlk.known_facts(None, []), errors.UnsupportedModelError, "NoneType"),
    "load_known": (lambda m, p: tlk.datasets.load_known("nowhere.json"), errors.DataError, "there is no file 'nowhere.json'"),
    "load_counterfact": (lambda m, p: tlk.datasets.load_counterfact("nowhere.json"), errors.DataError, "there is no file"),
    "load_zsre": (lambda m, p: tlk.datasets.load_zsre("nowhere.json"), errors.DataError, "there is no file"),
    "load_blimp": (lambda m, p: tlk.datasets.load_blimp("nowhere.jsonl", paradigm="x"), errors.DataError, "there is no file"),
    "load_lre": (lambda m, p: tlk.datasets.load_lre("nowhere.json"), errors.DataError, "there is no file"),
    "load_pararel": (lambda m, p: tlk.datasets.load_pararel("nowhere"), errors.DataError, "pass the folder that has them"),
    "load_context_pararel": (lambda m, p: tlk.datasets.load_context_pararel("nowhere"), errors.DataError, "pass the folder that has them"),
    "compare: one": (lambda m, p: tlk.compare(tlk.trace(m, p, 0.5)), errors.ComponentError, "pass at least two"),
    "compare: two prompts": (
        lambda m, p: tlk.compare(tlk.trace(m, p, 0.5), tlk.trace(m, tlk.Prompt.from_tokens([1, 2, 3], subject=[1]), 0.5)),
        errors.ComponentError,
        "different prompts",
    ),
    "top: none": (lambda m, p: tlk.trace(m, p, 0.5).top(0), errors.ComponentError, "pass at least 1"),
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
    "locate_neurons: no group": (lambda m, p: tlk.locate_neurons(m, []), errors.DataError, "no fact or group was given"),
    "locate_neurons: adapt": (lambda m, p: tlk.locate_neurons(m, GROUPS, adapt="some"), errors.InputError, "adapt 'some' is unknown"),
    "locate_neurons: threshold": (lambda m, p: tlk.locate_neurons(m, GROUPS, threshold=2.0), errors.InputError, "does not fit kind"),
    "locate_neurons: target": (
        lambda m, p: tlk.locate_neurons(m, [tlk.neurons.PromptGroup("r", "n", (tlk.Prompt.from_tokens([1], target=99),))]),
        errors.TargetError,
        "target token 99 is outside",
    ),
    "PromptGroup: empty": (lambda m, p: tlk.neurons.PromptGroup("r", "n", ()), errors.DataError, "has no prompts"),
    "fact_groups: no paraphrases": (lambda m, p: tlk.neurons.fact_groups(m, [tlk.Fact("a", "{} is", " b")]), errors.DataError, "has no paraphrases"),
    "agreement_groups: none": (lambda m, p: tlk.neurons.agreement_groups(m, []), errors.DataError, "no minimal pair was given"),
    "determiner: none": (
        lambda m, p: tlk.neurons.determiner(tlk.datasets.MinimalPair("A dog.", "A dogs.", "x")),
        errors.InputError,
        "no demonstrative",
    ),
    "punctuation_groups: none": (lambda m, p: tlk.neurons.punctuation_groups(m, ["no mark"]), errors.DataError, "no sentence ends"),
    "shared_neurons: none": (lambda m, p: tlk.neurons.shared_neurons([]), errors.DataError, "no neuron set was given"),
    "compare_layers: none": (lambda m, p: tlk.neurons.compare_layers({}), errors.DataError, "no set of located neurons was given"),
    "in_context: no slot": (lambda m, p: tlk.datasets.in_context(tlk.Fact("a", "is", " b"), [("c", " d")]), errors.PromptError, "has no {}"),
    "with_context: too few": (lambda m, p: tlk.datasets.with_context([tlk.Fact("a", "{} is", " b")]), errors.DataError, "0 subjects beside"),
    "measure_context_gain: none": (lambda m, p: tlk.neurons.measure_context_gain(m, []), errors.DataError, "no fact was given"),
    "measure_token_effects: one prompt": (
        lambda m, p: tlk.neurons.measure_token_effects(m, [p], {"x": ["y"]}, tlk.NeuronSet.of(m, [(0, 1)])),
        errors.InputError,
        "at least 2 prompts",
    ),
    "measure_reliability: none": (
        lambda m, p: tlk.neurons.measure_reliability(m, [], tlk.locate_neurons(m, GROUPS, steps=2, progress=False), by=tlk.neurons.determiner),
        errors.DataError,
        "no minimal pair was given",
    ),
    "neuron_view: other model": (
        lambda m, p: tlk.neurons.neuron_view(m, p, tlk.NeuronSet(frozenset({(0, 1)}), 9, 9)),
        errors.ComponentError,
        "of this model",
    ),
    "add_low_rank: other model": (
        lambda m, p: m.run_with_hooks(p.tokens, fwd_hooks=tlk.add_low_rank(1, torch.zeros(9, 1), torch.zeros(1, 16), "blocks.1.mlp.out.hook_out")),
        errors.ComponentError,
        "factors for 9 neurons",
    ),
    "sever: module": (lambda m, p: tlk.sever({}, "resid_post", layers=1), errors.ComponentError, "cannot be severed"),
}


BAD |= BAD_EDITS | BAD_CIRCUITS


@pytest.mark.parametrize("case", BAD)
def test_bad_input(gpt2, prompt, case):
    call, error, message = BAD[case]
    before = fingerprint(gpt2)
    try:
        with pytest.raises(error) as raised:
            call(gpt2, prompt)
    finally:
        build("bridge-gpt2").eval()
    text = str(raised.value)
    assert re.search(message, text), text
    assert isinstance(raised.value, errors.TLKnowledgeError)
    assert any(mark in text for mark in (";", ":", "? Pass"))  # the remedy follows what failed
    assert hooks_left(gpt2) == []
    assert fingerprint(gpt2) == before


COVERED = {name.split(":")[0].split(".")[0] for name in BAD}
VALUES = {"CausalTrace", "EditCase", "Fact", "GaussianNoise", "HookedModel", "MultivariateGaussianNoise", "Prompt", "PromptSwap", "Relation"}
VALUES |= {
    "AttentionKnockout",
    "NeuronAttribution",
    "NeuronSet",
    "FactTrace",
    "MinimalPair",
    "PerturbationTest",
    "ScreenCheck",
    "Statement",
    "fact_seed",
    "perturbation_sd",
}
VALUES |= {"Edit", "EditMethod", "EditReport", "KeyMoments", "LowRank", "Score", "ValueSettings"}
VALUES |= {"EditGrowth", "EditHealth", "EditMeasure", "LayerHealth", "LayerSweep", "Objective", "PromptAccuracy", "ScoreTable"}
VALUES |= {"EditingProblem", "GenerationScores", "perspectives", "subject_synonymy", "symmetry", "synonymy"}  # leave out what they do not apply to
VALUES |= {"ContextGain", "LocatedNeurons", "NeuronEffects", "Reliability", "TokenEffects"}
VALUES |= {"single_token_facts", "single_token_words"}  # leave out what they cannot take
VALUES |= {"Span", "StudentTNoise", "TraceComparison", "UniformNoise", "embedding_sd", "subject_embedding_sd"}  # their own unit tests


VALUES |= {"AttentionAnalysis", "DirectAttribution", "LogitLens", "Report", "dark"}  # their own unit tests


@pytest.mark.parametrize("name", sorted({*tlk.circuits.__all__} - {*tlk.__all__, "CircuitComparison", "Edge"} | {"compare"}))
def test_every_verb_of_circuits_is_in_the_table(name):
    assert any(case.startswith(f"circuits: {name}:") for case in BAD)


@pytest.mark.parametrize("name", [n for n in tlk.__all__ if callable(getattr(tlk, n))])
def test_every_public_function_is_in_the_table(name):
    assert name in COVERED | VALUES


@pytest.mark.parametrize("engine", ["rows", "loop"])
def test_non_finite_activations(engine, prompt):
    poisoned = nan_model()
    with poisoned.model.hooks(fwd_hooks=poisoned.hooks), pytest.raises(errors.NumericalError, match="not finite"):
        tlk.trace(poisoned.model, prompt, 0.5, engine=engine)


@pytest.mark.parametrize("engine", ["rows", "loop"])
def test_an_exception_in_mid_run_leaves_no_hook(gpt2, prompt, engine, monkeypatch):
    from tl_knowledge.runs import experiment
    from tl_knowledge.tracing import engines

    calls = iter(range(100))

    def fail(logits, answer):
        if next(calls) == 1:
            raise KeyboardInterrupt
        return logits.softmax(-1)[:, 0, 5]

    before = fingerprint(gpt2)
    for module in (engines, experiment):
        monkeypatch.setattr(module, "answer_probability", fail)
    with pytest.raises(KeyboardInterrupt):
        tlk.trace(gpt2, prompt, 0.5, engine=engine)
    assert hooks_left(gpt2) == []
    assert fingerprint(gpt2) == before


def test_a_trace_leaves_the_model_as_it_was(model, prompt):
    before, logits = fingerprint(model), model(prompt.tokens)
    tlk.trace(model, prompt, 0.5, samples=2, component="mlp_out", sever="attn_out")
    assert hooks_left(model) == []
    assert fingerprint(model) == before
    torch.testing.assert_close(model(prompt.tokens), logits, rtol=0, atol=0)


def test_training_mode_without_dropout_is_fine(prompt):
    if not any(name.startswith("ht-") for name in __import__("conftest").BUILDERS):
        pytest.skip("TransformerLens 4 has no HookedTransformer")
    model = build("ht-gpt2")
    model.train()
    try:
        assert check_model(model) is model
    finally:
        model.eval()
