"""Objects' embeddings, which neuron edits add to and take from ``W_out`` (Dai et al. 2022, section 5; Wen and Bai, section 3.4)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float

from tl_knowledge.engine.batches import predicted_tokens
from tl_knowledge.models.protocol import HookedModel, embedding_matrix
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt, check_fits
from tl_knowledge.prompts.targets import target_tokens

__all__ = ["NeuronEditVariant", "ObjectEmbeddings", "object_embeddings"]

NeuronEditVariant: TypeAlias = Literal["ours", "wen_bai", "dai2022", "eleutherai2022", "meng2022_code"]
"""How much of the old object's embedding is taken away, and of the new one's added; and which object is the old one:

============== ==== ==== ============================== ====================================================
variant        old  new  in units of                    the old object is
============== ==== ==== ============================== ====================================================
ours           1    8    1                              what the fact replaces, else the model's prediction
wen_bai        1    8    1                              the same
dai2022        1    8    ``||W_out[i]|| / ||E||``       the same (their program edits only facts where both agree)
eleutherai2022 2    2    1                              the model's prediction
meng2022_code  2    1    1, and all of its tokens       the model's prediction
============== ==== ==== ============================== ====================================================

``wen_bai`` is the formula of Wen and Bai's text. ``meng2022_code`` is the KN baseline in the program of Meng et al. (2022), which made the KN row of
Wen and Bai's table too: it reads both objects without the space before them, and adds the embeddings of all of the new one's tokens.
Beyond this the variants differ where `KnowledgeNeuronEdit` and `CausalNeuronEdit` say so.
"""

_WEIGHTS: dict[str, tuple[float, float]] = {
    "ours": (1.0, 8.0),
    "wen_bai": (1.0, 8.0),
    "dai2022": (1.0, 8.0),
    "eleutherai2022": (2.0, 2.0),
    "meng2022_code": (2.0, 1.0),
}


@dataclass(frozen=True, eq=False)
class ObjectEmbeddings:
    """The old and the new object's embedding: of their first tokens (under ``meng2022_code`` the sum over all of the new one's).

    Attributes:
        old_token: the old object's first token.
        attributed: the tokens whose knowledge neurons are edited.
    """

    old: Float[torch.Tensor, " d_model"]
    new: Float[torch.Tensor, " d_model"]
    old_token: int
    attributed: tuple[int, ...]

    def shift(self, rows: Float[torch.Tensor, "neuron d_model"], variant: NeuronEditVariant) -> Float[torch.Tensor, "neuron d_model"]:
        """What is added to each row: ``-lambda_1 E[old] + lambda_2 E[new]``."""
        less, more = _WEIGHTS[variant]
        lengths = rows.norm(dim=-1, keepdim=True) if variant == "dai2022" else torch.ones(len(rows), 1, dtype=rows.dtype, device=rows.device)
        old, new = (e / e.norm() if variant == "dai2022" else e for e in (self.old.to(rows), self.new.to(rows)))
        return lengths * (more * new - less * old)


def object_embeddings(model: HookedModel, fact: Fact, variant: NeuronEditVariant) -> ObjectEmbeddings:
    """The embeddings of the old object, and of the fact's target.

    Raises:
        TargetError: an old object of several tokens, for a masked model.
    """
    prompt, embeddings = Prompt.from_fact(model, fact), embedding_matrix(model)
    if fact.replaces is not None and variant not in ("eleutherai2022", "meng2022_code"):
        replaced = replace(prompt, answer=target_tokens(model, fact.replaces), target=fact.replaces)
        check_fits(model, replaced)
        old = replaced.target_token
    else:
        (old,) = predicted_tokens(model, [prompt])
    if variant != "meng2022_code":
        return ObjectEmbeddings(embeddings[old], embeddings[prompt.target_token], old, (old,))
    new = embeddings[list(target_tokens(model, fact.target.strip()))].sum(0)
    attributed = (old,) if fact.replaces is None else target_tokens(model, fact.replaces.strip())
    return ObjectEmbeddings(embeddings[old], new, old, attributed)
