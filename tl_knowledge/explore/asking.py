"""What a tab asks of the model, as the package's own nouns: its prompt, its answer, its trace's arguments, its hooks."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

from tl_knowledge.arrays import Hooks
from tl_knowledge.errors import InputError, MissingSpaceWarning, PromptError, SubjectNotFoundError
from tl_knowledge.explore.state import ExplorerState
from tl_knowledge.hooks import ablate
from tl_knowledge.models.checks import check_layers
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.prompts.spans import Span
from tl_knowledge.prompts.targets import target_tokens
from tl_knowledge.runs.windows import unit_count

__all__ = ["ablating_hooks", "corrupted_side", "plain_prompt", "several_tokens", "space_hint", "target_hint", "traced_prompt", "traced_with"]


def plain_prompt(model: HookedModel, text: str, target: str | None = None) -> Prompt:
    """A prompt without spans.

    Raises:
        PromptError: nothing to read, or more than the model's context.
        TargetError: a target of no tokens.
    """
    if not text.strip():
        raise PromptError("the prompt is empty; type the beginning of a sentence, such as 'The capital of France is'.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MissingSpaceWarning)  # the page says it beside the target: `target_hint`
        return Prompt.from_text(model, text, target=target)


def target_hint(model: HookedModel, text: str, target: str) -> str:
    """What somebody should know of a target before they read its number; empty where there is nothing.

    Raises:
        TargetError: it has no tokens.
    """
    return space_hint(model, text, target) or several_tokens(model, target)


def space_hint(model: HookedModel, text: str, target: str) -> str:
    """That a target lacks the space before it; empty where it does not."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        Prompt.from_text(model, text, target=target)
    return next((str(each.message) for each in said if issubclass(each.category, MissingSpaceWarning)), "")


def several_tokens(model: HookedModel, target: str) -> str:
    """That only the first of a target's tokens is scored; empty where there is one.

    Raises:
        TargetError: there is none.
    """
    tokens = target_tokens(model, target)
    first = str(model.tokenizer.decode([tokens[0]]))
    return f"{target!r} has {len(tokens)} tokens; what is measured is the first of them, {first!r}." if len(tokens) > 1 else ""


def traced_prompt(model: HookedModel, state: ExplorerState) -> Prompt:
    """The prompt with the spans that were marked.

    Raises:
        SubjectNotFoundError: marks outside the prompt, on BOS, or on each other.
        PromptError, TargetError: as `plain_prompt`.
    """
    prompt = plain_prompt(model, state.prompt, state.target)
    for name, span in (("subject", state.subject), ("relation", state.relation)):
        if span is not None:
            _check_marks(prompt, name, range(*span))
    if state.subject is not None:
        prompt = prompt._with_subject(range(*state.subject))
    if state.relation is not None:
        marked = tuple(range(*state.relation))
        both = set(marked) & set(prompt.spans.get("subject", ()))
        if both:
            raise SubjectNotFoundError(f"token {min(both)} is marked as subject and as relation; unmark one.")
        prompt = replace(prompt, spans={**prompt.spans, "relation": Span("relation", marked)})
    return prompt


def _check_marks(prompt: Prompt, name: str, marked: range) -> None:
    if marked.stop > len(prompt):
        raise SubjectNotFoundError(
            f"the {name} is marked up to token {marked.stop - 1}, but the prompt has tokens 0 to {len(prompt) - 1}; mark it again."
        )
    if prompt.has_bos and marked.start == 0:
        raise SubjectNotFoundError(f"the {name} is marked from token 0, which is BOS and belongs to no span; mark it from token 1 or later.")


def corrupted_side(prompt: Prompt, state: ExplorerState) -> Span:
    """The span that is corrupted.

    Raises:
        PromptError: nothing was marked that it could be.
    """
    if state.corrupt not in prompt.spans:
        other = "" if state.corrupt == "subject" else ", or its subject: then the relation is every other token"
        raise PromptError(
            f"no {state.corrupt} is marked, so there is nothing to corrupt; click the first and the last token of the {state.corrupt}{other}."
        )
    return prompt.span(state.corrupt)


def traced_with(prompt: Prompt, state: ExplorerState) -> dict[str, Any]:
    """The arguments that all traces of a tab share.

    Raises:
        PromptError: as `corrupted_side`.
    """
    return {
        "corrupt": corrupted_side(prompt, state),
        "samples": state.samples,
        "seed": state.seed,
        "metric": state.metric,
        "progress": False,
    }


def ablating_hooks(model: HookedModel, state: ExplorerState) -> Hooks:
    """Hooks that keep the suppressed neurons and the heads that are knocked out from writing anything, at every position.

    Raises:
        ComponentError, InputError: a layer, neuron or head that the model does not have.
    """
    chosen = {"neuron": state.suppressed, "head": state.knocked_out}
    for unit, pairs in chosen.items():
        check_layers(model, tuple(dict.fromkeys(layer for layer, _ in pairs)) or (0,))
        count = unit_count(model, "neuron" if unit == "neuron" else "head")
        outside = [pair for pair in pairs if pair[1] >= count]
        if outside:
            raise InputError(f"{unit} {outside[0][1]} of layer {outside[0][0]} is outside the model; pass numbers from 0 to {count - 1}.")
    if not any(chosen.values()):
        return []
    return ablate(heads=state.knocked_out or None, neurons=state.suppressed or None)
