"""Metrics that a caller brings along: functions with parameters of their own, metrics of other models, names of functions."""

from __future__ import annotations

import torch

from tl_knowledge.runs.metric import Metric
from tl_knowledge.runs.scoring import row_scores


def test_a_log_probability_of_halves_is_in_single_precision():
    logits, answer = torch.tensor([[[1.0, 3.0, 2.0]]]), torch.tensor([[2]])
    found = row_scores(Metric("log_probability"), logits.bfloat16(), answer)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, logits[:, 0].log_softmax(-1)[:, 2], rtol=0, atol=0)
    for kind in ("probability", "log_probability"):
        assert row_scores(Metric(kind), logits, answer).dtype == torch.float32
