"""The final norm and the unembedding as a function of states, through which gradients go."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float

from tl_knowledge.engine.forward import run_model
from tl_knowledge.engine.proof import Proof, same
from tl_knowledge.metrics import widened
from tl_knowledge.models.final_norm import unembed
from tl_knowledge.models.hook_names import block_output
from tl_knowledge.models.protocol import HookedModel, layer_count, model_device
from tl_knowledge.models.unembedding import Unembedding

__all__ = ["read_states"]

PROBED = 5

States = Float[torch.Tensor, "state d_model"]


def read_states(model: HookedModel, states: States) -> Float[torch.Tensor, "state d_vocab"]:
    """Logits of states that leave the last block, differentiable in them, in at least single precision.

    The model's norm and unembedding alone, where a probe shows that nothing else is there; else the states enter a whole run.
    """
    precise = states.to(next(iter(model.parameters())).dtype)
    logits = _short_way(model, precise) if _ALONE.refusal(model) is None else _whole_run(model, precise)
    return widened(logits)


def _short_way(model: HookedModel, states: States) -> Float[torch.Tensor, "state d_vocab"]:
    unembedding, norm = Unembedding.of(model), getattr(model, "ln_final", None)
    assert unembedding is not None and norm is not None, "the probe has refused this"
    return unembedding.logits(norm(states[None])[0])


def _whole_run(model: HookedModel, states: States) -> Float[torch.Tensor, "state d_vocab"]:
    token = torch.zeros(len(states), 1, dtype=torch.long, device=model_device(model))
    site = block_output(layer_count(model) - 1)
    return run_model(model, token, [(site, lambda _, *, hook: states[:, None])])[:, 0]


def _probe(model: HookedModel) -> str:
    if Unembedding.of(model) is None or getattr(model, "ln_final", None) is None:
        return "it does more after the last block"
    parameter: Any = next(iter(model.parameters()))
    draw = torch.randn(PROBED, int(model.cfg.d_model), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    states = (3 * draw + 0.5).to(parameter)
    return (
        "" if same(_short_way(model, states), unembed(model, states).to(torch.promote_types(parameter.dtype, torch.float32))) else "its logits differ"
    )


_ALONE = Proof("reading states by the norm and the unembedding alone", _probe, "states enter a whole run")
