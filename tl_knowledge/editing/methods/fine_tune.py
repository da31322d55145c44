"""Fine-tuning: Adam on some matrices of a few layers; the baselines FT and, with every weight's change bounded, FT+L (Zhu et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from more_itertools import always_iterable, chunked
from typing_extensions import override

from tl_knowledge.arrays import Hooks
from tl_knowledge.door import public
from tl_knowledge.editing.edit import Edit
from tl_knowledge.editing.low_rank import LowRank
from tl_knowledge.editing.method import EditMethod
from tl_knowledge.editing.optimise.changes import change_hooks
from tl_knowledge.editing.optimise.fact_rows import FactRows, rows_of
from tl_knowledge.editing.optimise.objective import Objective
from tl_knowledge.engine.forward import run_model
from tl_knowledge.engine.progress import progress_bar, progress_shown
from tl_knowledge.engine.rows import keep_positions
from tl_knowledge.errors import InputError, NumericalError, check_choice
from tl_knowledge.metrics import unlikelihood, widened
from tl_knowledge.models.checks import check_layers
from tl_knowledge.models.matrices import BlockMatrix, Matrix, check_matrices, matrix_weights, places_in
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.models.published_settings import TRACED_LAYERS
from tl_knowledge.models.weights import output_bias, output_hook
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.runs.key_moments import KeyMoments

__all__ = ["FineTune", "FineTuneConstrained", "FineTuneVariant"]

FineTuneVariant: TypeAlias = Literal["ours", "meng2022_code"]
"""What is trained, and on what:

============= ============================ =========================================== =====================
variant       trained                      the target's tokens                         facts of one step
============= ============================ =========================================== =====================
ours          ``W_out``                    each at its own position                    all
meng2022_code ``W_out`` and its bias       all at the prompt's last position           128, one batch by one
============= ============================ =========================================== =====================
"""

FACTS_OF_A_STEP = 128  # of Meng et al.'s program
DECAY_LAW = (0.1559, -0.8703)
"""FT-W's weight decay for n facts is ``exp(0.1559) n^-0.8703`` (Meng et al. 2023, appendix B.1)."""


