"""One contract for every result: a table, a figure, a line, a view in a notebook, a file and back. Each is a small real one."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch
from support.places import FACTLM_LAYER
from support.public import public_classes

import tl_knowledge as tlk
from tl_knowledge.errors import ComponentError, DataError
from tl_knowledge.results.result import Result

pytestmark = pytest.mark.touches_model

FACTS = [fact for fact in tlk.load_facts("factlm") if fact.relation == "P36"][:2]
CASES = [case for case in tlk.load_edit_cases("factlm") if case.fact.relation == "P36"][:6]  # a paired test needs six
INSTRUMENTS = [fact for fact in tlk.load_facts("factlm") if fact.relation == "P1303"][:8]
LAYERS = (FACTLM_LAYER, FACTLM_LAYER + 1)
PATCHER = tlk.editing.TransformerPatcher(corpus="factlm", stored_queries=50, steps=2)
QUIET: dict[str, Any] = {"progress": False}


@cache
def model() -> Any:
    return tlk.load_model("factlm")


@cache
def prompt() -> tlk.Prompt:
    return tlk.Prompt.from_fact(model(), FACTS[0])


@cache
def trace(corrupt: str = "subject") -> tlk.CausalTrace:
    return tlk.trace(model(), prompt(), corrupt=corrupt, component="mlp_out", samples=2, **QUIET)


@cache
def average() -> tlk.TraceAverage:
    return tlk.trace_facts(model(), FACTS, components="mlp_out", samples=2, layers=LAYERS, sever="mlp_out", **QUIET)


@cache
def both_sides() -> tlk.TraceAverage:
    facts = tlk.load_facts("factlm")[:6]
    return tlk.trace_facts(model(), facts, components=("mlp_out", "attn_out"), samples=1, layers=LAYERS, known_only=False, **QUIET)


@cache
def sweep() -> tlk.localised.LayerSweep:
    return tlk.localised.sweep_layers(model(), CASES[:3], lambda layer, _: tlk.FineTune(layer=layer, steps=6), **QUIET)


@cache
def located() -> tlk.neurons.LocatedNeurons:
    return tlk.locate_neurons(model(), FACTS, steps=2, **QUIET)


@cache
def neurons() -> tlk.NeuronSet:
    return tlk.NeuronSet.of(model(), [(FACTLM_LAYER, 3), (4, 1)])


@cache
def edit() -> tlk.Edit:
    return tlk.plan_edit(model(), CASES[0].rewrite, tlk.FineTune(layer=FACTLM_LAYER, steps=2), **QUIET)


@cache
def report(layer: int = FACTLM_LAYER) -> tlk.EditReport:
    return tlk.evaluate(model(), CASES, tlk.FineTune(layer=layer, steps=2), **QUIET)


@cache
def circuit(name: str) -> tlk.circuits.Circuit:
    if name == "trace":
        return tlk.circuits.from_trace(model(), prompt(), trace(), limit=3, **QUIET)
    return tlk.circuits.from_edit(model(), tlk.Prompt.from_fact(model(), CASES[0].rewrite), edit(), limit=3, **QUIET)


@cache
def fact_set_circuit(side: str) -> tlk.circuits.FactSetCircuit:
    return tlk.circuits.from_facts(model(), FACTS, corrupt=side, limit=5, samples=2, **QUIET)


@cache
def tuned_lens() -> tlk.states.TunedLens:
    texts, training = tlk.load_corpus(limit=12), tlk.states.LensSettings(steps=2, batch_size=2, text_tokens=20, validate_every=1)
    return tlk.states.train_tuned_lens(model(), texts[:8], validation=texts[8:], layers=[-1, 4], training=training, **QUIET)


@cache
def pairs() -> list[tlk.datasets.MinimalPair]:
    return tlk.datasets.load_blimp(tlk.datasets.BLIMP_SAMPLE, limit=4)


@cache
def trained(name: str = "mend") -> Any:
    data = tlk.editing.load_training_data("factlm")
    method: Any = tlk.editing.method_class(name).small()
    return method.train(model(), data.cases[:5], data.corpus[:5], validation=data.validation[:2], **QUIET)


@cache
def subspace_pairs() -> tuple[list[tuple[tlk.Fact, tlk.Fact]], ...]:
    return tlk.subspaces.draw_pairs(INSTRUMENTS[:4]), tlk.subspaces.draw_pairs(INSTRUMENTS[4:])


@cache
def subspace() -> tlk.subspaces.Subspace:
    place: dict[str, Any] = {"component": "neuron", "layer": FACTLM_LAYER, "at": "subject", "dims": 2}
    training = tlk.subspaces.SubspaceSettings(steps=2, validate_every=1)
    return tlk.subspaces.learn_subspace(model(), subspace_pairs()[0], validation=subspace_pairs()[1], training=training, **place, **QUIET)


RESULTS: dict[str, Callable[[], Result]] = {
    "CausalTrace": trace,
    "TraceComparison": lambda: tlk.compare(trace(), trace("relation")),
    "TraceAverage": average,
    "SideComparison": lambda: both_sides().compare_sides(),
    "ModuleComparison": lambda: both_sides().compare_modules(),
    "PerturbationTest": lambda: tlk.tracing.perturb_embeddings(model(), FACTS, samples=2, **QUIET),
    "AblationEffects": lambda: tlk.tracing.measure_ablation(model(), [prompt(), prompt_of(1)], heads="all", neurons=neurons(), by="mean", **QUIET),
    "AttentionKnockout": lambda: tlk.measure_attention_knockout(model(), FACTS, **QUIET),
    "AttentionAnalysis": lambda: tlk.analyse_attention(model(), prompt(), samples=2, **QUIET),
    "DirectLogitAttribution": lambda: tlk.direct_logit_attribution(model(), prompt()),
    "RelationMap": lambda: tlk.relations.estimate_relation(model(), INSTRUMENTS[:3], layer=FACTLM_LAYER, **QUIET),
    "RelationMapScores": lambda: tlk.relations.measure_relation_maps(model(), INSTRUMENTS, examples=3, layers=LAYERS, limit=3, **QUIET),
    "RelationVector": lambda: tlk.relations.estimate_relation_vector(model(), INSTRUMENTS[:3], templates="{}", k=3, **QUIET),
    "RelationVectorScores": lambda: tlk.relations.measure_relation_vectors(
        model(), INSTRUMENTS, examples=3, k=3, templates="{} is", limit=3, **QUIET
    ),
    "LogitLens": lambda: tlk.logit_lens(model(), prompt()),
    "DecodedStates": lambda: tlk.states.decode_states(model(), prompt(), layers=[-1, 3], length=2, **QUIET),
    "DecodingScores": lambda: tlk.states.measure_decoding(model(), [prompt(), prompt_of(1)], lenses={"tuned": tuned_lens()}, **QUIET),
    "AffineMaps": lambda: tlk.states.fit_affine_maps(model(), tlk.load_corpus(), layers=[3], tokens=300, **QUIET),
    "TunedLens": tuned_lens,
    "NeuronWords": lambda: tlk.neurons.neuron_words(model(), neurons(), k=3, target=" Paris"),
    "NeuronContexts": lambda: tlk.neurons.neuron_contexts(model(), tlk.load_corpus(limit=20), neurons(), k=3, **QUIET),
    "NeuronAttribution": lambda: tlk.attribute_neurons(model(), prompt(), steps=2, **QUIET),
    "LocatedNeurons": located,
    "LayerComparison": lambda: tlk.neurons.compare_layers({"facts": located(), "again": located()}),
    "NeuronEffects": lambda: tlk.neurons.measure_neuron_effects(model(), mixed_facts(), steps=2, unrelated=1, controls=1, **QUIET),
    "LayerEffects": lambda: tlk.neurons.measure_layer_effects(model(), FACTS, located(), **QUIET),
    "GroupScores": lambda: tlk.neurons.measure_group_scores(model(), FACTS, located(), **QUIET),
    "TokenEffects": lambda: tlk.neurons.measure_token_effects(model(), [prompt(), prompt_of(1)], {"city": ["Paris", "Rome"]}, neurons(), **QUIET),
    "Reliability": lambda: tlk.neurons.measure_reliability(model(), pairs(), agreement(), by=tlk.neurons.determiner, **QUIET),
    "ContextGain": lambda: tlk.neurons.measure_context_gain(model(), FACTS, pool=tlk.load_facts(), **QUIET),
    "KeyMoments": lambda: tlk.collect_key_moments(model(), tlk.load_corpus()[:5], layers=FACTLM_LAYER, **QUIET),
    "Edit": edit,
    "CodebookEdit": lambda: tlk.plan_edit(model(), [case.rewrite for case in CASES[:2]], tlk.editing.GRACE(layer=6, steps=2), **QUIET),
    "NeuronEdit": lambda: tlk.plan_edit(
        model(), CASES[0].rewrite, tlk.editing.TransformerPatcher(corpus="factlm", stored_queries=50, steps=2), **QUIET
    ),
    "TrainedEditor": lambda: trained().trained,
    "TrainingCurve": lambda: trained().trained.curve,
    "ContextEdit": lambda: tlk.plan_edit(model(), CASES[0].rewrite, tlk.editing.IKE(k=0), **QUIET),
    "SeracEdit": lambda: tlk.plan_edit(model(), [case.rewrite for case in CASES[:2]], trained("serac"), **QUIET),
    "EditHealth": lambda: edit().health(model(), tlk.load_corpus()[:3]),
    "EditReport": report,
    "Consequences": lambda: tlk.evaluation.measure_consequences(
        model(), CASES[0], edit(), measures=[tlk.evaluation.subject_facts(tlk.load_facts()), tlk.evaluation.ExtractionAttacks()]
    ),
    "ReportComparison": lambda: report().compare(report(FACTLM_LAYER + 1)),
    "EditGrowth": lambda: tlk.evaluation.measure_growth(model(), CASES[:2], {"FT": tlk.FineTune(layer=FACTLM_LAYER, steps=2)}, [1, 2], **QUIET),
    "ScoreTable": lambda: tlk.score_table(report()),
    "LayerSweep": sweep,
    "LayerCorrelations": lambda: sweep().correlation_by_layer(),
    "TracingGain": lambda: tlk.localised.compare_sweeps(sweep()),
    "CategoryScores": lambda: tlk.evaluation.compare_categories(report(), report(FACTLM_LAYER + 1), names=("first", "second")),
    "LayerRangeScores": lambda: tlk.evaluation.sweep_layer_ranges(
        model(),
        CASES[:2],
        tlk.MEMIT.small(),
        [LAYERS[:1], LAYERS],
        moments=tlk.collect_key_moments(model(), tlk.load_corpus(), layers=LAYERS, **QUIET),
        **QUIET,
    ),
    "RelationSides": lambda: tlk.localised.measure_relation_side(
        model(), CASES[:2], relations=tlk.datasets.load_relations(), methods="ft", templates=("{} to [object] is",), **QUIET
    ),
    "Circuit": lambda: circuit("trace"),
    "CircuitComparison": lambda: tlk.circuits.compare(circuit("trace"), circuit("trace"), names=("one", "other")),
    "FactSetCircuit": lambda: fact_set_circuit("subject"),
    "FactSetComparison": lambda: fact_set_circuit("subject").compare(fact_set_circuit("relation")),
    "Subspace": subspace,
    "SubspaceScores": lambda: subspace().score(model(), subspace_pairs()[1]),
    "IllusionCheck": lambda: subspace().check_illusion(model(), subspace_pairs()[1]),
    "FactReport": lambda: tlk.report_fact(model(), FACTS[0], samples=2, **QUIET),
    "RelationReport": lambda: tlk.report.report_relation(model(), INSTRUMENTS, examples=3, limit=6, samples=1, **QUIET),
    "Reproduction": lambda: tlk.published.reproduce(model(), "meng2022-figure1", **QUIET),
    "ReproductionPlan": lambda: tlk.published.plan_reproduction("meng2022-table4"),
    "Rehearsal": lambda: tlk.published.rehearse("meng2022-figure1", shape="gpt2", layers=1, limit=1, **QUIET),
}


def prompt_of(number: int) -> tlk.Prompt:
    return tlk.Prompt.from_fact(model(), FACTS[number])


def mixed_facts() -> list[tlk.Fact]:
    """Facts of two relations."""
    return FACTS[:1] + [fact for fact in tlk.load_facts("factlm") if fact.relation != "P36"][:1]


@cache
def agreement() -> tlk.neurons.LocatedNeurons:
    return tlk.locate_neurons(model(), tlk.neurons.agreement_groups(model(), pairs(), by=tlk.neurons.determiner), steps=2, **QUIET)


@cache
def result(name: str) -> Result:
    return RESULTS[name]()


def assert_same(one: Any, other: Any, path: str) -> None:
    """Equal to the last bit, dataclasses field by field."""
    assert type(one) is type(other), path
    if isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True, msg=path)
        assert one.dtype == other.dtype, path
    elif isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, other, err_msg=path)
    elif isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(one, other, obj=path)
    elif dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            if field.init and not field.name.startswith("_"):
                assert_same(getattr(one, field.name), getattr(other, field.name), f"{path}.{field.name}")
    elif isinstance(one, Mapping):
        assert list(one) == list(other), path
        for key in one:
            assert_same(one[key], other[key], f"{path}[{key!r}]")
    elif isinstance(one, Sequence) and not isinstance(one, str):
        assert len(one) == len(other), path
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{path}[{number}]")
    else:
        assert one == other or (np.isnan(one) and np.isnan(other)), path


PUBLIC = [public.name for public in public_classes() if issubclass(public.thing, Result) and not inspect.isabstract(public.thing)]


def test_every_result_is_here():
    assert sorted(RESULTS) == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_result_comes_back_from_its_file_as_it_was(name, tmp_path):
    one = result(name)
    path = one.save(tmp_path / "deep" / "result")
    assert path.suffix in (".parquet", ".safetensors") and not list(tmp_path.rglob("*.partial"))
    assert_same(one, type(one).load(path), name)
    assert_same(one, type(one).load(tmp_path / "deep" / "result"), name)
    with pytest.raises(DataError, match=f"as a saved {name}"):
        type(one).load(tmp_path / "nothing")


@pytest.mark.parametrize("name", PUBLIC)
def test_a_result_is_a_table_and_ranks_it(name):
    one = result(name)
    table = one.to_dataframe()
    assert isinstance(table, pd.DataFrame) and len(table) and isinstance(one.summary(), pd.DataFrame) and len(one.summary())
    first = one.top(1)
    assert isinstance(first, pd.DataFrame) and len(first) == 1
    with pytest.raises(ComponentError, match="pass at least 1"):
        one.top(0)
    table.insert(0, "mine", 1)  # a copy
    assert "mine" not in one.to_dataframe()


@pytest.mark.parametrize("name", PUBLIC)
def test_a_result_draws_itself(name):
    figure = result(name).plot()  # pyright: ignore[reportAttributeAccessIssue]
    assert isinstance(figure, go.Figure) and figure.data and figure.layout.title.text


@pytest.mark.parametrize("name", PUBLIC)
def test_a_result_shows_itself_in_a_line_and_in_a_notebook(name):
    one = result(name)
    assert one.headline() and "\n" not in one.headline()
    assert repr(one) == f"<{name}: {one.headline()}>" and len(repr(one)) < 200
    assert "tensor(" not in repr(one) and "array(" not in repr(one)
    page = one._repr_html_()
    assert name in page and "<table" in page and "tensor(" not in page and len(page) < 20_000
