"""What heads write at the last token of a relation's facts, on average, and which heads' averages make the answer elsewhere (Todd et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float

from tl_knowledge.arrays import HookFn, Hooks
from tl_knowledge.engine.recording import record
from tl_knowledge.errors import UnsupportedModelError
from tl_knowledge.models.head_writes import head_output_weights
from tl_knowledge.models.hook_names import block_input, component_hook
from tl_knowledge.models.protocol import HookedModel, layer_count, model_name
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.relations.states import decode
from tl_knowledge.relations.suffix import Suffix

__all__ = ["MeanHeads", "head_effects", "mean_heads"]


@dataclass(frozen=True, eq=False)
class MeanHeads:
    """Heads' mean activations at the last token of some prompts, and what each writes of it.

    Attributes:
        z: before ``W_O``.
        writes: ``z W_O``.
    """

    z: Float[torch.Tensor, "layer head d_head"]
    writes: Float[torch.Tensor, "layer head d_model"]

    def vector(self, heads: Iterable[tuple[int, int]]) -> Float[torch.Tensor, " d_model"]:
        """What some heads write together."""
        return torch.stack([self.writes[layer, head] for layer, head in heads]).sum(0)


def mean_heads(model: HookedModel, prompts: Sequence[Prompt]) -> MeanHeads:
    """Average the heads over prompts.

    Raises:
        UnsupportedModelError: attention's output is not the sum of what its heads write (a norm lies after it).
    """
    layers = range(layer_count(model))
    names = [component_hook(part, layer) for layer in layers for part in ("head", "attn_out")]
    total: torch.Tensor | None = None
    weights: list[torch.Tensor] = []
    for prompt in prompts:
        recorded = record(model, prompt.tokens, [], names)
        z = [recorded[component_hook("head", layer)][0] for layer in layers]
        at_last = torch.stack([each[prompt.last.last] for each in z])
        total = at_last if total is None else total + at_last
        weights = weights or [_weights(model, layer, z[layer], recorded[component_hook("attn_out", layer)][0]) for layer in layers]
    assert total is not None  # prompts are checked
    mean = total / len(prompts)
    return MeanHeads(mean, torch.stack([torch.einsum("hd,hdm->hm", mean[layer], weights[layer]) for layer in layers]))


def _weights(model: HookedModel, layer: int, z: torch.Tensor, written: torch.Tensor) -> torch.Tensor:
    weights = head_output_weights(model, layer, z, written) if z.ndim == 3 else None
    if weights is None:
        raise UnsupportedModelError(
            f"what attention of layer {layer} of {model_name(model)} writes is not the sum of its heads, so that heads make no vector here."
        )
    return weights


def head_effects(
    model: HookedModel, prompt: Prompt, z: Float[torch.Tensor, "layer head d_head"], answer: int, memory_budget: float
) -> Float[torch.Tensor, "layer head"]:
    """How each head's given activation at the last token changes the answer's probability: its causal indirect effect (Todd et al. 2024, equation 3).

    One row a head, of the last token alone where the tokens before it can be frozen.
    """
    suffix = Suffix.of(model, prompt, "last")
    places = [(layer, head) for layer in range(z.shape[0]) for head in range(z.shape[1])]
    at_once = max(1, suffix.rows_at_once(memory_budget) - 1)
    effects: list[torch.Tensor] = []
    for start in range(0, len(places), at_once):
        some = places[start : start + at_once]
        with torch.no_grad():
            states = suffix.run(_all_rows(suffix, len(some) + 1) + _set_heads(suffix, some, z), rows=len(some) + 1)
        probability = decode(model, states)[:, answer].exp()
        effects.append(probability[1:] - probability[0])
    return torch.cat(effects).unflatten(0, z.shape[:2])


def _all_rows(suffix: Suffix, rows: int) -> Hooks:
    """Copies of the one row that enters, where rows grow."""
    return [(block_input(0), lambda states, *, hook: states.expand(rows, -1, -1).clone())] if suffix.prefix.grows else []


def _set_heads(suffix: Suffix, places: Sequence[tuple[int, int]], z: torch.Tensor) -> Hooks:
    """Give row ``1 + i`` the head of place ``i``."""

    def at(layer: int) -> HookFn:
        own = [(row, head) for row, (where, head) in enumerate(places, start=1) if where == layer]
        rows, heads = (torch.tensor(each) for each in zip(*own, strict=True))

        def put(activation: torch.Tensor, *, hook: object) -> torch.Tensor:
            changed = activation.clone()
            changed[rows, suffix.first_at, heads] = z[layer, heads].to(activation)
            return changed

        return put

    return [(component_hook("head", layer), at(layer)) for layer in sorted({layer for layer, _ in places})]