@public
@dataclass(frozen=True)
class FineTune(EditMethod):
    """Settings of FT, and with ``most_change`` of FT+L.

    Published for GPT-2 XL (layer 1) and GPT-J (layer 21). `FineTuneAttention` and `FineTuneDecayed` train other matrices.

    Attributes:
        layer: which block to train, or several blocks.
        variant: what is trained, and at which positions.
        steps: of Adam, at most.
        learning_rate: of Adam.
        stop_below: the mean loss at which to stop.
        weight_decay: of Adam: pulls the weights themselves (not their change) towards 0; ``None``: as much as FT-W for so many facts.
        most_change: how far any weight may move; ``None``: as far as it likes (FT).
        objective: to write the target (default), to erase it, or to force it under noise.
        matrices: which matrices of each block to train; ``None``: all that it has.

    Raises:
        ComponentError: an unknown matrix.
        InputError: no matrix or one twice, a bound that is not positive, no layer or one twice, or an unknown variant.
    """

    takes_traced_layer: ClassVar[bool] = False
    takes_several_layers: ClassVar[bool] = True
    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "gpt2-xl": {"layer": 1},
        "gpt-j-6b": {"layer": 21},
        "factlm": {"layer": TRACED_LAYERS["factlm"]},
        "factlm-llama": {"layer": TRACED_LAYERS["factlm-llama"]},
    }
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {"factlm": {"stop_below": 0.1}}  # further, it loses neighbours

    layer: int | tuple[int, ...]
    variant: FineTuneVariant = "ours"
    steps: int = 25
    learning_rate: float = 5e-4
    stop_below: float = 0.01
    weight_decay: float | None = 0.0
    most_change: float | None = None
    objective: Objective = field(default_factory=Objective)
    matrices: tuple[Matrix, ...] | None = ("W_out",)

    def __post_init__(self) -> None:
        check_choice("variant", self.variant, FineTuneVariant)
        layers = tuple(always_iterable(self.layer))
        if not layers or len(set(layers)) < len(layers):
            raise InputError(f"layer={self.layer} trains no layer, or one twice; pass one layer, or each of several once.")
        if self.matrices is not None:
            check_matrices(self.matrices)
        if self.most_change is not None and self.most_change <= 0:
            raise InputError(f"most_change={self.most_change} allows no change; pass a positive bound, or None for none.")

    @classmethod
    @override
    def small(cls) -> FineTune:
        return replace(super().small(), steps=3, learning_rate=1e-2)

    @override
    def plan(self, model: HookedModel, facts: Sequence[Fact], moments: KeyMoments | None) -> Edit:
        """One edit of all facts, each on its bare prompt; moments are not needed.

        Raises:
            ComponentError: no such layer.
            UnsupportedModelError: a matrix that the model does not have, or that cannot be changed by hooks.
            InputError: an objective of a program's, which this training does not follow.
            NumericalError: a loss that is not finite.
        """
        if self.objective.variant != "ours":
            raise InputError(
                f"{type(self).__name__} does not train towards the objective of {self.objective.variant!r}; pass replace(objective, variant='ours')."
            )
        layers = check_layers(model, tuple(always_iterable(self.layer)))
        batch = [rows_of(model, fact, ("{}",), "subject", self.objective) for fact in facts]
        trained = _Trained(model, places_in(model, layers, self.matrices), with_bias=self.variant == "meng2022_code")
        losses = self._train(model, trained, batch)
        note = {"losses": losses, "stopped": "loss" if losses[-1] < self.stop_below else "steps", "facts": len(batch)}
        return Edit.planned(model, self, trained.factors, notes=[note], biases=trained.bias_changes)

    def _train(self, model: HookedModel, trained: _Trained, batch: Sequence[FactRows]) -> list[float]:
        """Train until the loss is low; its mean over the facts, at every step."""
        optimiser = torch.optim.Adam(trained.changes, lr=self.learning_rate)
        of_a_step = FACTS_OF_A_STEP if self.variant == "meng2022_code" else len(batch)
        losses: list[float] = []
        for step in progress_bar(range(self.steps), what="fine-tune", unit="step", progress=progress_shown(), leave=False):
            total = 0.0
            for facts in chunked(batch, of_a_step):
                loss, gradients = self._loss(model, facts, trained)
                if not torch.isfinite(torch.tensor(loss)):
                    raise NumericalError(f"the loss is {loss} at step {step}; lower learning_rate={self.learning_rate:g}.")
                total += loss * len(facts) / len(batch)
                if loss >= self.stop_below:
                    self._step(optimiser, trained, gradients, self.decay(len(batch)))
            losses.append(total)
            if total < self.stop_below:
                break
        return losses

    def decay(self, facts: int) -> float:
        """The weight decay of so many facts.

        Example:
            >>> FineTune(layer=21).decay(100), round(FineTune(layer=21, weight_decay=None).decay(100), 4)
            (0.0, 0.0212)
        """
        scale, power = DECAY_LAW
        return math.exp(scale) * facts**power if self.weight_decay is None else self.weight_decay

    def _step(self, optimiser: torch.optim.Optimizer, trained: _Trained, gradients: Sequence[torch.Tensor], decay: float) -> None:
        for change, start, gradient in zip(trained.changes, trained.starts, gradients, strict=True):
            change.grad = gradient + decay * (start + change.detach())
        optimiser.step()
        if self.most_change is not None:
            with torch.no_grad():
                for change in trained.changes:
                    change.clamp_(-self.most_change, self.most_change)

    def _loss(self, model: HookedModel, batch: Sequence[FactRows], trained: _Trained) -> tuple[float, list[torch.Tensor]]:
        """The mean loss over some facts, and its gradients."""
        gradients, total = [torch.zeros_like(change) for change in trained.changes], 0.0
        for rows in batch:
            tokens, positions = rows.tokens[:1], rows.scored
            if self.variant == "meng2022_code":  # the model reads the prompt alone, and should say every token of the target at once
                tokens, positions = tokens[:, : int(positions[0, 0]) + 1], positions[:, :1]
            with torch.enable_grad():
                logits = run_model(model, tokens, [*trained.hooks, *keep_positions(positions), *rows.noise])
                log_p = logits.to(gradients[0].dtype).log_softmax(-1).expand(-1, len(rows.answer), -1)
                target = log_p.gather(-1, rows.answer[None, :, None])
                loss = (unlikelihood(target.sum()) if self.objective.erase else -target.mean()) / len(batch)
                gradients = [so_far + own for so_far, own in zip(gradients, torch.autograd.grad(loss, trained.changes), strict=True)]
            total += float(loss.detach())
        return total, gradients


