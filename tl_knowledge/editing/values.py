"""The value to write: what the edited site must say so that the model says the target (ROME, equation 4; MEMIT, equation 16).

Nothing before the edited layer changes while the value is optimised, so its residual stream is computed once; each step then runs one dummy row
through the lower layers, swaps the cached rows in where they start to matter, and unembeds only the positions that the loss reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float

from tl_knowledge.arrays import Hooks
from tl_knowledge.editing.requests import Rows, at_positions
from tl_knowledge.errors import NumericalError
from tl_knowledge.model import UNEMBED_IN, HookedModel, block_input, block_output
from tl_knowledge.rows import record

__all__ = ["Optimised", "ValueSettings", "optimise_value"]


@dataclass(frozen=True)
class ValueSettings:
    """How a value is optimised; the defaults are ROME's.

    Attributes:
        steps: evaluations of the loss, at most.
        learning_rate: of Adam.
        kl_factor: weight of the drift of "{subject} is a".
        weight_decay: of the change's length over the squared length of the value it starts from (sic).
        clamp: the change is kept within this many lengths of that value.
        stop_below: the loss at which to stop.
    """

    steps: int = 20
    learning_rate: float = 0.5
    kl_factor: float = 0.0625
    weight_decay: float = 0.5
    clamp: float = 4.0
    stop_below: float = 0.05


@dataclass(frozen=True, eq=False)
class Optimised:
    """What the optimisation found.

    Attributes:
        start: the value before, on the bare prompt.
        delta: the change.
        losses: at every step.
        reason: why it stopped: ``"loss"`` or ``"steps"``.
        clamped: whether the change was ever cut to the clamp.
        probability: mean probability of the target over the contexts at the last step.
    """

    start: Float[torch.Tensor, " d_model"]
    delta: Float[torch.Tensor, " d_model"]
    losses: tuple[float, ...]
    reason: str
    clamped: bool
    probability: float

    def notes(self) -> dict[str, Any]:
        """As plain data."""
        lengths = {"start_norm": float(self.start.norm()), "delta_norm": float(self.delta.norm())}
        return {"losses": list(self.losses), "stopped": self.reason, "clamped": self.clamped, "target_probability": self.probability} | lengths


def optimise_value(model: HookedModel, rows: Rows, layer: int, site: str, settings: ValueSettings) -> Optimised:
    """Find the change of one site's output at the edited positions.

    Args:
        rows: the fact in its contexts.
        layer: the edited layer.
        site: the hook to change: ``W_out``'s output (ROME) or the block's (MEMIT).
        settings: of the optimisation.

    Raises:
        NumericalError: a loss that is not finite.
    """
    entering = block_input(0) if layer == 0 else block_output(layer - 1)
    known = record(model, rows.tokens, [], [entering, site])
    start = at_positions(known[site], rows.edited)[0]
    delta = torch.zeros_like(start, requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=settings.learning_rate)
    longest = settings.clamp * float(start.norm())
    reference: torch.Tensor | None = None
    losses: list[float] = []
    clamped, reason, probability = False, "steps", float("nan")
    for step in range(settings.steps):
        with torch.enable_grad():
            log_p = _log_probabilities(model, rows, entering, known[entering], site, delta)
            target = log_p[: len(rows.scored)].gather(-1, rows.answer[None, :, None].expand(len(rows.scored), -1, 1))[..., 0]
            kept = log_p[-1, 0]
            reference = kept.detach() if reference is None else reference
            drift = torch.nn.functional.kl_div(reference, kept, log_target=True, reduction="sum")
            loss = -target.mean() + settings.kl_factor * drift + settings.weight_decay * delta.norm() / start.norm() ** 2
        losses.append(float(loss.detach()))
        probability = float(target.detach().sum(-1).exp().mean())
        if not bool(loss.isfinite()):
            raise NumericalError(
                f"the loss is {losses[-1]} at step {step}; check the weights for NaN, or lower learning_rate={settings.learning_rate:g}."
            )
        if losses[-1] < settings.stop_below:
            reason = "loss"
            break
        if step == settings.steps - 1:
            break
        (delta.grad,) = torch.autograd.grad(loss, [delta])
        optimiser.step()
        with torch.no_grad():
            length = float(delta.norm())
            if length > longest:
                delta.mul_(longest / length)
                clamped = True
    return Optimised(start.detach(), delta.detach(), tuple(losses), reason, clamped, probability)


def _log_probabilities(
    model: HookedModel, rows: Rows, entering: str, states: torch.Tensor, site: str, delta: torch.Tensor
) -> Float[torch.Tensor, "row answer d_vocab"]:
    """Log probabilities at the scored positions of every row; the last row's are those of the essence position, repeated."""
    essence = torch.full((1, rows.scored.shape[1]), rows.essence, device=rows.scored.device)
    read = torch.cat([rows.scored, essence])
    number = torch.arange(len(states), device=states.device)

    def change(activation: torch.Tensor, *, hook: object) -> torch.Tensor:
        changed = activation.clone()
        changed[number, rows.edited] = changed[number, rows.edited] + delta
        return changed

    swap: Callable[..., torch.Tensor] = lambda _, *, hook: states  # noqa: E731
    keep: Callable[..., torch.Tensor] = lambda x, *, hook: x.take_along_dim(read[..., None], dim=1)  # noqa: E731
    hooks: Hooks = [(entering, swap), (site, change), (UNEMBED_IN, keep)]
    logits: torch.Tensor = model.run_with_hooks(rows.tokens[:1], fwd_hooks=hooks)
    return logits.log_softmax(-1)
