"""What the model says next, as it is or under hooks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float

from tl_knowledge.arrays import Hooks
from tl_knowledge.engine.reading import logits_at
from tl_knowledge.errors import NumericalError
from tl_knowledge.metrics import widened
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.prompt import Prompt

__all__ = ["Prediction", "TopToken", "predict_next"]

SHOWN = 10


@dataclass(frozen=True)
class TopToken:
    """A likely next token: its text, its number, its probability."""

    text: str
    token: int
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What follows a prompt.

    Attributes:
        text: the prompt.
        labels: its tokens as text, BOS first where the model has it.
        has_bos: whether the first token is BOS.
        top: the likeliest next tokens, the first first.
        target: the answer that is looked for: the one that was given, or the likeliest token.
        target_token: its first token.
        given: whether it was given.
        probability, rank: of that token; rank 0 is the prediction.
        hint: what is likely to be wrong with the target; empty where nothing is.
        also: probabilities of the other tokens that were asked for.
    """

    text: str
    labels: tuple[str, ...]
    has_bos: bool
    top: tuple[TopToken, ...]
    target: str
    target_token: int
    given: bool
    probability: float
    rank: int
    hint: str = ""
    also: tuple[float, ...] = ()


def predict_next(model: HookedModel, prompt: Prompt, hooks: Hooks, *, also: Sequence[int] = (), hint: str = "") -> Prediction:
    """The likeliest next tokens of a prompt under some hooks, and where its answer stands: its target, or the likeliest token.

    Args:
        also: other tokens, whose probabilities are wanted.

    Raises:
        NumericalError: logits that are not finite.
    """
    probability = next_probabilities(model, prompt, hooks)
    best = probability.topk(min(SHOWN, len(probability))).indices.tolist()
    token = prompt.target_token if prompt.answer else best[0]
    return Prediction(
        text=prompt.text,
        labels=prompt.labels,
        has_bos=prompt.has_bos,
        top=tuple(TopToken(said(model, each), each, float(probability[each])) for each in best),
        target=prompt.target if prompt.answer else said(model, token),
        target_token=token,
        given=bool(prompt.answer),
        probability=float(probability[token]),
        rank=int((probability > probability[token]).sum()),
        hint=hint,
        also=tuple(float(probability[each]) for each in also),
    )


def next_probabilities(model: HookedModel, prompt: Prompt, hooks: Hooks) -> Float[torch.Tensor, " d_vocab"]:
    """Probabilities of every token where the prompt is answered, in single precision at least.

    Raises:
        NumericalError: logits that are not finite.
    """
    last = prompt.last.last
    logits = logits_at(model, prompt.tokens, range(last, last + 1), hooks)[0, 0]
    if not bool(logits.isfinite().all()):
        raise NumericalError("the logits are not finite; check the weights for NaN, or undo the last edit.")
    return widened(logits).softmax(-1)


def said(model: HookedModel, token: int) -> str:
    """A token as text; its number for a model without a tokenizer."""
    return str(model.tokenizer.decode([token])) if model.tokenizer else str(token)
