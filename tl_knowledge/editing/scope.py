"""Is a prompt in the scope of an edit? Encoders of texts, and how alike two of them are (Mitchell et al. 2022b, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from transformers import AutoModel, AutoTokenizer

from tl_knowledge.errors import InputError
from tl_knowledge.models.protocol import HookedModel, embedding_matrix, model_device

__all__ = ["ScopeEncoder", "make_encoder", "similarities"]

HIDDEN, WIDTH = 256, 64
FROM_TOKENS = "tokens"


@runtime_checkable
class ScopeEncoder(Protocol):
    """A module that turns rows of tokens into vectors."""

    def __call__(self, rows: Sequence[Int[torch.Tensor, " _"]]) -> Float[torch.Tensor, "row size"]:
        """The rows' vectors."""
        ...

    def named_parameters(self) -> Any:
        """What is trained, by name."""
        ...


class _FromTokens(torch.nn.Module):
    """The sum over a text's tokens of what a small network makes of the model's own embedding of each."""

    def __init__(self, embeddings: Float[torch.Tensor, "d_vocab d_model"]) -> None:
        super().__init__()
        self.embeddings = embeddings / embeddings.norm(dim=-1).mean()  # the model's own: no parameter
        size = embeddings.shape[1]
        self.of_token = torch.nn.Sequential(torch.nn.Linear(size, HIDDEN), torch.nn.GELU(), torch.nn.Linear(HIDDEN, WIDTH, bias=False))
        self.to(embeddings)

    def forward(self, rows: Sequence[Int[torch.Tensor, " _"]]) -> Float[torch.Tensor, "row size"]:
        vectors = self.of_token(self.embeddings[torch.cat([*rows])])
        return torch.stack([part.sum(0) for part in vectors.split([len(row) for row in rows])])


class _FromText(torch.nn.Module):
    """The first token's last state in a text encoder of Hugging Face's, which reads as much of a text's beginning as it has positions for."""

    def __init__(self, name: str, tokenizer: Any, device: torch.device) -> None:
        super().__init__()
        try:
            encoder, self.words = AutoModel.from_pretrained(name), AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise InputError(f"there is no text encoder {name!r} ({error}); pass a directory or name, or scope='tokens'.") from error
        self.encoder: Any = encoder.to(device).eval()
        self.tokenizer = tokenizer

    def forward(self, rows: Sequence[Int[torch.Tensor, " _"]]) -> Float[torch.Tensor, "row size"]:
        texts = [self.tokenizer.decode(row.tolist()).strip() for row in rows]
        longest = min(self.words.model_max_length, getattr(self.encoder.config, "max_position_embeddings", self.words.model_max_length))
        read = self.words(texts, return_tensors="pt", padding=True, truncation=True, max_length=longest).to(self.encoder.device)
        return self.encoder(**read).last_hidden_state[:, 0]


def make_encoder(model: HookedModel, scope: str, seed: int) -> ScopeEncoder:
    """A scope encoder before it is trained.

    Args:
        scope: ``"tokens"`` for a small one on the model's own token embeddings, or a text encoder of Hugging Face's.
        seed: of the small one's weights.

    Raises:
        InputError: no such text encoder.
    """
    if scope != FROM_TOKENS:
        return _FromText(scope, model.tokenizer, model_device(model))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _FromTokens(embedding_matrix(model).clone())


def similarities(edits: Float[torch.Tensor, "edit size"], texts: Float[torch.Tensor, "text size"]) -> Float[torch.Tensor, "text edit"]:
    """``exp(-||e_i - e_q||^2)``, between 0 and 1.

    Example:
        >>> similarities(torch.zeros(1, 2), torch.tensor([[0.0, 0.0], [0.0, 1.0]])).round(decimals=3).tolist()
        [[1.0], [0.36800000071525574]]
    """
    return (-((texts[:, None] - edits[None]) ** 2).sum(-1)).exp()
