"""The fact that a tab's marks make of its prompt."""

from __future__ import annotations

from tl_knowledge.errors import InputError, SubjectNotFoundError
from tl_knowledge.explore.asking import plain_prompt
from tl_knowledge.explore.state import ExplorerState
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.spans import template_of

__all__ = ["fact_marked"]


def fact_marked(model: HookedModel, state: ExplorerState) -> tuple[str, str]:
    """Subject and template.

    Raises:
        SubjectNotFoundError: no subject is marked, or its tokens are no words that stand in the prompt once.
        PromptError: the prompt has ``{}`` of its own.
    """
    if state.subject is None:
        raise SubjectNotFoundError("no subject is marked; click the first and, with Shift, the last token of whom or what the fact is about.")
    prompt = plain_prompt(model, state.prompt)
    subject = _text(model, prompt.tokens[0, slice(*state.subject)].tolist()).strip()
    count = state.prompt.count(subject) if subject else 0
    if count != 1:
        raise SubjectNotFoundError(f"the marked subject {subject!r} stands {count} times in the prompt; mark whole words that stand there once.")
    return subject, template_of(state.prompt, subject)


def _text(model: HookedModel, tokens: list[int]) -> str:
    if model.tokenizer is None:
        raise InputError("the model has no tokenizer, so a fact cannot be read off its tokens; load a model with one.")
    return str(model.tokenizer.decode(tokens))
