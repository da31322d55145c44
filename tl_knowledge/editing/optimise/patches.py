"""The neurons of a fact: active at the tokens that are wrong, silent on ordinary text (Huang et al. 2023, section 3.2).

For new neurons with pre-activations ``a`` at their own wrong tokens and ``m`` at the stored queries of ordinary text::

    loss = cross-entropy of the wrong tokens (label-smoothed)
         + mean exp(-a)
         + memory_weight (mean_top exp(m - a + 3) + mean_top exp(m + 3))        over the 1,000 largest
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int

from tl_knowledge.editing.neuron_edit import NONLINEARITIES, Nonlinearity, neuron_sum
from tl_knowledge.editing.optimise.suffix import Suffix
from tl_knowledge.engine.progress import progress_bar, progress_shown
from tl_knowledge.errors import NumericalError

__all__ = ["PatchSettings", "Patches", "train_patches"]

MARGIN = 3.0
LARGEST = 1000
CLIP = 5.0
FALLING = 0.5
PATIENCE = 10


@dataclass(frozen=True)
class PatchSettings:
    """How neurons are trained: the fields of `TransformerPatcher` that say so."""

    steps: int
    learning_rate: float
    weight_decay: float
    label_smoothing: float
    memory_weight: float
    gain: float
    stop_below: float
    nonlinearity: Nonlinearity


@dataclass(frozen=True, eq=False)
class Patches:
    """Some neurons.

    Attributes:
        keys, biases, values: of each.
        queries: what the MLP reads where each should be active.
    """

    keys: Float[torch.Tensor, "neuron d_model"]
    biases: Float[torch.Tensor, " neuron"]
    values: Float[torch.Tensor, "neuron d_model"]
    queries: Float[torch.Tensor, "neuron d_model"]

    @classmethod
    def none(cls, like: Float[torch.Tensor, "_ d_model"]) -> Patches:
        """No neuron, for queries like these."""
        return cls(like[:0], like.new_zeros(0), like[:0], like[:0])

    def and_(self, other: Patches) -> Patches:
        """These neurons and then others."""
        pairs = [(getattr(self, name), getattr(other, name)) for name in ("keys", "biases", "values", "queries")]
        return Patches(*(torch.cat(pair) for pair in pairs))

    def written(self, queries: Float[torch.Tensor, "*pos d_model"], nonlinearity: Nonlinearity) -> Float[torch.Tensor, "*pos d_model"]:
        """What they add where the MLP reads this."""
        return neuron_sum(queries, self.keys, self.biases, self.values, nonlinearity)[1]


@dataclass(frozen=True, eq=False)
class Trained:
    """Neurons after their training.

    Attributes:
        patches: themselves.
        losses: the whole loss, at every step.
        stopped: ``"loss"`` where the targets were likely enough and the neurons silent on all stored queries, else ``"steps"``.
        probability: of the wrong tokens at the last step, their geometric mean.
        loudest: the largest activation on a stored query.
    """

    patches: Patches
    losses: tuple[float, ...]
    stopped: str
    probability: float
    loudest: float


def train_patches(
    suffix: Suffix,
    queries: Float[torch.Tensor, "neuron d_model"],
    targets: Int[torch.Tensor, " neuron"],
    memory: Float[torch.Tensor, "query d_model"],
    others: Patches,
    settings: PatchSettings,
    draw: torch.Generator,
) -> Trained:
    """One neuron for each wrong token, trained together.

    Args:
        suffix: one row for each wrong token: what runs behind the last MLP.
        queries: what the MLP reads there.
        memory: what it reads in ordinary text, and where earlier neurons should be active.
        others: neurons of the same plan that stay as they are.

    Raises:
        NumericalError: a loss that is not finite.
    """
    keys = (queries / queries.norm(dim=-1, keepdim=True) ** 2).requires_grad_(True)  # an activation of 1
    biases = queries.new_zeros(len(queries)).requires_grad_(True)
    directions = torch.randn(queries.shape, generator=draw, dtype=torch.float64).to(queries).requires_grad_(True)
    gains = torch.full_like(queries, settings.gain).requires_grad_(True)
    trained = [keys, biases, directions, gains]
    optimiser = torch.optim.Adam(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=FALLING, patience=PATIENCE)
    fixed = others.written(queries, settings.nonlinearity)
    losses: list[float] = []
    likely, loud, stopped = float("nan"), float("nan"), "steps"
    for step in progress_bar(range(settings.steps), what="train neurons", unit="step", progress=progress_shown(), leave=False):
        with torch.enable_grad():
            written = neuron_sum(queries, keys, biases, directions * gains, settings.nonlinearity)[1]
            log_p = suffix.logits(fixed + written)[:, 0].to(queries).log_softmax(-1)
            own, stored = (queries * keys).sum(-1) + biases, memory @ keys.T + biases
            loss = _smoothed(log_p, targets, settings.label_smoothing) + (-own).exp().mean() + settings.memory_weight * _memory_loss(own, stored)
        losses.append(float(loss.detach()))
        if not bool(torch.isfinite(loss.detach())):
            raise NumericalError(f"the loss is {losses[-1]} at step {step}; lower learning_rate={settings.learning_rate:g}.")
        missed = float(-log_p.detach().gather(-1, targets[:, None]).mean())
        likely, loud = float(torch.tensor(-missed).exp()), float(NONLINEARITIES[settings.nonlinearity](stored.detach().max()))
        if missed < settings.stop_below and float(stored.detach().max()) < 0:
            stopped = "loss"
            break
        if step == settings.steps - 1:
            break
        for part, gradient in zip(trained, torch.autograd.grad(loss, trained), strict=True):
            part.grad = gradient
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimiser.step()
        plateau.step(losses[-1])
    patches = Patches(keys.detach(), biases.detach(), (directions * gains).detach(), queries)
    return Trained(patches, tuple(losses), stopped, likely, loud)


def _smoothed(log_p: Float[torch.Tensor, "neuron d_vocab"], targets: Int[torch.Tensor, " neuron"], smoothing: float) -> Float[torch.Tensor, ""]:
    return torch.nn.functional.nll_loss(log_p, targets) * (1 - smoothing) - smoothing * log_p.mean()


def _memory_loss(own: Float[torch.Tensor, " neuron"], stored: Float[torch.Tensor, "query neuron"]) -> Float[torch.Tensor, ""]:
    """How far the stored queries' pre-activations are from lying below -3, and 3 below those at the neurons' own tokens."""
    return _largest((stored - own + MARGIN).exp()) + _largest((stored + MARGIN).exp())


def _largest(values: Float[torch.Tensor, "query neuron"]) -> Float[torch.Tensor, ""]:
    return values.flatten().topk(min(LARGEST, values.numel())).values.mean()
