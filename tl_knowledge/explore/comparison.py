"""Before and after, side by side: the same prompts, with nothing changed, and with everything that the tab has changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tl_knowledge.arrays import Hooks
from tl_knowledge.editing import PlannedEdit
from tl_knowledge.explore.asking import ablating_hooks, plain_prompt
from tl_knowledge.explore.edits import edit_hooks
from tl_knowledge.explore.predictions import Prediction, predict_next
from tl_knowledge.explore.state import ExplorerState
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.prompt import target_tokens

__all__ = ["AnswerChange", "Comparison", "answers_of", "compare_one", "tab_hooks"]


@dataclass(frozen=True)
class AnswerChange:
    """One answer's probability (of its first token) before and after."""

    answer: str
    before: float
    after: float


@dataclass(frozen=True)
class Comparison:
    """One prompt before and after.

    Attributes:
        text: the prompt.
        before, after: what the model says.
        answers: the tab's target, and the new object of each edit.
    """

    text: str
    before: Prediction
    after: Prediction
    answers: tuple[AnswerChange, ...]


def tab_hooks(model: HookedModel, state: ExplorerState, edits: Iterable[PlannedEdit]) -> Hooks:
    """Everything that a tab has changed, together: what is suppressed and knocked out first, so that the edits read what is left.

    Raises:
        ComponentError, InputError: as `ablating_hooks` and `edit_hooks`.
    """
    return [*ablating_hooks(model, state), *edit_hooks(edits)]


def answers_of(model: HookedModel, state: ExplorerState) -> dict[str, int]:
    """The answers whose probabilities are compared: the tab's target, or what the model says as it is, and each edit's new object; first tokens.

    Raises:
        PromptError, TargetError: a prompt or an answer that does not fit the model.
    """
    main = predict_next(model, plain_prompt(model, state.prompt, state.target), [])
    return {main.target: main.target_token} | {edit.target_new: target_tokens(model, edit.target_new)[0] for edit in state.edits}


def compare_one(model: HookedModel, text: str, answers: Mapping[str, int], hooks: Hooks) -> Comparison:
    """One prompt before and after some hooks.

    Raises:
        PromptError: it does not fit the model.
        NumericalError: logits that are not finite.
    """
    prompt = plain_prompt(model, text)
    before, after = (predict_next(model, prompt, own, also=tuple(answers.values())) for own in ([], hooks))
    changes = (AnswerChange(name, old, new) for name, old, new in zip(answers, before.also, after.also, strict=True))
    return Comparison(text, before, after, tuple(changes))
