"""Answers of several tokens as EleutherAI's program reads them: after each token the model's own prediction is appended, right or not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float

from tl_knowledge.engine.batches import HooksAt, answer_logits, no_hooks
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.prompts.spans import Span

__all__ = ["appended", "own_continuations"]


def own_continuations(
    model: HookedModel, prompts: Sequence[Prompt], hooks_at: HooksAt = no_hooks, *, at: str = "last"
) -> tuple[list[tuple[int, ...]], Float[torch.Tensor, " prompt"]]:
    """The model's own tokens, as many as each prompt's target has, and the product of the target's tokens' probabilities before each of them.

    Args:
        hooks_at: hooks to run under, at the last position of the span ``at``; ``"last"`` moves on with every appended token.
    """
    now = list(prompts)
    continuations: list[tuple[int, ...]] = [()] * len(prompts)
    probability = torch.ones(len(prompts), dtype=torch.float64)
    for k in range(max(len(prompt.answer) for prompt in prompts)):
        rows = [i for i, prompt in enumerate(prompts) if k < len(prompt.answer)]
        for group, logits in answer_logits(model, [now[i] for i in rows], hooks_at, at=at):
            for j, each in zip(group, logits.double().softmax(-1).cpu(), strict=True):
                i = rows[j]
                probability[i] *= each[prompts[i].answer[k]]
                continuations[i] += (int(each.argmax()),)
        longer = [i for i in rows if k + 1 < len(prompts[i].answer)]
        for i in longer:
            now[i] = appended(now[i], continuations[i][-1:])
    return continuations, probability


def appended(prompt: Prompt, tokens: Iterable[int]) -> Prompt:
    """The prompt with tokens after its end, where it is answered."""
    more = tuple(tokens)
    ids = torch.cat([prompt.tokens, torch.tensor([more], dtype=prompt.tokens.dtype, device=prompt.tokens.device)], dim=1)
    spans = {**prompt.spans, "last": Span("last", (ids.shape[1] - 1,))}
    return replace(prompt, tokens=ids, labels=(*prompt.labels, *map(str, more)), spans=spans)
