"""The value of a codebook's key, optimised through the model with the whole codebook in force (Hartvigsen et al. 2023, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from jaxtyping import Float

from tl_knowledge.editing.codebook import Codebook
from tl_knowledge.editing.codebook_edit import CodebookEdit, trail_after
from tl_knowledge.editing.optimise.fact_rows import FactRows
from tl_knowledge.editing.routes import at_map
from tl_knowledge.engine.progress import progress_bar, progress_shown
from tl_knowledge.engine.recording import Reached
from tl_knowledge.engine.rows import keep_positions
from tl_knowledge.errors import NumericalError
from tl_knowledge.metrics import widened
from tl_knowledge.models.mlp_maps import MLPMap
from tl_knowledge.models.protocol import HookedModel

__all__ = ["Trained", "read_map", "train_value"]


@dataclass(frozen=True, eq=False)
class Trained:
    """A value after the optimisation.

    Attributes:
        value: itself.
        losses: at every step.
        stopped: why it stopped: ``"loss"`` or ``"steps"``.
        probability: of the target's tokens at the last step, their geometric mean.
    """

    value: Float[torch.Tensor, " d_out"]
    losses: tuple[float, ...]
    stopped: str
    probability: float


def read_map(
    model: HookedModel, place: MLPMap, there: Sequence[CodebookEdit], rows: FactRows
) -> tuple[Float[torch.Tensor, " d_in"], Float[torch.Tensor, " d_out"]]:
    """A map's input at a fact's last prompt token, and its output there without any codebook; at least in single precision.

    Args:
        there: the codebooks of the map that are on the model.
    """
    found: list[torch.Tensor] = []
    position = int(rows.scored[0, 0])

    def catch(queries: torch.Tensor, outputs: torch.Tensor, _: object) -> None:
        base = trail_after(queries, outputs, there).base
        found.extend(widened(each.detach().flatten(0, -2)[position]) for each in (queries, base))
        raise Reached

    with torch.no_grad(), suppress(Reached):
        model.run_with_hooks(rows.tokens[:1], fwd_hooks=at_map(place, catch))
    key, output = found
    return key, output


def train_value(
    model: HookedModel,
    place: MLPMap,
    there: Sequence[CodebookEdit],
    book: Codebook,
    number: int,
    rows: FactRows,
    *,
    steps: int,
    learning_rate: float,
    stop_below: float,
) -> Trained:
    """Adam on one value of a codebook, towards the fact's target.

    The model runs as it is, whatever its architecture; hooks see its activations in its own shape, since they act position by position.

    Args:
        there: the codebooks of the map that are on the model; ``book`` stands in their place.
        number: of the key whose value is trained; it starts from the value it has.
        steps: evaluations of the loss, at most.
        stop_below: the loss at which to stop.

    Raises:
        NumericalError: a loss that is not finite.
    """
    value = book.values[number].detach().clone().requires_grad_(True)
    optimiser = torch.optim.Adam([value], lr=learning_rate)

    def act(queries: torch.Tensor, outputs: torch.Tensor, _: object) -> torch.Tensor:
        return book.applied(queries, trail_after(queries, outputs, there).base, (number, value))

    hooks = [*at_map(place, act), *keep_positions(rows.scored[:1])]
    losses: list[float] = []
    for step in progress_bar(range(steps), what="train the value", unit="step", progress=progress_shown(), leave=False):
        with torch.enable_grad():
            logits: torch.Tensor = model.run_with_hooks(rows.tokens[:1], fwd_hooks=hooks)
            loss = -logits[0].to(value).log_softmax(-1).gather(-1, rows.answer[:, None]).mean()
        losses.append(float(loss.detach()))
        if not bool(torch.isfinite(loss.detach())):
            raise NumericalError(f"the loss is {losses[-1]} at step {step}; check the weights for NaN, or lower learning_rate={learning_rate:g}.")
        if losses[-1] < stop_below or step == steps - 1:
            break
        (value.grad,) = torch.autograd.grad(loss, [value])
        optimiser.step()
    stopped = "loss" if losses[-1] < stop_below else "steps"
    return Trained(value.detach(), tuple(losses), stopped, float(torch.tensor(-losses[-1]).exp()))