@public
@dataclass(frozen=True)
class FineTuneConstrained(FineTune):
    """FT+L: no weight of layer 0 may move further than ``most_change``, which is published for GPT-2 medium, large, XL and GPT-J."""

    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "gpt2-medium": {"layer": 0, "most_change": 2e-3},
        "gpt2-large": {"layer": 0, "most_change": 1e-3},
        "gpt2-xl": {"layer": 0, "most_change": 5e-4},
        "gpt-j-6b": {"layer": 0, "most_change": 5e-5},
        "factlm": {"layer": TRACED_LAYERS["factlm"], "most_change": 5e-3},
        "factlm-llama": {"layer": TRACED_LAYERS["factlm-llama"], "most_change": 7e-3},
    }
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    most_change: float | None = 5e-4

    @classmethod
    @override
    def small(cls) -> FineTuneConstrained:
        return replace(super().small(), most_change=5e-3)  # pyright: ignore[reportReturnType]


class _Trained:
    """What is trained: changes of some matrices, and of the bias of ``W_out`` where that is asked for and there is one.

    Attributes:
        changes: the tensors to optimise: the matrices, then the biases.
        starts: what they are added to.
        hooks: the model with them.
    """

    def __init__(self, model: HookedModel, places: Sequence[BlockMatrix], *, with_bias: bool) -> None:
        outputs = [place.layer for place in places if place.name == "W_out"]
        biases = {layer: output_bias(model, layer) for layer in outputs} if with_bias else {}
        self._places, self._biased = tuple(places), tuple(layer for layer, bias in biases.items() if bias is not None)
        held = [matrix_weights(model, place) for place in places] + [bias for bias in biases.values() if bias is not None]
        # Adam divides by what float16 rounds to zero.
        self.starts = [widened(each.detach()) for each in held]
        self.changes = [torch.zeros_like(start).requires_grad_(True) for start in self.starts]
        weights, own = self.changes[: len(places)], self.changes[len(places) :]
        self.hooks: Hooks = [
            pair for place, change in zip(places, weights, strict=True) for pair in change_hooks(model, place, change, _identity(change))
        ]
        self.hooks += [(output_hook(model, layer), _plus(bias)) for layer, bias in zip(self._biased, own, strict=True)]

    @property
    def factors(self) -> dict[BlockMatrix, LowRank]:
        """The matrices' changes."""
        ended = [change.detach().clone() for change in self.changes[: len(self._places)]]
        return {place: LowRank(change, _identity(change)) for place, change in zip(self._places, ended, strict=True)}

    @property
    def bias_changes(self) -> dict[int, torch.Tensor]:
        """The biases' changes by layer."""
        return {layer: bias.detach().clone() for layer, bias in zip(self._biased, self.changes[len(self._places) :], strict=True)}


def _plus(bias: torch.Tensor) -> Any:
    return lambda activation, *, hook: activation + bias.to(activation)


def _identity(weights: torch.Tensor) -> torch.Tensor:
    return torch.eye(weights.shape[1], dtype=weights.dtype, device=weights.device)
