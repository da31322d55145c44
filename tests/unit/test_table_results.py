"""Results that are one table save, load and rank alike."""

from __future__ import annotations

import pandas as pd
import pytest

import tl_knowledge as tlk
from tl_knowledge.errors import ComponentError, DataError
from tl_knowledge.results.provenance import Provenance

MADE = Provenance("m", "b", {}, False, "float32", "cpu", 0, "e", {"steps": 3})
ROME = tlk.evaluation.EvaluationSettings("ROME", {"layer": 3, "contexts": [[5, 10]]}, measures=("GE",))
NEURONS = tlk.NeuronSet(frozenset({(0, 3), (2, 1)}), n_layers=4, d_mlp=8)
LOCATION = tlk.neurons.LocationSettings(threshold=0.3)
RESULTS = {
    "Reliability": tlk.neurons.Reliability(
        pd.DataFrame({"paradigm": ["a", "b"], "before": [0.5, -2.0], "after": [0.1, None], "control": [0.4, -1.0]}), 0.0, LOCATION, MADE
    ),
    "ContextGain": tlk.neurons.ContextGain(pd.DataFrame({"relation": [None, "P36"], "alone": [0.1, 0.1], "in_context": [0.2, 0.9]}), 4, ". ", MADE),
    "TokenEffects": tlk.neurons.TokenEffects(
        pd.DataFrame({"category": ["n", "n"], "word": ["x", "y"], "effect": [0.1, -0.7], "corrected": [0.2, 0.01]}), NEURONS, 2.0, 5, "ours", MADE
    ),
    "NeuronEffects": tlk.neurons.NeuronEffects(
        pd.DataFrame({"own": [-0.3, 0.2], "control": [0.0, 0.1], "unrelated": [0.0, 0.1], "neurons": [1, 0]}), 0.0, LOCATION, MADE
    ),
    "PerturbationTest": tlk.tracing.PerturbationTest(pd.DataFrame({"drop": [0.1, 0.4]}), tlk.GaussianNoise(0.3), 10, 0, "ours", MADE),
    "LayerSweep": tlk.localised.LayerSweep(
        pd.DataFrame({"case_id": ["1", "1"], "layer": [0, 1], "score": [0.1, 0.9], "tracing_effect": [0.0, 1.0]}),
        {"2": "why"},
        tlk.localised.SweepSettings("ROME", "fact_erasure", (0, 1), tlk.GaussianNoise(0.3)),
        MADE,
    ),
    "EditReport": tlk.EditReport(pd.DataFrame({"case_id": ["0", "1"], "EM": [3.0, 50.0], "base_EM": [1.0, 2.0]}), ROME, MADE),
    "ReportComparison": tlk.evaluation.ReportComparison(
        pd.DataFrame({"metric": ["ES", "PS"], "difference": [1.0, -2.0], "low": [0.5, -3.0], "high": [2.0, -1.0], "p": [0.2, 0.01]}),
        ROME,
        tlk.evaluation.EvaluationSettings("MEMIT", {}, "batch", 20),
        20,
        MADE,
    ),
    "EditGrowth": tlk.evaluation.EditGrowth(
        pd.DataFrame({"method": ["a", "a"], "edits": [1, 2], "score": ["ES", "ES"], "mean": [3.0, 50.0]}), {"a": ROME}, MADE
    ),
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_table_comes_back_as_it_was(name, tmp_path):
    result = RESULTS[name]
    again = type(result).load(result.save(tmp_path / "result"))
    pd.testing.assert_frame_equal(again.table, result.table, check_dtype=False)
    for field in result.__dataclass_fields__:
        assert field == "table" or getattr(again, field) == getattr(result, field)
    assert repr(again) == repr(result) and repr(result).startswith(f"<{name}: ")
    top = result.top(1)
    assert len(top) == 1 and top.iloc[0][result.ranked_by] == result.table[result.ranked_by].iloc[1 - (name == "NeuronEffects")]
    result.to_dataframe().insert(0, "mine", 1)  # a copy
    assert "mine" not in result.table
    with pytest.raises(ComponentError, match="pass at least 1"):
        result.top(0)
    with pytest.raises(DataError, match=f"as a saved {name}"):
        type(result).load(tmp_path / "nothing")
