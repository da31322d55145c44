"""Objects' embeddings, which neuron edits add to and take from ``W_out`` (Dai et al. 2022, section 5; paper 000, section 3.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from jaxtyping import Float

from tl_knowledge.errors import InputError
from tl_knowledge.models.protocol import HookedModel, embedding_matrix
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt, target_tokens

__all__ = ["NeuronEditVariant", "ObjectEmbeddings", "check_variant", "object_embeddings"]

NeuronEditVariant: TypeAlias = Literal["dai2022", "wen_bai", "eleutherai2022"]
"""How much of the old object's embedding is taken away, and of the new one's added:

========= ====== ===========================================
preset    old    new
========= ====== ===========================================
dai       1      8, both times ``||W_out[i]|| / ||embedding||``
paper_000 1      8
eleuther  2      2
========= ====== ===========================================
"""

_WEIGHTS: dict[str, tuple[float, float]] = {"dai2022": (1.0, 8.0), "wen_bai": (1.0, 8.0), "eleutherai2022": (2.0, 2.0)}


@dataclass(frozen=True, eq=False)
class ObjectEmbeddings:
    """The old and the new object's embedding: of their first tokens.

    Attributes:
        old_token: what the fact replaces, else what the model says now.
    """

    old: Float[torch.Tensor, " d_model"]
    new: Float[torch.Tensor, " d_model"]
    old_token: int

    def shift(self, rows: Float[torch.Tensor, "neuron d_model"], variant: NeuronEditVariant) -> Float[torch.Tensor, "neuron d_model"]:
        """What is added to each row: ``-lambda_1 E[old] + lambda_2 E[new]``."""
        less, more = _WEIGHTS[variant]
        lengths = rows.norm(dim=-1, keepdim=True) if variant == "dai2022" else torch.ones(len(rows), 1, dtype=rows.dtype, device=rows.device)
        old, new = (e / e.norm() if variant == "dai2022" else e for e in (self.old.to(rows), self.new.to(rows)))
        return lengths * (more * new - less * old)


def object_embeddings(model: HookedModel, fact: Fact) -> ObjectEmbeddings:
    """The embeddings of what a fact's target replaces, and of the target."""
    prompt, embeddings = Prompt.from_fact(model, fact), embedding_matrix(model)
    if fact.replaces is not None:
        old = target_tokens(model, fact.replaces)[0]
    else:
        with torch.no_grad():
            old = int(model(prompt.tokens)[0, -1].argmax())
    return ObjectEmbeddings(embeddings[old], embeddings[prompt.target_token], old)


def check_variant(variant: str) -> None:
    """Refuse an unknown preset.

    Raises:
        InputError: it is unknown.
    """
    if variant not in get_args(NeuronEditVariant):
        raise InputError(f"variant {variant!r} is unknown; pass one of {', '.join(map(repr, get_args(NeuronEditVariant)))}.")
