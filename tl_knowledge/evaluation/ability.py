"""What an edit does to the model in general: grammar, ordinary text, and what it says after prompts that have nothing to do with the edit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float

from tl_knowledge.door import public
from tl_knowledge.engine.batches import answer_logits, perplexity, text_log_probabilities
from tl_knowledge.errors import InputError
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import EditCase, MinimalPair
from tl_knowledge.prompts.prompt import Prompt, check_fits

__all__ = ["AbilityReading", "GeneralAbility"]


@dataclass(frozen=True)
class AbilityReading:
    """A model's general ability.

    Attributes:
        right: whether each pair's good sentence is the likelier.
        perplexity: of the texts; NaN without any.
        next_token: log-probabilities after each prompt.
    """

    right: tuple[bool, ...]
    perplexity: float
    next_token: Float[torch.Tensor, "prompt d_vocab"]


@public
@dataclass(frozen=True)
class GeneralAbility:
    """``blimp``, ``perplexity``, ``perplexity_rise`` and ``next_token_KL``: what is left of the model itself.

    - ``blimp``: the share of minimal pairs whose good sentence is the likelier as a whole (Warstadt et al. 2020), in percent.
    - ``perplexity``: of ordinary texts, per token after each text's first (BOS, if the model has one); ``perplexity_rise``: in percent of the
      unedited model's.
    - ``next_token_KL``: the mean over prompts of ``KL(unedited || edited)`` of the next token's distribution, in hundredths of a nat.

    They are the same of every case, so they are read once an edit. A score whose texts are not given is NaN.

    Attributes:
        pairs: for example ``load_blimp(BLIMP_SAMPLE)``.
        corpus: ordinary texts, for example ``load_corpus(limit=20)``.
        prompts: beginnings that have nothing to do with the edits.

    Raises:
        InputError: nothing to read.

    Example:
        >>> import tl_knowledge as tlk
        >>> model, case = tlk.load_model("factlm"), tlk.load_edit_cases()[0]
        >>> measure = tlk.evaluation.GeneralAbility(corpus=tuple(tlk.load_corpus(limit=3)), prompts=("The child near the houses",))
        >>> read = measure.read(model, case)
        >>> measure.scores(read, read)["perplexity_rise"], measure.scores(read, read)["next_token_KL"]
        (0.0, 0.0)
    """

    same_of_every_case: ClassVar[bool] = True
    name: ClassVar[str] = "general_ability"
    pairs: Sequence[MinimalPair] = ()
    corpus: Sequence[str] = ()
    prompts: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not (self.pairs or self.corpus or self.prompts):
            raise InputError("there is nothing to read; pass pairs=, corpus= or prompts=.")

    def read(self, model: HookedModel, case: EditCase) -> AbilityReading:
        """The model's ability now, whatever the case.

        Raises:
            PromptError: a text that does not fit the model's context.
        """
        good, bad, texts, prompts = (
            [_fitting(model, text) for text in some]
            for some in ([pair.good for pair in self.pairs], [pair.bad for pair in self.pairs], self.corpus, self.prompts)
        )
        likelier = text_log_probabilities(model, good, []) > text_log_probabilities(model, bad, [])
        rows = {
            i: row for group, logits in answer_logits(model, prompts) for i, row in zip(group, logits.double().log_softmax(-1).cpu(), strict=True)
        }
        next_token = torch.stack([rows[i] for i in range(len(prompts))]) if prompts else torch.zeros(0, 0, dtype=torch.float64)
        return AbilityReading(tuple(likelier.tolist()), perplexity(model, texts, []) if texts else float("nan"), next_token)

    def scores(self, before: AbilityReading, after: AbilityReading) -> dict[str, float]:
        """All four."""
        drift = (before.next_token.exp() * (before.next_token - after.next_token)).sum(-1)
        return {
            "blimp": 100 * float(np.mean(after.right)) if after.right else float("nan"),
            "perplexity": after.perplexity,
            "perplexity_rise": 100 * (after.perplexity / before.perplexity - 1),
            "next_token_KL": 100 * float(drift.mean()),
        }


def _fitting(model: HookedModel, text: str) -> Prompt:
    prompt = Prompt.from_text(model, text)
    check_fits(model, prompt)
    return prompt
