"""Neurons that never fire, as most are in the narrow first layers of FactLM: they take no part in an edit, and stop none."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import tl_knowledge as tlk
from tl_knowledge.editing.optimise.linear_system import solved
from tl_knowledge.errors import InputError, NumericalError

pytestmark = pytest.mark.touches_model
FREE = tlk.editing.ValueSettings(clamp=4.0)
METHODS = [tlk.ROME(layer=0), tlk.MEMIT(layers=(0,), moment_weight=1.0, value=FREE), tlk.EMMET(layer=0, value=FREE)]


@pytest.fixture(scope="module")
def narrow():
    return tlk.load_model("factlm-llama", dtype=torch.float64)


@pytest.fixture(scope="module")
def moments(narrow):
    return tlk.collect_key_moments(narrow, tlk.load_corpus(limit=100), layers=[0], progress=False)


def test_directions_are_the_pseudoinverses(moments):
    fires = moments.of_layer(0).diagonal() != 0
    assert 0 < int(fires.sum()) < len(fires) / 2
    keys = torch.randn(3, len(fires), generator=torch.Generator().manual_seed(0), dtype=torch.float64) * fires
    slow = keys @ torch.linalg.pinv(moments.of_layer(0), hermitian=True, rtol=1e-14)
    torch.testing.assert_close(moments.solve(0, keys), slow, rtol=1e-6, atol=1e-6 * float(slow.abs().max()))
    assert not moments.solve(0, keys)[:, ~fires].any()


def test_the_table_counts_those_that_fire(moments):
    row = moments.to_dataframe().iloc[0]
    assert row["firing"] == int((moments.of_layer(0).diagonal() != 0).sum()) < row["neurons"] == 344
    assert 1 < row["condition"] < float("inf")


def test_a_neuron_that_fires_for_the_fact_alone_is_named(moments):
    silent = int((moments.of_layer(0).diagonal() == 0).nonzero()[0])
    key = torch.zeros(1, len(moments.of_layer(0)), dtype=torch.float64)
    key[0, silent] = 0.5
    with pytest.raises(NumericalError, match=rf"neuron {silent} of layer 0 fires for a fact, but for none of the moments' .* tokens; collect more"):
        moments.solve(0, key)
    with pytest.raises(NumericalError, match="layer 0 have values that are not finite"):  # not a number is not silence
        replace(moments, moments={0: torch.full_like(moments.of_layer(0), torch.nan)}).solve(0, torch.ones_like(key))


def test_keys_of_another_size_are_refused(moments):
    for ask in (moments.firing, moments.solve):
        with pytest.raises(InputError, match="the keys have 10 neurons, layer 0 344; pass keys of this model and layer"):
            ask(0, torch.ones(1, 10, dtype=torch.float64))


def test_unknowns_that_take_no_part_are_zero():
    """The caller says which: a fact whose equation is empty is no neuron that never fires."""
    matrix = torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 4.0]], dtype=torch.float64)
    right, part = torch.tensor([[3.0], [0.0], [5.0]], dtype=torch.float64), torch.tensor([True, False, True])
    torch.testing.assert_close(solved(matrix, right, "the keys", among=part), torch.tensor([[1.0], [0.0], [1.0]], dtype=torch.float64))
    with pytest.raises(NumericalError, match="the keys give a singular system of 3 equations"):
        solved(matrix, right, "the keys")


@pytest.mark.parametrize(
    "method", [tlk.ROME(layer=0), tlk.MEMIT(layers=(0,), moment_weight=1.0), tlk.EMMET(layer=0)], ids=lambda method: type(method).__name__
)
def test_no_edit_goes_into_a_neuron_that_only_the_fact_makes_fire(narrow, moments, method):
    """Otherwise all of it would go there: no other text seems to need that neuron."""
    hidden = moments.of_layer(0).clone()
    firing = int((hidden.diagonal() != 0).nonzero()[0])
    hidden[firing] = hidden[:, firing] = 0.0
    case = tlk.load_edit_cases()[0]
    with pytest.raises(NumericalError, match=rf"neuron {firing} of layer 0 fires for a fact, but for none of the moments'"):
        tlk.plan_edit(narrow, case.rewrite, method, moments=replace(moments, moments={0: hidden}), progress=False)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_a_narrow_layer_can_be_written_to(narrow, moments, method):
    case = tlk.load_edit_cases()[0]
    edit = tlk.plan_edit(narrow, case.rewrite, method, moments=moments, progress=False)
    change, fires = edit.factors[0].dense, moments.of_layer(0).diagonal() != 0
    assert float(change.norm()) > 0.01 and not change[~fires].any()
    prompt = tlk.Prompt.from_fact(narrow, case.rewrite)
    with torch.no_grad(), edit.applied(narrow):
        edited = narrow(prompt.tokens)[0, -1].softmax(-1)[prompt.target_token]
    assert float(edited) > 0.3
