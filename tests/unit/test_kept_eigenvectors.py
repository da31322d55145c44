"""Eigenvectors of key moments are computed once, kept within bounds, and never those of other moments."""

from __future__ import annotations

import pytest
import torch

import tl_knowledge as tlk
from tl_knowledge.runs import key_moments


@pytest.fixture
def counted(monkeypatch) -> list[int]:
    calls: list[int] = []
    real = torch.linalg.eigh

    def eigh(matrix):
        calls.append(len(matrix))
        return real(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", eigh)
    return calls


@pytest.fixture
def moments(factlm) -> tlk.KeyMoments:
    return tlk.collect_key_moments(factlm, tlk.load_corpus()[:8], layers=[2, 3, 4], progress=False)


def test_once_a_layer(moments, counted):
    first, again = moments.eigenvectors(3), moments.eigenvectors(3)
    assert len(counted) == 1
    assert all(one is other for one, other in zip(first, again, strict=True))
    torch.testing.assert_close(first[1] * first[0] @ first[1].T, moments.of_layer(3))
    moments.eigenvectors(4)
    assert len(counted) == 2


def test_moments_that_were_changed_have_others(moments, counted):
    before = moments.eigenvectors(2)[0].clone()
    moments.of_layer(2).mul_(2)
    torch.testing.assert_close(moments.eigenvectors(2)[0], 2 * before)
    assert len(counted) == 2


def test_no_more_is_kept_than_fits(moments, counted, monkeypatch):
    monkeypatch.setattr(key_moments, "MOST_KEPT", moments.of_layer(2).nbytes)
    for layer in (2, 3, 3, 2):
        moments.eigenvectors(layer)
    assert len(counted) == 3  # layer 3 took the place of layer 2
    monkeypatch.setattr(key_moments, "MOST_KEPT", 0)
    values, _ = moments.eigenvectors(4)
    torch.testing.assert_close(values, torch.linalg.eigvalsh(moments.of_layer(4)))
