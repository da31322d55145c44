"""Keys, values and states of rows of which many begin alike: as of whole runs, each beginning run once."""

from __future__ import annotations

import pytest
import torch

from tl_knowledge.engine import caches
from tl_knowledge.engine.caches import fill_cache, fill_shared, shared_length
from tl_knowledge.engine.prefix import may_freeze
from tl_knowledge.models.hook_names import block_output


def rows_that_begin_alike():
    draw = torch.Generator().manual_seed(1)
    beginnings = torch.randint(0, 60, (2, 5), generator=draw)
    return torch.cat([beginnings.repeat(4, 1), torch.randint(0, 60, (8, 4), generator=draw)], dim=1)


def test_shared_rows_equal_whole_ones(model, monkeypatch):
    tokens, names = rows_that_begin_alike(), ["blocks.0.hook_resid_pre", block_output(2)]
    assert may_freeze(model, 9, filled=9)
    lengths, record = [], caches.record

    def counted(model, tokens, *arguments, **more):
        lengths.append(tokens.shape)
        return record(model, tokens, *arguments, **more)

    whole, expected = fill_cache(model, tokens, [], 9, names)
    monkeypatch.setattr(caches, "record", counted)
    shared, found = fill_shared(model, tokens, names)
    ours = caches.is_hooked_transformer(model)
    assert lengths == ([(2, 5), (8, 9), (1, 4)] if ours else [(8, 9)])  # the whole rows as far as their embeddings
    for one, other in zip(shared.tensors(), whole.tensors(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    for name in names:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("tokens", "cut"), [(rows_that_begin_alike(), 5), (torch.arange(12).view(3, 4), 0), (torch.ones(1, 5, dtype=torch.long), 0)])
def test_rows_are_cut_where_they_part(tokens, cut):
    assert shared_length(tokens) == cut
