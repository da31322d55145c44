"""The answer's probability and its gradient, without ever holding the logits.

The gradient of ``P(o) = softmax(h W_U + b)_o`` is ``P(o) (W_U[:, o] - sum_v P(v) W_U[:, v])``: a mean of the unembedding's columns. Over blocks
of the vocabulary with a running maximum (as flash attention does over keys) it needs two matrix products and no tensor of the vocabulary's
size, where autograd keeps and passes over several.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int

from tl_knowledge.arrays import Hooks
from tl_knowledge.models.hook_names import UNEMBED_IN
from tl_knowledge.models.protocol import HookedModel, answered_from, as_rows, context_length
from tl_knowledge.models.routed import has_module_hook, users_hook

__all__ = ["Unembedding"]

VOCABULARY_AT_ONCE = 4096

PROBE_LENGTH = 4

_scales: WeakKeyDictionary[object, float | None] = WeakKeyDictionary()


@dataclass(frozen=True)
class Unembedding:
    """``logits = scale (h W_U + b)``; with a cap ``cap tanh((h W_U + b) / cap)``.

    Attributes:
        weights: ``[d_model d_vocab]``.
        bias: ``[d_vocab]``, or ``None``.
        cap: Gemma 2's soft cap of the logits, or ``None``.
        scale: what Granite and Cohere multiply their logits by; read off a probe.
    """

    weights: Float[torch.Tensor, "d_model d_vocab"]
    bias: Float[torch.Tensor, " d_vocab"] | None = None
    cap: float | None = None
    scale: float = 1.0

    @classmethod
    def of(cls, model: HookedModel) -> Unembedding | None:
        """The model's, or ``None`` where the model does more behind the unembedding's input than this.

        A probe of a few tokens, run once a model, finds that out; hooks that somebody has set behind it, or on the modules around it, are seen
        each time.
        """
        if any(point.fwd_hooks for name, point in model.hook_dict.items() if name.startswith("unembed.") and name != UNEMBED_IN):
            return None
        whole: Any = model
        around = [whole, getattr(whole, "original_model", None), *getattr(whole, "unembed", torch.nn.Module()).modules()]
        if any(has_module_hook(module) for module in around if isinstance(module, torch.nn.Module)):
            return None
        unembedding = cls._read(model)
        if unembedding is None:
            return None
        scale = _scales.get(model)
        if model not in _scales:
            scale = unembedding._scale_of(model)
            if scale is not None or users_hook(model) is None:  # what somebody's hooks prevent may be found without them
                _scales[model] = scale
        return None if scale is None else replace(unembedding, scale=scale)

    @classmethod
    def _read(cls, model: HookedModel) -> Unembedding | None:
        part: Any = getattr(model, "unembed", None)
        weights, bias = getattr(part, "W_U", None), getattr(part, "b_U", None)
        if not isinstance(weights, torch.Tensor):
            return None
        config = getattr(getattr(model, "original_model", None), "config", None)
        cap = getattr(config, "final_logit_softcapping", None) or getattr(model.cfg, "output_logits_soft_cap", None)
        return cls(weights.detach(), None if bias is None else bias.detach(), float(cap) if cap and cap > 0 else None)

    def _scale_of(self, model: HookedModel) -> float | None:
        """By how much the model's logits are what this makes of its unembedding's input; ``None`` where they are something else."""
        # Tokens from all over the vocabulary: a padding token's embedding is often zero, and so are its logits, which fit any scale.
        tokens, states = self._probe_tokens(model), list[torch.Tensor]()
        recorder: Hooks = [(UNEMBED_IN, lambda x, *, hook: states.append(x.detach()))]
        with torch.no_grad():
            logits: torch.Tensor = model.run_with_hooks(tokens, fwd_hooks=recorder)
        first = answered_from(model, tokens)
        logits = logits[:, first:]
        ours, rounding = self.logits(states[0][:, first:]), torch.finfo(self.weights.dtype).eps ** 0.5
        logits = logits.to(ours)
        if not bool(ours.any() and logits.isfinite().all()):
            return None
        fitted = 1.0 if self.cap else float((ours * logits).sum() / ours.square().sum())
        for scale in (1.0, fitted):
            if torch.allclose(ours * scale, logits, rtol=rounding, atol=rounding * float(logits.abs().max())):
                return scale
        return None

    def _probe_tokens(self, model: HookedModel) -> Int[torch.Tensor, "1 _"]:
        last, length = int(model.cfg.d_vocab) - 1, min(PROBE_LENGTH, context_length(model))
        return as_rows(model, torch.linspace(last // 3, last, length, device=self.weights.device).long()[None])

    def logits(self, states: Float[torch.Tensor, "*row d_model"]) -> Float[torch.Tensor, "*row d_vocab"]:
        """Logits of some states, differentiable in them."""
        raw = states @ self.weights
        return self._capped(raw if self.bias is None else raw + self.bias)[0]

    def answer_gradient(
        self, states: Float[torch.Tensor, "row d_model"], answers: Int[torch.Tensor, " row"]
    ) -> tuple[Float[torch.Tensor, " row"], Float[torch.Tensor, "row d_model"]]:
        """The answers' probabilities, and their gradients in the states.

        Example:
            >>> head, states = Unembedding(torch.eye(3)), torch.tensor([[0.0, 0.0, 0.0]])
            >>> probability, gradient = head.answer_gradient(states, torch.tensor([1]))
            >>> [round(9 * float(x), 4) for x in (probability[0], *gradient[0])]
            [3.0, -1.0, 2.0, -1.0]
        """
        states = states.detach()
        wide = torch.promote_types(states.dtype, torch.float32)
        peak = states.new_full((len(states), 1), -torch.inf, dtype=wide)
        total, mean = torch.zeros_like(peak), torch.zeros_like(states, dtype=wide)
        for start in range(0, self.weights.shape[1], VOCABULARY_AT_ONCE):
            columns = self.weights[:, start : start + VOCABULARY_AT_ONCE]
            bias = None if self.bias is None else self.bias[start : start + VOCABULARY_AT_ONCE]
            logits, slope = self._capped(states @ columns if bias is None else torch.addmm(bias, states, columns))
            higher = torch.maximum(peak, logits.amax(1, keepdim=True))
            shrink, weights = (peak - higher).exp(), (logits - higher).exp_()
            total = total * shrink + weights.sum(1, keepdim=True)
            weights = weights if slope is None else weights * slope
            mean = mean * shrink + (weights.to(columns.dtype) @ columns.T).to(wide)
            peak = higher
        chosen = self.weights[:, answers].T
        raw = (states * chosen).sum(1, keepdim=True)
        logit, slope = self._capped(raw if self.bias is None else raw + self.bias[answers, None])
        probability = (logit - peak).exp() / total
        gradient = probability * ((chosen if slope is None else chosen * slope) - mean / total)
        return probability[:, 0].to(states.dtype), gradient.to(states.dtype)

    def _capped(self, raw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits in at least single precision, and their slope under the cap."""
        logits = raw.to(torch.promote_types(raw.dtype, torch.float32))
        if self.cap is None:
            return (logits, None) if self.scale == 1 else (logits * self.scale, logits.new_tensor(self.scale))
        squashed = (logits / self.cap).tanh()
        return squashed * self.cap, 1 - squashed.square()
