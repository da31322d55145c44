"""A trace's arguments, checked and made definite before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias, get_args

import torch
from jaxtyping import Int

from tl_knowledge.arrays import as_positions
from tl_knowledge.errors import ComponentError, CorruptionError, NumericalError, PromptError
from tl_knowledge.models.hook_names import COMPONENTS, Component, has_units
from tl_knowledge.models.protocol import HookedModel, model_device
from tl_knowledge.prompts.prompt import Prompt, check_fits, target_tokens
from tl_knowledge.prompts.spans import Span
from tl_knowledge.runs.corruption import GaussianNoise, Noise, PromptSwap
from tl_knowledge.runs.windows import TraceVariant, unit_count

__all__ = [
    "Engine",
    "answer_label",
    "check_words",
    "choose_answer",
    "corrupted_span",
    "resolve_noise",
    "sample_count",
    "traced_positions",
    "traced_units",
]

Engine: TypeAlias = Literal["rows", "loop", "screen"]


def check_words(component: str, engine: str, variant: str) -> None:
    """Refuse words that are not in the vocabulary of `trace`."""
    if component not in COMPONENTS:
        raise ComponentError(f"component {component!r} is unknown; pass one of {', '.join(map(repr, COMPONENTS))}.")
    if engine not in get_args(Engine):
        raise ComponentError(f"engine {engine!r} is unknown; pass 'rows', 'loop' or 'screen'.")
    if variant not in ("ours", "meng2022_code"):
        raise ComponentError(f"variant {variant!r} is unknown; pass 'paper' or 'rome_code'.")


def corrupted_span(prompt: Prompt, corrupt: str | Span | Iterable[int]) -> Span:
    """The span to corrupt, from its name, itself, or positions."""
    if isinstance(corrupt, str):
        return prompt.span(corrupt)
    span = corrupt if isinstance(corrupt, Span) else Span("positions", as_positions(corrupt))
    if span.first < 0 or span.last >= len(prompt):
        raise PromptError(f"span {span.positions} does not lie in the prompt of {len(prompt)} tokens; pass positions from 0 to {len(prompt) - 1}.")
    return span


def resolve_noise(
    model: HookedModel, prompt: Prompt, noise: Noise | PromptSwap | float | str | None, seed: int | None, variant: TraceVariant
) -> Noise | PromptSwap:
    """Corruption settings with every scale a number, seeded as asked."""
    if isinstance(noise, PromptSwap):
        if len(noise.prompt) != len(prompt):
            raise CorruptionError(f"the other prompt has {len(noise.prompt)} tokens, this one {len(prompt)}; pass a prompt of equal length.")
        return noise.resolve(model)
    settings = noise if isinstance(noise, Noise) else GaussianNoise(sd="3sd" if noise is None else noise)
    if variant == "meng2022_code":
        settings = replace(settings, variant="meng2022_code", seed=1 if seed is None else seed)
    elif seed is not None:
        settings = settings.with_seed(seed)
    return settings.resolve(model)


def choose_answer(model: HookedModel, prompt: Prompt, target: str | int | None, multi_token: bool) -> Int[torch.Tensor, " answer"]:
    """The answer's tokens: the target's, else the prompt's, else what the clean run predicts."""
    if isinstance(target, str):
        answer = target_tokens(model, target)
    else:
        answer = (target,) if target is not None else prompt.answer or (_predicted(model, prompt),)
    check_fits(model, replace(prompt, answer=answer), multi_token=multi_token)
    return torch.tensor(answer if multi_token else answer[:1], device=model_device(model))


def _predicted(model: HookedModel, prompt: Prompt) -> int:
    with torch.no_grad():
        logits: torch.Tensor = model(prompt.tokens)
    if not bool(logits[0, -1].isfinite().all()):
        raise NumericalError("the clean run's logits are not finite; check the weights for NaN, or load the model in float32.")
    return int(logits[0, -1].argmax())


def sample_count(samples: int | None, noise: Noise | PromptSwap) -> int:
    """How many noise samples."""
    if samples is None:
        return 1 if isinstance(noise, PromptSwap) else 10
    if samples < 1:
        raise CorruptionError(f"samples={samples} draws no noise; pass at least 1 (10 is usual).")
    return samples


def traced_positions(prompt: Prompt, span: Span, component: Component, positions: Span | Iterable[int] | None) -> tuple[int, ...]:
    """The positions to restore, ascending."""
    if positions is None:
        return (span.last,) if component == "neuron" else tuple(range(len(prompt)))
    chosen = tuple(sorted(set(as_positions(positions))))
    if not chosen or chosen[0] < 0 or chosen[-1] >= len(prompt):
        raise ComponentError(f"positions {chosen} do not lie in the prompt of {len(prompt)} tokens; pass positions from 0 to {len(prompt) - 1}.")
    return chosen


def traced_units(model: HookedModel, component: Component, units: Sequence[int] | None) -> tuple[int, ...]:
    """The heads or neurons to restore; ``(0,)`` for components without units."""
    count = unit_count(model, component)
    if units is None:
        return tuple(range(count))
    if not has_units(component):
        raise ComponentError(f"component {component!r} has no units, but units={list(units)} was given; use 'head' or 'neuron', or drop units=.")
    outside = [unit for unit in units if not 0 <= unit < count]
    if outside or not units:
        raise ComponentError(f"{component} {outside or 'list'} is outside the model; pass numbers from 0 to {count - 1}.")
    return tuple(units)


def answer_label(model: HookedModel, prompt: Prompt, answer: torch.Tensor) -> str:
    """The scored answer as text."""
    if prompt.target and tuple(answer.tolist()) == prompt.answer:
        return prompt.target
    decode: Any = getattr(model.tokenizer, "decode", None)
    return str(decode(answer.tolist())) if decode else " ".join(map(str, answer.tolist()))
