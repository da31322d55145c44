"""A model to first order: how the last token's final state changes with the subject's state, at all layers at once.

The Jacobian's rows are rows of a batch. Row ``r`` is the same prompt again; the gradient of its final state's element ``j`` in the states that
left each block at the subject's last token is row ``j`` of every layer's Jacobian, from one backward::

    row 0   s_0 ──▶ s_1 ──▶ ... ──▶ o       d o[0] / d s_0, d o[0] / d s_1, ...
    row 1   s_0 ──▶ s_1 ──▶ ... ──▶ o       d o[1] / d s_0, d o[1] / d s_1, ...
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float

from tl_knowledge.arrays import HookFn, Hooks
from tl_knowledge.errors import NumericalError
from tl_knowledge.models.hook_names import block_output
from tl_knowledge.models.protocol import HookedModel, model_name
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.relations.suffix import Suffix

__all__ = ["FirstOrder", "first_order"]


@dataclass(frozen=True, eq=False)
class FirstOrder:
    """``o ~ J (s' - s) + o`` around one prompt, at some layers.

    Attributes:
        jacobians: ``d o / d s``, at each layer.
        subject: ``s``: what left each block at the subject's last token.
        object: ``o``: what left the last block at the token that predicts the answer.
    """

    jacobians: Float[torch.Tensor, "layer d_model d_model"]
    subject: Float[torch.Tensor, "layer d_model"]
    object: Float[torch.Tensor, " d_model"]


def first_order(model: HookedModel, prompt: Prompt, layers: Sequence[int], memory_budget: float) -> FirstOrder:
    """The Jacobian of the object's state in the subject's, at some layers, a chunk of its rows at a time.

    Raises:
        NumericalError: a Jacobian that is not finite.
    """
    suffix, width = Suffix.of(model, prompt), int(model.cfg.d_model)
    at_once = min(width, suffix.rows_at_once(memory_budget, keeps_graph=True))
    parts: list[torch.Tensor] = []
    subject = final = torch.empty(0)
    for start in range(0, width, at_once):
        rows = min(at_once, width - start)
        cut = dict[int, torch.Tensor]()
        with torch.enable_grad():
            out = suffix.run(_cut(suffix, sorted(layers), rows, cut), rows)
            chosen = out[torch.arange(rows), torch.arange(start, start + rows)].sum()
            parts.append(torch.stack(torch.autograd.grad(chosen, [cut[layer] for layer in layers])))
        subject, final = torch.stack([cut[layer][0] for layer in layers]).detach(), out[0].detach()
    jacobians = torch.cat(parts, dim=1)
    if not bool(jacobians.isfinite().all()):
        raise NumericalError(f"the Jacobian of {prompt.text!r} is not finite on {model_name(model)}; load the model in float32.")
    return FirstOrder(jacobians, subject, final)


def _cut(suffix: Suffix, layers: Sequence[int], rows: int, cut: dict[int, torch.Tensor]) -> Hooks:
    """Hooks that copy the row at the first layer, and take the subject's states out of the stream and put them back, to have their gradients."""

    def at(layer: int) -> HookFn:
        def put_back(states: torch.Tensor, *, hook: object) -> torch.Tensor:
            if layer == layers[0]:
                states = (states.expand(rows, -1, -1) if suffix.prefix.grows else states).detach()
            here = states[:, suffix.first_at].clone()
            cut[layer] = here.requires_grad_() if layer == layers[0] else here
            return torch.cat([states[:, : suffix.first_at], cut[layer][:, None], states[:, suffix.first_at + 1 :]], dim=1)

        return put_back

    return [(block_output(layer), at(layer)) for layer in layers]
