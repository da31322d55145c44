"""Before and after, side by side: the same prompts, with nothing changed, and with everything that the tab has changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tl_knowledge.arrays import Hooks
from tl_knowledge.editing import PlannedEdit
from tl_knowledge.explore.asking import ablating_hooks, plain_prompt, several_tokens
from tl_knowledge.explore.edits import edit_hooks
from tl_knowledge.explore.predictions import Prediction, predict_next
from tl_knowledge.explore.state import ExplorerState
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.targets import target_tokens

__all__ = ["AnswerChange", "Comparison", "answers_of", "compare_one", "tab_hooks"]


@dataclass(frozen=True)
class AnswerChange:
    """One answer's probability before and after; of an answer of several tokens, which says so, its first token's."""

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
    """The first tokens of the answers that are compared, by what these are called: the tab's target, or the model's own, and each edit's new object.

    Raises:
        PromptError, TargetError: a prompt or an answer that does not fit the model.
    """
    main = predict_next(model, plain_prompt(model, state.prompt, state.target), [])
    own = {} if state.target else {main.target: main.target_token}
    given = [*([state.target] if state.target else []), *(edit.target_new for edit in state.edits)]
    return own | {_called(model, target): target_tokens(model, target)[0] for target in given}


def _called(model: HookedModel, target: str) -> str:
    return f"{target} (first token)" if several_tokens(model, target) else target


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
