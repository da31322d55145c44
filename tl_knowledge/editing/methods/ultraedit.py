"""UltraEdit: one least-squares step from standardised gradient factors, made for edits without end (Gu et al. 2025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from jaxtyping import Float
from more_itertools import map_reduce
from typing_extensions import override

from tl_knowledge.door import public
from tl_knowledge.editing.edit import Edit
from tl_knowledge.editing.low_rank import LowRank
from tl_knowledge.editing.method import EditMethod
from tl_knowledge.editing.optimise.gradient_factors import GradientFactors, TargetGradient, target_gradients
from tl_knowledge.editing.optimise.linear_system import solved
from tl_knowledge.editing.optimise.running import Spread, pooled
from tl_knowledge.errors import InputError, NumericalError, check_choice
from tl_knowledge.models.checks import check_layers
from tl_knowledge.models.ledger import written_records
from tl_knowledge.models.matrices import BlockMatrix, Matrix, check_matrices, places_in
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.models.published_settings import TRACED_LAYERS
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.runs.key_moments import KeyMoments

__all__ = ["GradientTokens", "UltraEdit"]

GradientTokens: TypeAlias = Literal["answer", "all"]
"""Which tokens' factors an edit is made of: those that predict the answer (the published program), or all of prompt and answer."""


@public
@dataclass(frozen=True)
class UltraEdit(EditMethod):
    """Settings of UltraEdit: ``dW = (X^T X + ridge I)^-1 X^T V`` with ``V = -learning_rate ||x^||^2 d^`` in every edited matrix.

    The rows of ``X`` are what the matrix reads at the facts' tokens, ``d`` the loss' gradients at what it writes there; ``x^`` and ``d^`` are both
    less their mean and in units of their standard deviation, coordinate by coordinate. These are of the tokens of *all edits that are written into
    the model* and of the present one (lifelong normalisation; Gu et al. 2025, section 3), in all edited matrices of one shape together. Each edit
    brings what its own tokens add to them (``edit.records``), so that an edit that is taken back no longer counts. No subject, no moments, nothing
    trained. The loss is the mean negative log-likelihood over the tokens of all targets.

    Published for GPT-J (``W_out`` of layers 18 to 26). The program pools the batches' unbiased variances as if they were not, so that its
    spread is a little larger once there are several batches.

    Attributes:
        layers: the edited layers.
        learning_rate: eta, how far the outputs go; in units of the outputs.
        matrices: which matrices of these layers.
        tokens: ``"answer"`` (the program): the tokens that predict the answer; ``"all"``: all of prompt and answer.
        ridge: holds the change small.

    Raises:
        ComponentError: an unknown matrix.
        InputError: no matrix or one twice, unknown tokens, or a ridge that is not positive.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> facts = [case.rewrite for case in tlk.load_edit_cases()[:20]]
        >>> edit = tlk.plan_edit(model, facts, tlk.editing.UltraEdit.for_model(model))
        >>> edit.notes[0]["tokens_standardised_over"] > 20
        True
    """

    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "gpt-j-6b": {"layers": tuple(range(18, 27)), "learning_rate": 1e-6},
        "factlm": {"layers": (TRACED_LAYERS["factlm"],), "learning_rate": 1e-3, "tokens": "all"},
        "factlm-llama": {"layers": (1, 2, 3), "learning_rate": 1e-3, "tokens": "all"},
    }

    layers: tuple[int, ...]
    learning_rate: float = 1e-6
    matrices: tuple[Matrix, ...] = ("W_out",)
    tokens: GradientTokens = "answer"
    ridge: float = 1.0

    def __post_init__(self) -> None:
        check_choice("tokens", self.tokens, GradientTokens)
        check_matrices(self.matrices)
        if self.ridge <= 0:
            raise InputError(f"ridge={self.ridge} leaves the update singular; pass a positive number (1 is usual).")

    @classmethod
    @override
    def small(cls) -> UltraEdit:
        return replace(super().small(), learning_rate=1e-2)

    @override
    def plan(self, model: HookedModel, facts: Sequence[Fact], moments: KeyMoments | None) -> Edit:
        """One edit of all facts; moments are not needed.

        Raises:
            ComponentError: no such layer.
            UnsupportedModelError: a matrix that the model does not have, or that cannot be changed by hooks.
            InputError: a single token, over which nothing can be standardised.
            NumericalError: a loss that is not finite.
        """
        places = places_in(model, check_layers(model, self.layers), self.matrices)
        prompts = [Prompt.from_fact(model, fact) for fact in facts]
        gradients = target_gradients(model, prompts, places)
        losses = [gradient.loss for gradient in gradients]
        if not bool(torch.tensor(losses).isfinite().all()):
            raise NumericalError(f"the losses are {losses[:5]} and not all finite, so there is no gradient to edit by; check the weights for NaN.")
        factors = {place: self._together(prompts, gradients, place) for place in places}
        own, known = self._spreads(model, factors)
        changes = {place: self._solved(each, known[_shape(each)]) for place, each in factors.items()}
        note = {
            "facts": len(facts),
            "loss_before": sum(losses) / len(losses),
            "tokens": len(factors[places[0]].inputs),
            "tokens_standardised_over": min(spread.count for spread in known.values()),
        }
        return Edit.planned(model, self, changes, notes=[note], records={self._record(shape): spread.packed for shape, spread in own.items()})

    def _together(self, prompts: Sequence[Prompt], gradients: Sequence[TargetGradient], place: BlockMatrix) -> GradientFactors:
        """All prompts' factors of a matrix, of the loss that is a mean over all targets' tokens."""
        answers = sum(len(prompt.answer) for prompt in prompts)
        inputs: list[torch.Tensor] = []
        outputs: list[torch.Tensor] = []
        for prompt, gradient in zip(prompts, gradients, strict=True):
            first = len(prompt) - 1 if self.tokens == "answer" else 0
            inputs.append(gradient.factors[place].inputs[first:].double())
            outputs.append(gradient.factors[place].gradients[first:].double() * (len(prompt.answer) / answers))
        return GradientFactors(torch.cat(inputs), torch.cat(outputs))

    def _spreads(
        self, model: HookedModel, factors: Mapping[BlockMatrix, GradientFactors]
    ) -> tuple[dict[tuple[int, int], Spread], dict[tuple[int, int], Spread]]:
        """By shape, the spread of this edit's factors, and with it that of the edits that are written into the model.

        Raises:
            InputError: a single token.
        """
        shapes = map_reduce(factors.values(), _shape)
        own = {shape: pooled(Spread.of(_row(each)) for each in alike) for shape, alike in shapes.items()}
        known: dict[tuple[int, int], Spread] = {}
        for shape, spread in own.items():
            before = [Spread.unpacked(record.to(spread.mean)) for record in written_records(model, self._record(shape))]
            known[shape] = pooled([*before, spread])
            if known[shape].count < 2:
                raise InputError(
                    "UltraEdit standardises over all tokens that it edits, but there is only one: an answer of one token, edited alone; "
                    "edit several facts together, or pass tokens='all'."
                )
        return own, known

    def _solved(self, factors: GradientFactors, spread: Spread) -> LowRank:
        """The change that sends every input to its wanted output, as nearly as the ridge lets it.

        The formula's ``(X^T X + ridge I)^-1 X^T`` is ``X^T (X X^T + ridge I)^-1``, whose system is of the tokens' number.
        """
        inputs, width = factors.inputs, factors.inputs.shape[1]
        standard = spread.standardised(_row(factors))
        wanted = -self.learning_rate * standard[:, :width].square().sum(1, keepdim=True) * standard[:, width:]
        ridge = self.ridge * torch.eye(len(inputs), dtype=inputs.dtype, device=inputs.device)
        return LowRank(solved(inputs @ inputs.T + ridge, inputs, "the gradients' inputs").T, wanted)

    def _record(self, shape: tuple[int, int]) -> str:
        """What the spread of matrices of a shape is kept under; edits by other tokens have other ones."""
        return f"gradient factors of {shape[0]} x {shape[1]}, {self.tokens} tokens"


def _shape(factors: GradientFactors) -> tuple[int, int]:
    return factors.inputs.shape[1], factors.gradients.shape[1]


def _row(factors: GradientFactors) -> Float[torch.Tensor, "token d_in_and_d_out"]:
    return torch.cat([factors.inputs, factors.gradients], dim=1)
