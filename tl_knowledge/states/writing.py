"""Writing states of one run into another: a hook factory for anybody's code, and rows of them for the drivers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float

from tl_knowledge.arrays import HookFn, Hooks, as_positions
from tl_knowledge.door import public
from tl_knowledge.engine.forward import run_model
from tl_knowledge.engine.generation import written_tokens
from tl_knowledge.engine.recording import capture_base
from tl_knowledge.engine.rows import grow_rows, growing_rows_refusal, keep_positions, run_rows
from tl_knowledge.errors import ComponentError
from tl_knowledge.hooks import Positions
from tl_knowledge.hooks.writing import check_not_alone
from tl_knowledge.models.hook_names import EMBEDDINGS, state_hook
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.wording import counted

__all__ = ["States", "StatesIn", "in_chunks", "write_states"]

States = Float[torch.Tensor, "state d_model"]


@public
def write_states(states: torch.Tensor, *, layer: int, positions: Positions) -> Hooks:
    """Write states of any run in place of a layer's output: the patch of a Patchscope (Ghandeharioun et al. 2024, section 3).

    Args:
        states: ``[d_model]`` for all rows of the batch, or ``[batch d_model]``.
        layer: after which block; ``-1`` is what enters block 0.
        positions: where, one or several; negative ones count from the end.

    Returns:
        One hook, on ``hook_resid_post`` (or block 0's ``hook_resid_pre``).

    Raises:
        ComponentError: states of another shape; on running, when they do not fit the model, the batch or the prompt, or at a
            step of ``generate`` with a cache.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> _, cache = model.run_with_cache("The capital of France is")
        >>> state = cache["blocks.2.hook_resid_post"][0, 4]  # after " France"
        >>> hooks = tlk.states.write_states(state, layer=2, positions=-1)
        >>> logits = model.run_with_hooks("The mother tongue of x", fwd_hooks=hooks)
    """
    where = as_positions(positions)
    if states.ndim not in (1, 2) or not states.numel() or not where or layer < EMBEDDINGS:
        raise ComponentError(
            f"states of shape {tuple(states.shape)} cannot be written after layer {layer} at positions {where}; "
            "pass [d_model] or [batch d_model], a layer from -1 (the embeddings) on, and at least one position."
        )
    rows, lengths = states.detach().reshape(-1, states.shape[-1]), list[int]()

    def write(activation: torch.Tensor, *, hook: object) -> torch.Tensor:
        batch, length, width = activation.shape
        if width != rows.shape[1] or len(rows) not in (1, batch) or not all(-length <= position < length for position in where):
            raise ComponentError(
                f"states {list(rows.shape)} do not fit {counted(batch, 'row')} of "
                f"{counted(length, 'position')} and {counted(width, 'number')} at {where}; pass "
                "one state or one a row, and positions inside the prompt (in generate() with a key-value cache every new token runs alone: pass "
                "use_past_kv_cache=False)."
            )
        check_not_alone(activation, where, lengths)
        changed = activation.clone()
        changed[:, list(where)] = rows.to(activation)[:, None]
        return changed

    return [(state_hook(layer), write)]


@dataclass(frozen=True, eq=False)
class StatesIn:
    """States that each take the place of one in a prompt, a row of the batch each.

    Attributes:
        prompt: in which they are decoded.
        position: where they are written.
        by_layer: the states by the layer after which they are written.
    """

    prompt: Prompt
    position: int
    by_layer: Mapping[int, States]

    def next_logits(self, model: HookedModel) -> Float[torch.Tensor, "state d_vocab"]:
        """What follows the prompt in each row, in order of layers: one forward, in which a row is born where its state is written."""
        last = torch.tensor([[len(self.prompt) - 1]], device=self.prompt.tokens.device)
        layers = sorted(self.by_layer)
        if growing_rows_refusal(model):
            number = sum(map(len, self.by_layer.values()))
            with torch.no_grad():
                return run_model(model, self.prompt.batch(number), [*self._writes(0), *keep_positions(last.expand(number, -1))])[:, 0]
        base: list[torch.Tensor] = []
        with torch.no_grad():
            run_model(model, self.prompt.tokens, capture_base(model, base))
        births = {layer: torch.zeros(len(self.by_layer[layer]), dtype=torch.long, device=last.device) for layer in layers}
        return run_rows(model, self.prompt.tokens, grow_rows(base, births) + self._writes(1) + keep_positions(last))[1:, 0]

    def continuations(self, model: HookedModel, more: int, *, cached: bool = True) -> list[list[int]]:
        """So many tokens after the prompt in each row, each the likeliest, in order of layers.

        Args:
            cached: keep keys and values, where the model's cache is exact.
        """
        number = sum(map(len, self.by_layer.values()))
        return written_tokens(model, self.prompt.batch(number), more, hooks=self._writes(0), cached=cached)[:, len(self.prompt) :].tolist()

    def _writes(self, first: int) -> Hooks:
        """Every state into its row, of which the first so many are left alone; a single token that comes after the prompt, too."""
        hooks: Hooks = []
        for layer in sorted(self.by_layer):
            states = self.by_layer[layer]
            hooks.append((state_hook(layer), _write_rows(states, slice(first, first + len(states)), self.position)))
            first += len(states)
        return hooks


def _write_rows(states: States, rows: slice, position: int) -> HookFn:
    ran: list[bool] = []

    def write(activation: torch.Tensor, *, hook: object) -> torch.Tensor | None:
        if ran and activation.shape[1] == 1:  # behind a key-value cache, in which the written state is already
            return None
        ran[:] = [True]
        changed = activation.clone()
        changed[rows, position] = states.to(activation)
        return changed

    return write


def in_chunks(items: Sequence[tuple[int, torch.Tensor]], most: int) -> Iterable[dict[int, States]]:
    """States with the layers after which they are written, so many at a time, by layer."""
    for start in range(0, len(items), most):
        grouped: dict[int, list[torch.Tensor]] = {}
        for layer, state in items[start : start + most]:
            grouped.setdefault(layer, []).append(state)
        yield {layer: torch.stack(states) for layer, states in grouped.items()}
