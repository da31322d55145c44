"""Role averages and their intervals against Meng et al.'s notebook, on FactLM.

``role_averages.json`` holds what github.com/kmeng01/rome gives (MIT): scores of experiments/causal_trace.py, averaged by ``read_knowlege`` of
notebooks/average_causal_effects.ipynb. Both were typed again as a script that uses torch hooks on the Hugging Face model and nothing of this
package's tracing; the file's ``how`` has the settings. The notebook's ``count`` is what an earlier cell left behind; here it is the number of
facts that were read.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.first_factlm import load_first_factlm

import tl_knowledge as tlk

GOLDEN = json.loads((Path(__file__).parent / "role_averages.json").read_text(encoding="utf-8"))
KINDS = {"resid_post": "hidden", "mlp_out": "mlp"}


@pytest.fixture(scope="module")
def average():
    model = load_first_factlm(dtype=torch.float64, prepend_bos=False)
    facts = [fact for fact in tlk.load_facts("factlm") if fact.text in GOLDEN["facts"]]
    kinds = tuple(KINDS)
    return tlk.trace_facts(model, facts, 0.1, corrupt="subject", components=kinds, window=2, samples=3, variant="meng2022_code", progress=False)


@pytest.mark.parametrize("component", KINDS)
def test_role_averages_are_the_notebooks(average, component):
    frame = average.to_dataframe("meng2022_code")
    assert set(frame["facts"]) <= set(range(1, 1 + len(GOLDEN["facts"]))) and len(average.facts) == len(GOLDEN["facts"])
    for role, numbers in GOLDEN[KINDS[component]].items():
        rows = frame[(frame["component"] == component) & (frame["role"] == role)].sort_values("layer")
        np.testing.assert_allclose(rows["effect"], numbers["effect"], rtol=0, atol=1e-11)
        np.testing.assert_allclose((rows["high"] - rows["low"]) / 2, numbers["half"], rtol=0, atol=1e-11)


def test_pooled_roles_and_halves_are_where_the_default_differs(average):
    """Roles of one token a fact have the same mean either way; pooled ones and all halves do not."""
    ours, program = average.to_dataframe(), average.to_dataframe("meng2022_code")
    one = ours["role"].isin(["first subject token", "last subject token", "last token"])
    np.testing.assert_allclose(ours[one]["effect"], program[one]["effect"], rtol=0, atol=1e-13)
    assert (ours[ours["role"] == "middle subject tokens"]["effect"] - program[ours["role"] == "middle subject tokens"]["effect"]).abs().max() > 0.01
