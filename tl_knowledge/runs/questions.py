"""Facts of a set as prompts and answers, and why some cannot be asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from tl_knowledge.engine.batches import predicted_tokens
from tl_knowledge.errors import InputError
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt, check_fits
from tl_knowledge.runs.arguments import choose_answer
from tl_knowledge.runs.metric_arguments import check_not_among
from tl_knowledge.runs.roles import SIDES

__all__ = ["Question", "ask_facts"]


@dataclass(frozen=True, eq=False)
class Question:
    """A fact that is ready to be asked.

    Attributes:
        index: the fact's place in the set.
        fact: without its paraphrases.
        answer: ``[answer]``: the tokens that are scored.
    """

    index: int
    fact: Fact
    prompt: Prompt
    answer: torch.Tensor


def ask_facts(
    model: HookedModel, facts: Sequence[tuple[int, Fact]], *, multi_token: bool, known_only: bool, against: Sequence[int] = ()
) -> tuple[list[Question], dict[int, str]]:
    """The facts that can be asked, and why the others cannot, by index.

    Args:
        facts: with their places in the set.
        multi_token: score all of the target's tokens.
        known_only: leave out facts whose target is not what the clean run predicts.
        against: tokens that answers are measured against; a fact whose answer is one of them is left out.
    """
    skipped: dict[int, str] = {}
    questions: list[Question] = []
    for index, fact in facts:
        try:
            prompt = Prompt.from_fact(model, fact)
            check_fits(model, prompt)
            for side in SIDES:
                prompt.span(side)
            answer = choose_answer(model, prompt, None, multi_token)
            check_not_among(against, answer.tolist())
        except InputError as error:
            skipped[index] = str(error)
            continue
        questions.append(Question(index, replace(fact, paraphrases=()), prompt, answer))
    if not known_only:
        return questions, skipped
    predicted = predicted_tokens(model, [question.prompt for question in questions])
    wrong = {q.index: token for q, token in zip(questions, predicted, strict=True) if token != q.prompt.target_token}
    skipped |= {index: f"not known: the model predicts {model.tokenizer.decode([token])!r}" for index, token in wrong.items()}
    return [question for question in questions if question.index not in wrong], skipped
