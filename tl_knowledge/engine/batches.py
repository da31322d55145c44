"""Many prompts a forward, without padding: prompts of one length go together.

Padding would change what a masked model reads, and what ``pos=-1`` means in anybody's hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from more_itertools import chunked, map_reduce

from tl_knowledge.arrays import Hooks
from tl_knowledge.engine.reading import logits_at, logits_of_texts
from tl_knowledge.errors import NumericalError
from tl_knowledge.metrics import answer_probability, widened
from tl_knowledge.models.checks import check_reads_on
from tl_knowledge.models.protocol import HookedModel, answered_from
from tl_knowledge.prompts.prompt import Prompt

__all__ = [
    "PROMPTS_AT_ONCE",
    "HooksAt",
    "answer_logits",
    "answer_probabilities",
    "check_finite",
    "equal_groups",
    "in_words",
    "likeliest_next",
    "no_hooks",
    "perplexity",
    "predicted_tokens",
    "text_log_probabilities",
]

HooksAt: TypeAlias = Callable[[int], Hooks]
"""Hooks for prompts by position, such as ``lambda pos: neurons.suppress(positions=pos)``."""

PROMPTS_AT_ONCE = 64
SHOWN = 3  # continuations, in tables


def equal_groups(keys: Sequence[Hashable], most: int = PROMPTS_AT_ONCE) -> Iterator[list[int]]:
    """Indices of equal keys together, at most so many, in order of first appearance.

    Example:
        >>> list(equal_groups([7, 5, 7, 7], most=2))
        [[0, 2], [3], [1]]
    """
    for group in map_reduce(range(len(keys)), keys.__getitem__).values():
        yield from chunked(group, most)


def no_hooks(_: int) -> Hooks:
    """The clean run."""
    return []


def answer_logits(
    model: HookedModel, prompts: Sequence[Prompt], hooks_at: HooksAt = no_hooks, *, at: str = "last", bar: Any = None
) -> Iterator[tuple[list[int], Float[torch.Tensor, "prompt d_vocab"]]]:
    """Logits where each prompt is answered, a group at a time: the prompts' indices and their rows.

    Args:
        hooks_at: hooks to run under; they are given the last position of the span ``at``.
        at: the span; ``"last"`` is the position that predicts the answer.
        bar: a progress bar to move on by every prompt.
    """
    for group in equal_groups([(len(each), each.last.last, each.span(at).last, answered_from(model, each.tokens)) for each in prompts]):
        position = prompts[group[0]].last.last
        hooks = hooks_at(prompts[group[0]].span(at).last)
        tokens = torch.cat([prompts[i].tokens for i in group])
        yield group, logits_at(model, tokens, range(position, position + 1), hooks)[:, 0]
        if bar is not None:
            bar.update(len(group))


def answer_probabilities(
    model: HookedModel, prompts: Sequence[Prompt], hooks_at: HooksAt = no_hooks, *, at: str = "last", bar: Any = None
) -> Float[torch.Tensor, " prompt"]:
    """Probability of each prompt's first target token.

    Raises:
        TargetError: a prompt without a target.
    """
    probability = torch.zeros(len(prompts), dtype=torch.float64)
    for group, logits in answer_logits(model, prompts, hooks_at, at=at, bar=bar):
        answers = torch.tensor([[prompts[i].target_token] for i in group], device=logits.device)
        probability[group] = answer_probability(logits[:, None], answers).double().cpu()
    return probability


def predicted_tokens(model: HookedModel, prompts: Sequence[Prompt], hooks_at: HooksAt = no_hooks, *, bar: Any = None) -> list[int]:
    """The most probable token where each prompt is answered.

    Raises:
        NumericalError: logits that are not finite.
    """
    tokens: dict[int, int] = {}
    for group, logits in answer_logits(model, prompts, hooks_at, bar=bar):
        check_finite(logits)
        tokens |= dict(zip(group, logits.argmax(-1).tolist(), strict=True))
    return [tokens[i] for i in range(len(prompts))]


def check_finite(logits: Float[torch.Tensor, "..."]) -> None:
    """Refuse logits that say nothing.

    Raises:
        NumericalError: one of them is not finite.
    """
    if not bool(logits.isfinite().all()):
        raise NumericalError("the logits are not finite; check the weights for NaN, or load the model in float32.")


def text_log_probabilities(model: HookedModel, prompts: Sequence[Prompt], hooks: Hooks) -> Float[torch.Tensor, " prompt"]:
    """Log probability of each whole prompt: of every token after the first, given those before it.

    Raises:
        UnsupportedModelError: a model that does not read a text from left to right.
    """
    check_reads_on(model)
    log_probability = torch.zeros(len(prompts), dtype=torch.float64)
    for group in equal_groups([len(prompt) for prompt in prompts]):
        tokens = torch.cat([prompts[i].tokens for i in group])
        logits = logits_of_texts(model, tokens, hooks)
        each = widened(logits[:, :-1]).log_softmax(-1).gather(-1, tokens[:, 1:, None])
        log_probability[group] = each.double().sum((1, 2)).cpu()
    return log_probability


def perplexity(model: HookedModel, prompts: Sequence[Prompt], hooks: Hooks) -> float:
    """``exp`` of the mean negative log probability per token, over all tokens but each text's first."""
    tokens = sum(len(prompt) - 1 for prompt in prompts)
    return float((-text_log_probabilities(model, prompts, hooks).sum() / tokens).exp())


def likeliest_next(model: HookedModel, prompt: Prompt, hooks: Hooks) -> tuple[tuple[str, float], ...]:
    """The likeliest tokens where the prompt is answered, with their probabilities, under some hooks."""
    last = prompt.last.last
    best = widened(logits_at(model, prompt.tokens, range(last, last + 1), hooks)[0, 0]).softmax(-1).topk(SHOWN)
    return tuple((str(model.tokenizer.decode([token])), value) for token, value in zip(best.indices.tolist(), best.values.tolist(), strict=True))


def in_words(tokens: Sequence[tuple[str, float]]) -> str:
    """Tokens with their probabilities, for a table.

    Example:
        >>> in_words([(" Paris", 0.9), (" Rome", 0.05)])
        'Paris 90%, Rome 5%'
    """
    return ", ".join(f"{token.strip()} {value:.0%}" for token, value in tokens)
