"""What reaches the logits directly: the final norm with its scale frozen is linear, and so is the unembedding.

What the norm does is read off its output, not off its class::

    norm(x) = weight * centre(x) / rms(centre(x)) + bias      LayerNorm: centre(x) = x - mean(x); RMSNorm: centre(x) = x

    (norm(x) + norm(-x)) / 2 = bias                           two opposite states give the bias,
    (norm(x) - norm(-x)) / 2 = weight * direction(x)          and the weights; whichever centring fits is the model's

That holds for LayerNorm and RMSNorm in every spelling (folded, ``1 + w``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float

from tl_knowledge.arrays import Hooks
from tl_knowledge.errors import UnsupportedModelError
from tl_knowledge.models.hook_names import UNEMBED_IN, block_output
from tl_knowledge.models.protocol import HookedModel, layer_count, model_device
from tl_knowledge.wording import counted

__all__ = ["FinalNorm", "normalised", "unembed"]

MOST_MISFIT = 0.05  # half precision rounds by a few hundredths; the wrong kind of norm is off by about one


def unembed(model: HookedModel, states: Float[torch.Tensor, "state d_model"]) -> Float[torch.Tensor, "state d_vocab"]:
    """Logits of some residual states, through the model's own final norm and unembedding: each enters as the last block's output."""
    return _run_from_the_last_block(model, states, [])


def normalised(model: HookedModel, states: Float[torch.Tensor, "state d_model"]) -> Float[torch.Tensor, "state d_model"]:
    """What the final norm makes of some residual states."""
    outputs: list[torch.Tensor] = []
    _run_from_the_last_block(model, states, [(UNEMBED_IN, lambda x, *, hook: outputs.append(x.detach()))])
    return outputs[0][:, 0]


def _run_from_the_last_block(model: HookedModel, states: torch.Tensor, hooks: Hooks) -> torch.Tensor:
    """Run one token a row, and replace the last block's output by the states; their logits.

    As many rows go in as come out: some models' attention counts on it (GPTBigCode).
    """
    token = torch.zeros(len(states), 1, dtype=torch.long, device=model_device(model))
    entry: Hooks = [(block_output(layer_count(model) - 1), lambda _, *, hook: states[:, None])]
    with torch.no_grad():
        logits: torch.Tensor = model.run_with_hooks(token, fwd_hooks=entry + hooks)
    return logits[:, 0]


@dataclass(frozen=True)
class FinalNorm:
    """``norm(x) = weight * centre(x) / scale(x) + bias``.

    Attributes:
        centred: whether the mean over ``d_model`` is taken off first (LayerNorm) or not (RMSNorm).
    """

    weight: Float[torch.Tensor, " d_model"]
    bias: Float[torch.Tensor, " d_model"]
    centred: bool

    @classmethod
    def of(cls, model: HookedModel) -> FinalNorm:
        """The model's.

        Raises:
            UnsupportedModelError: what lies before the unembedding is no LayerNorm and no RMSNorm.
        """
        weights = next(iter(model.parameters()))
        draw = torch.Generator().manual_seed(0)
        # Large and off centre: the norm's small constant vanishes beside it, and centring shows.
        size = 1e5 if weights.dtype == torch.float64 else 1e3
        probe = (size * (torch.randn(2, int(model.cfg.d_model), generator=draw, dtype=torch.float64) + 0.5)).to(weights)
        outputs = normalised(model, torch.cat([probe, -probe])).double()
        if outputs.shape != (4, probe.shape[1]):
            raise UnsupportedModelError(
                f"between the last block and the unembedding of this model, states of {counted(probe.shape[1], 'number')} become {outputs.shape[1]} "
                "(a projection in the place of a norm), so what was written to the stream cannot be split into logits here."
            )
        plus, minus = outputs.split(2)
        bias, odd = (plus + minus)[0] / 2, (plus - minus) / 2
        misfits: dict[bool, tuple[float, torch.Tensor]] = {}
        for centred in (True, False):
            shape = _direction(probe.double(), centred)
            weight = (odd * shape).sum(0) / shape.square().sum(0)  # of both probes together: no division by a small number
            misfits[centred] = float((weight * shape - odd).abs().max() / odd.abs().max()), weight
        centred = min(misfits, key=lambda choice: misfits[choice][0])
        misfit, weight = misfits[centred]
        if misfit > MOST_MISFIT:
            raise UnsupportedModelError(
                "the final norm of this model is neither LayerNorm nor RMSNorm, so its logits are no sum of what was written: they cannot be split."
            )
        return cls(weight.to(weights.dtype), bias.to(weights.dtype), centred)

    def frozen_at(
        self, state: Float[torch.Tensor, " d_model"], output: Float[torch.Tensor, " d_model"], parts: Float[torch.Tensor, "*part d_model"]
    ) -> Float[torch.Tensor, "*part d_model"]:
        """What parts of a state add to the norm's output, with the scale that the whole state has."""
        whole = self.weight * self._centre(state)
        scale = whole.square().sum() / (whole * (output - self.bias)).sum()
        return self.weight * self._centre(parts) / scale

    def _centre(self, states: torch.Tensor) -> torch.Tensor:
        return states - states.mean(-1, keepdim=True) if self.centred else states


def _direction(states: torch.Tensor, centred: bool) -> torch.Tensor:
    states = states - states.mean(-1, keepdim=True) if centred else states
    return states / states.square().mean(-1, keepdim=True).sqrt()
