"""Where states are decoded: the other prompt, the token and the layer, checked and resolved."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float

from tl_knowledge.arrays import Tokens
from tl_knowledge.engine.forward import run_model
from tl_knowledge.engine.recording import record
from tl_knowledge.errors import ComponentError, InputError, PromptError
from tl_knowledge.models.hook_names import state_hook
from tl_knowledge.models.protocol import HookedModel, context_length
from tl_knowledge.prompts.prompt import Prompt, check_fits
from tl_knowledge.runs.lenses import StateLens, carried, check_lens, lens_name, lens_target, state_layers
from tl_knowledge.states.settings import IDENTITY_PROMPT, DecodingSettings
from tl_knowledge.wording import counted

__all__ = ["Target", "clean_run"]


@dataclass(frozen=True)
class Target:
    """Where states go.

    Attributes:
        prompt: the other prompt.
        position: of the token whose state is replaced.
        layer: after which it is; ``None`` is each state's own.
        through: what carries them there.
    """

    prompt: Prompt
    position: int
    layer: int | None
    through: StateLens | None

    @classmethod
    def resolved(cls, model: HookedModel, into: Prompt | str | None, at: str, into_layer: int | None, through: StateLens | None) -> Target:
        """From a driver's arguments.

        Raises:
            PromptError: a prompt that the model cannot read, or without such a span.
            ComponentError: a layer that the model does not have, or that the lens does not carry states to.
            InputError: a text for a model without a tokenizer.
        """
        if not isinstance(into, Prompt):
            if model.tokenizer is None:
                raise InputError("this model has no tokenizer, so it cannot read a text; pass into=Prompt.from_tokens(...).")
            into = Prompt.from_text(model, IDENTITY_PROMPT if into is None else into)
        check_fits(model, into)
        if through is not None:
            check_lens(model, through)
            carried_to = lens_target(model, through)
            if into_layer not in (None, carried_to):
                where = "their own layers" if carried_to is None else f"layer {carried_to}"
                raise ComponentError(
                    f"into_layer={into_layer}, but {type(through).__name__} carries states to {where}; leave into_layer out, or pass another lens."
                )
            into_layer = carried_to
        if into_layer is not None:
            state_layers(model, into_layer)
        return cls(into, into.span(at).last, into_layer, through)

    def layers(self, model: HookedModel, layers: int | Iterable[int] | None) -> tuple[int, ...]:
        """Whose states are decoded: those asked for, which a lens has to take; for ``None`` all that can be.

        Raises:
            ComponentError: one that the model does not have, or that the lens does not take.
        """
        if self.through is None:
            return state_layers(model, layers)
        takes = {*self.through.source_layers, *([] if self.layer is None else [self.layer])}
        asked = state_layers(model, takes if layers is None else layers)
        missing = [layer for layer in asked if layer not in takes]
        if missing:
            raise ComponentError(f"{type(self.through).__name__} takes no states after layer {missing[0]}; it takes {sorted(takes)}.")
        return asked

    def placed(self, states: Float[torch.Tensor, "state d_model"], layer: int) -> tuple[int, Float[torch.Tensor, "state d_model"]]:
        """Where states of a layer are written, and as what."""
        moved = states if self.through is None or layer == self.layer else carried(self.through, states, layer)
        return (layer if self.layer is None else self.layer), moved

    def room_for(self, model: HookedModel, length: int | None) -> None:
        """Refuse to write more than there is room for.

        Raises:
            PromptError: the prompt and what is written are longer than the context.
            InputError: nothing would be written.
        """
        if length is not None and length < 1:
            raise InputError(f"length={length} writes nothing; pass at least 1, or None for what comes next.")
        if len(self.prompt) + (length or 0) > context_length(model):
            raise PromptError(
                f"the target prompt has {counted(len(self.prompt), 'token')} and length={length} more are written, "
                f"but the context is {context_length(model)}; "
                "pass a shorter prompt or length."
            )

    def settings(self, length: int | None) -> DecodingSettings:
        """As values."""
        tokens = tuple(int(token) for token in self.prompt.tokens[0])
        through = "" if self.through is None else lens_name(self.through)
        return DecodingSettings(self.prompt.text or " ".join(self.prompt.labels), tokens, self.position, self.layer, through, length)


def clean_run(
    model: HookedModel, tokens: Tokens, layers: Sequence[int]
) -> tuple[dict[int, Float[torch.Tensor, "batch pos d_model"]], Float[torch.Tensor, "batch pos d_vocab"]]:
    """States of a run by layer, and its logits."""
    states = record(model, tokens, [], map(state_hook, layers))
    with torch.no_grad():
        logits: torch.Tensor = run_model(model, tokens)
    return {layer: states[state_hook(layer)] for layer in layers}, logits
