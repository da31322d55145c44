"""Heads and neurons of fact sets: each fact's trace, averages by hand, a stored run, and figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support import tokenizer_of_sixty_words

import tl_knowledge as tlk
from tl_knowledge.errors import ComponentError

EXACT = 1e-12
FACTS = [tlk.Fact(f"w{i} w{i + 1}", template, f"w{i + 7}", "R") for i, template in ((3, "{} w20 w21"), (9, "w30 {} w31"), (14, "{} w20 w21 w22"))]
GIVEN = {"samples": 2, "known_only": False, "progress": False, "noise": 0.7}


@pytest.fixture
def average(speaking) -> tlk.TraceAverage:
    return tlk.trace_facts(speaking, FACTS, components=("mlp_out", "head", "neuron", "k"), units=[0, 1], **GIVEN)


def test_a_fact_of_a_set_is_its_single_trace(speaking, average):
    for trace in average.traces:
        prompt = tlk.Prompt.from_fact(speaking, trace.fact)
        units = None if trace.component == "mlp_out" else [0, 1]
        given = {"corrupt": trace.corrupt, "component": trace.component, "units": units, "samples": 2, "window": trace.window}
        single = tlk.trace(speaking, prompt, 0.7, seed=tlk.tracing.fact_seed(trace.fact, seed=0), **given)
        np.testing.assert_allclose(trace.effect, single.mean_effect.numpy(), rtol=0, atol=EXACT)
        assert trace.units == single.units and trace.effect.shape == tuple(single.mean_effect.shape)
    assert max(float(np.nanmax(np.abs(trace.effect))) for trace in average.traces if trace.units) > 1e-6


def test_rows_equal_the_loop(speaking, average):
    loop = tlk.trace_facts(speaking, FACTS[:1], components=("mlp_out", "head", "neuron", "k"), units=[0, 1], engine="loop", **GIVEN)
    for one, other in zip(average.traces, loop.traces, strict=False):
        assert (one.index, one.corrupt, one.component) == (other.index, other.corrupt, other.component)
        np.testing.assert_allclose(one.effect, other.effect, rtol=0, atol=EXACT)


def test_averages_are_those_by_hand(speaking, average):
    """For one role the mean over facts, layer by layer and unit by unit; neurons at the last corrupted token alone."""
    frame = average.to_dataframe()
    for component in ("head", "neuron", "k"):
        for side in ("subject", "relation"):
            last = [(t.subject_positions if side == "subject" else t.relation_positions)[-1] for t in average.of(side, component)]
            effects = [trace.effect[:, pos] for trace, pos in zip(average.of(side, component), last, strict=True)]
            rows = frame.query(f"component == '{component}' and corrupt == '{side}' and role == 'last {side} token'")
            for layer in range(4):
                for unit in range(2):
                    row = rows.query("layer == @layer and unit == @unit")
                    assert len(row) == 1
                    assert row["effect"].item() == pytest.approx(np.mean([effect[layer, unit] for effect in effects]), abs=EXACT)
    assert frame.loc[frame["component"] == "mlp_out", "unit"].isna().all()
    of_neurons = frame.query("component == 'neuron' and corrupt == 'subject'")
    assert set(of_neurons["role"]) <= {"first subject token", "last subject token", "subject tokens"}
    assert average.components == ("mlp_out",) and average.unit_components == ("head", "neuron", "k")


@pytest.fixture
def small(gpt2):
    before = gpt2.tokenizer
    gpt2.tokenizer = tokenizer_of_sixty_words()
    yield gpt2
    gpt2.tokenizer = before


def test_a_store_comes_back(small, tmp_path):
    given = {"components": ("head", "resid_pre"), **GIVEN}
    whole = tlk.trace_facts(small, FACTS, **given)
    stored = tlk.trace_facts(small, FACTS, store=tmp_path / "run", facts_per_part=2, **given)
    again = tlk.trace_facts(small, FACTS, store=tmp_path / "run", facts_per_part=2, **given)
    for one, other, third in zip(whole.traces, stored.traces, again.traces, strict=True):
        assert one.units == other.units == third.units == (tuple(range(4)) if one.component == "head" else ())
        np.testing.assert_allclose(one.effect, other.effect, rtol=0, atol=EXACT)
        np.testing.assert_array_equal(other.effect, third.effect)
    with pytest.raises(tlk.errors.DataError):
        tlk.trace_facts(small, FACTS, store=tmp_path / "run", facts_per_part=2, units=[0], **given)


def test_figures_and_tables(small):
    average = tlk.trace_facts(small, FACTS, components=("head", "neuron"), **GIVEN)
    figure = average.plot()
    assert len(figure.data) == 4 and figure.data[0].z.shape == (4, 4)
    np.testing.assert_allclose(figure.data[0].z, average.effects_at("last corrupted token", "subject", "head").mean(0).T)
    bars = average.plot_units("neuron")
    assert len(bars.data[0].x) == 25 and "neuron" in bars.layout.yaxis.ticktext[0]
    assert average.top(3)["unit"].notna().all() and "head" in average.headline()
    assert "Restoring one head" in average.to_html()
    assert any("neuron" in row[3] for row in tlk.tracing.peak_table(average).rows)
    with pytest.raises(ComponentError, match="only head, neuron was traced; trace a state or module"):
        average.compare_sides()
    with pytest.raises(ComponentError, match="no trace of the units of q is here, but of 'head', 'neuron'"):
        average.plot_units("q")


def test_the_sites_of_fact_sets(small):
    """States one layer at a time whatever the window; and what severing leaves of a state, by where it is read."""
    average = tlk.trace_facts(small, FACTS, components=("resid_pre", "mlp_in"), sever=("pattern", "v"), window=2, **GIVEN)
    assert {trace.component: trace.window for trace in average.traces} == {"resid_pre": 1, "mlp_in": 2, "resid_post": 1}
    assert {trace.severed for trace in average.traces} == {(), ("pattern",), ("v",)}
    assert all(
        torch.isfinite(torch.tensor(trace.effect[:, trace.subject_positions[-1]])).all() for trace in average.traces if trace.corrupt == "subject"
    )


def test_a_page_names_what_was_severed(small):
    average = tlk.trace_facts(small, FACTS, components="resid_post", sever=("pattern", "v"), **GIVEN)
    page = " ".join(average.to_html().split())
    assert "while the attention patterns of all heads or, as another line, the values of all heads at that token stay as" in page
    assert "outputs of all MLPs" not in page
