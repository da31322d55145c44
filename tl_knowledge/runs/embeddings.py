"""What tokens are as they enter the model: where a corruption's noise is added, and what its scale is measured against."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float

from tl_knowledge.engine.proof import same
from tl_knowledge.engine.recording import record
from tl_knowledge.models.hook_names import EMBED
from tl_knowledge.models.protocol import HookedModel, embedding_matrix

__all__ = ["entering_embeddings"]

TOKENS_AT_ONCE = 4096

_as_held: WeakKeyDictionary[object, bool] = WeakKeyDictionary()


def entering_embeddings(model: HookedModel) -> Float[torch.Tensor, "d_vocab d_model"]:
    """Every vocabulary entry as ``hook_embed`` shows it, where noise is added.

    That is ``W_E`` in most models. Some scale it (Gemma: by ``sqrt(d_model)``) or normalise it (BLOOM): there, ``W_E`` has another spread than
    what the noise is added to. A few tokens tell, once a model.
    """
    matrix = embedding_matrix(model)
    if EMBED not in model.hook_dict:
        return matrix
    if model not in _as_held:
        few = torch.linspace(0, len(matrix) - 1, min(16, len(matrix)), device=matrix.device).long()
        _as_held[model] = same(_shown(model, few), matrix[few])
    if _as_held[model]:
        return matrix
    return torch.cat([_shown(model, tokens) for tokens in torch.arange(len(matrix), device=matrix.device).split(TOKENS_AT_ONCE)])


def _shown(model: HookedModel, tokens: torch.Tensor) -> Float[torch.Tensor, "token d_model"]:
    """One token a row."""
    return record(model, tokens[:, None], [], [EMBED])[EMBED][:, 0]
