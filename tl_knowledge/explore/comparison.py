"""Before and after, side by side: the same prompts, with nothing changed, and with everything that the tab has changed."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tl_knowledge.arrays import Hooks
from tl_knowledge.editing import PlannedEdit, RereadEdit
from tl_knowledge.errors import InputError
from tl_knowledge.explore.asking import ablating_hooks, plain_prompt, several_tokens
from tl_knowledge.explore.edits import all_applied, edit_hooks
from tl_knowledge.explore.predictions import Prediction, predict_next
from tl_knowledge.explore.state import ExplorerState
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.prompts.targets import target_tokens

__all__ = ["AnswerChange", "Comparison", "answers_of", "compare_one"]


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
        read: what an edit that changes what is read makes of the prompt, in words; empty where there is none.
    """

    text: str
    before: Prediction
    after: Prediction
    answers: tuple[AnswerChange, ...]
    read: str = ""


@contextmanager
def tab_changes(model: HookedModel, state: ExplorerState, edits: Sequence[PlannedEdit]) -> Generator[Hooks]:
    """Everything that a tab has changed, for the length of a ``with``.

    It is hooks of a run: what is suppressed and knocked out first, so that the edits read what is left. An edit that changes what is read is no
    hooks; it is on the model for that long instead, and the edits before it are in the weights.

    Raises:
        ComponentError, InputError: as `ablating_hooks` and `edit_hooks`, or something is switched off beside an edit that changes what is read.
    """
    hooks, reading = ablating_hooks(model, state), _reading_edit(edits)
    if reading is None:
        yield [*hooks, *edit_hooks(edits)]
        return
    if hooks:
        raise InputError(
            f"{reading.method} changes what the model reads, so that other tokens stand where neurons are suppressed or heads knocked out: take off "
            "either what is switched off, or the edit."
        )
    with all_applied(model, edits):
        yield []


def _reading_edit(edits: Sequence[PlannedEdit]) -> RereadEdit | None:
    """The edit that changes what is read; only the last one can be."""
    return next((edit for edit in edits if isinstance(edit, RereadEdit)), None)


def _what_is_read(model: HookedModel, prompt: Prompt, edits: Sequence[PlannedEdit]) -> str:
    edit = _reading_edit(edits)
    if edit is None:
        return ""
    read, text = edit.reads(model, prompt.tokens[0]), edit.text_read(model, prompt)
    if read.model is not model:
        return f"{edit.method} finds this prompt in the edit's scope: its counterfactual model answers, and reads\n{text}"
    if len(read.context) == 0:
        return f"{edit.method} finds this prompt outside the edit's scope: the model itself answers."
    return f"After the edit, {edit.method} has the model read\n{text}"


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


def compare_one(model: HookedModel, text: str, answers: Mapping[str, int], state: ExplorerState, edits: Sequence[PlannedEdit]) -> Comparison:
    """One prompt before and after everything that a tab has changed.

    Args:
        answers: from `answers_of`.
        edits: the tab's, planned.

    Raises:
        ComponentError, InputError: as `tab_changes`.
        PromptError: the prompt does not fit the model.
        NumericalError: logits that are not finite.
    """
    prompt, also = plain_prompt(model, text), tuple(answers.values())
    before = predict_next(model, prompt, [], also=also)
    with tab_changes(model, state, edits) as hooks:
        after = predict_next(model, prompt, hooks, also=also)
    changes = (AnswerChange(name, old, new) for name, old, new in zip(answers, before.also, after.also, strict=True))
    return Comparison(text, before, after, tuple(changes), _what_is_read(model, prompt, edits))
