"""A trace's arguments, checked and resolved before anything runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Int

from tl_knowledge.arrays import as_positions
from tl_knowledge.door import shown
from tl_knowledge.engine.batches import predicted_tokens
from tl_knowledge.errors import ComponentError, CorruptionError, PromptError, check_choice
from tl_knowledge.models.hook_names import COMPONENTS, Component, has_units
from tl_knowledge.models.protocol import HookedModel, model_device
from tl_knowledge.prompts.prompt import Prompt, check_fits
from tl_knowledge.prompts.spans import Span
from tl_knowledge.prompts.targets import target_tokens, warn_of_missing_space
from tl_knowledge.runs.corruption import GaussianNoise, Noise, PromptSwap
from tl_knowledge.runs.windows import TraceVariant, unit_count
from tl_knowledge.wording import counted

__all__ = [
    "Engine",
    "answer_label",
    "check_words",
    "choose_answer",
    "corrupted_span",
    "drawn_noise",
    "resolve_noise",
    "sample_count",
    "traced_positions",
    "traced_units",
]

Engine: TypeAlias = Literal["rows", "loop", "screen"]


def check_words(component: str, engine: str, variant: str) -> None:
    """Refuse words that are not in the vocabulary of `trace`."""
    check_choice("component", component, COMPONENTS, ComponentError)
    check_choice("engine", engine, Engine, ComponentError)
    check_choice("variant", variant, TraceVariant, ComponentError)


def corrupted_span(prompt: Prompt, corrupt: str | Span | int | Iterable[int]) -> Span:
    """The span to corrupt, from its name, itself, or positions."""
    if isinstance(corrupt, str):
        return prompt.span(corrupt)
    span = corrupt if isinstance(corrupt, Span) else Span("positions", as_positions(corrupt))
    if span.first < 0 or span.last >= len(prompt):
        raise PromptError(
            f"span {span.positions} does not lie in the prompt of {counted(len(prompt), 'token')}; pass positions from 0 to {len(prompt) - 1}."
        )
    return span


def drawn_noise(noise: Noise | float | str | None, default: Noise | None = None) -> Noise:
    """Corruption settings that can be drawn for any prompt, from settings, a standard deviation, or a rule.

    Args:
        default: what ``None`` stands for; ``"3sd"`` unless given.

    Raises:
        CorruptionError: something else, for example a `PromptSwap`, which belongs to one prompt.

    Example:
        >>> drawn_noise(0.4) == GaussianNoise(sd=0.4)
        True
    """
    if noise is None:
        return default or GaussianNoise(sd="3sd")
    if isinstance(noise, float | int | str):
        return GaussianNoise(sd=noise)
    if isinstance(noise, PromptSwap):
        raise CorruptionError("a PromptSwap belongs to one prompt; pass noise that can be drawn for every fact, or trace() each by itself.")
    if not isinstance(noise, Noise):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise CorruptionError(f"noise {shown(noise)} is not understood; pass settings such as GaussianNoise(0.1), a number, or '3sd'.")
    return noise


def resolve_noise(
    model: HookedModel, prompt: Prompt, noise: Noise | PromptSwap | float | str | None, seed: int, variant: TraceVariant
) -> Noise | PromptSwap:
    """Corruption settings with every scale a number and their seed set.

    Args:
        seed: of noise that has none of its own.

    Raises:
        CorruptionError: noise that cannot be drawn, a seed of its own and another one, or a swapped prompt of another length.
    """
    if isinstance(noise, PromptSwap):
        if len(noise.prompt) != len(prompt):
            raise CorruptionError(
                f"the other prompt has {counted(len(noise.prompt), 'token')}, this one {len(prompt)}; pass a prompt of equal length."
            )
        return noise.resolve(model)
    settings = drawn_noise(noise)
    if variant == "meng2022_code":
        settings = replace(settings, variant=variant)
    return settings.seeded(seed).resolve(model)


def choose_answer(model: HookedModel, prompt: Prompt, target: str | int | None, multi_token: bool) -> Int[torch.Tensor, " answer"]:
    """The answer's tokens: the target's, else the prompt's, else what the clean run predicts."""
    if isinstance(target, str):
        warn_of_missing_space(model, prompt.text, target)
        answer = target_tokens(model, target)
    else:
        answer = (target,) if target is not None else prompt.answer or tuple(predicted_tokens(model, [prompt]))
    check_fits(model, replace(prompt, answer=answer), multi_token=multi_token)
    return torch.tensor(answer if multi_token else answer[:1], device=model_device(model))


def sample_count(samples: int, noise: Noise | PromptSwap) -> int:
    """How many noise samples: as asked, but one where nothing is drawn."""
    if samples < 1:
        raise CorruptionError(f"samples={samples} draws no noise; pass at least 1 (10 is usual).")
    return 1 if isinstance(noise, PromptSwap) else samples


def traced_positions(prompt: Prompt, span: Span, component: Component, positions: int | Span | Iterable[int] | None) -> tuple[int, ...]:
    """The positions to restore, ascending."""
    if positions is None:
        return (span.last,) if component == "neuron" else tuple(range(len(prompt)))
    restored = tuple(sorted(set(as_positions(positions))))
    if not restored or restored[0] < 0 or restored[-1] >= len(prompt):
        raise ComponentError(
            f"positions {restored} do not lie in the prompt of {counted(len(prompt), 'token')}; pass positions from 0 to {len(prompt) - 1}."
        )
    return restored


def traced_units(model: HookedModel, component: Component, units: int | Iterable[int] | None) -> tuple[int, ...]:
    """The heads or neurons to restore; ``(0,)`` for components without units."""
    count = unit_count(model, component)
    if units is None:
        return tuple(range(count))
    if not has_units(component):
        raise ComponentError(f"component {component!r} has no units, but units={units} was given; use 'head' or 'neuron', or drop units=.")
    numbers = as_positions(units)
    outside = [unit for unit in numbers if not 0 <= unit < count]
    if outside or not numbers:
        raise ComponentError(f"{component} {outside or 'list'} is outside the model; pass numbers from 0 to {count - 1}.")
    return numbers


def answer_label(model: HookedModel, prompt: Prompt, answer: torch.Tensor) -> str:
    """The scored answer as text."""
    if prompt.target and tuple(answer.tolist()) == prompt.answer:
        return prompt.target
    decode: Any = getattr(model.tokenizer, "decode", None)
    return str(decode(answer.tolist())) if decode else " ".join(map(str, answer.tolist()))
