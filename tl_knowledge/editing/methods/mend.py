"""MEND: networks that turn a gradient's factors into an edit's (Mitchell et al. 2022a)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from typing_extensions import override

from tl_knowledge.door import public
from tl_knowledge.editing.low_rank import LowRank
from tl_knowledge.editing.optimise.gradient_factors import GradientFactors, TargetGradient
from tl_knowledge.editing.training.gradient_editor import GradientEditor
from tl_knowledge.editing.training.network import EditNetwork
from tl_knowledge.editing.training.settings import TrainingSettings
from tl_knowledge.errors import InputError
from tl_knowledge.models.matrices import BlockMatrix, matrix_weights
from tl_knowledge.models.protocol import HookedModel, model_device
from tl_knowledge.prompts.prompt import Prompt

__all__ = ["MEND", "MENDNetwork", "ShapeNetwork"]

TINY = 1e-7
FACTLM_TRAINING = TrainingSettings(
    steps=800, learning_rate=1e-5, accumulate=5, kl_factor=3.0, validate_every=200, validation_samples=60, patience=800, text_tokens=32
)


@public
@dataclass(frozen=True)
class MEND(GradientEditor):
    """Settings of MEND, and once trained what it has learnt (Mitchell et al. 2022a, equations 4 and 5).

    ``W <- W - scale rate_W sum_t x~_t d~_t^T``, where ``x_t`` is what the matrix reads at token ``t`` and ``d_t`` the gradient at its output.
    Tokens at which either is zero drop out. Each coordinate is standardised by its mean and standard deviation over all tokens of the training,
    and ``z = [x^; d^]`` goes through residual blocks ``z + max(0, s * (U V z + b) + o)``: one network for all matrices of one shape, with ``s`` and
    ``o`` of each matrix' own. ``U`` starts at 0, so that an untrained MEND is the gradient of standardised factors.

    Mitchell et al.'s program *adds* the change and leaves its sign to the training; ours subtracts it, so that the untrained change descends. Files
    of that program come with the sign of their rates turned (``training/convert_mend.py``). Published are ``W_in`` and ``W_out`` of the last three
    MLPs; of a gated MLP the same two, unless ``matrices`` has ``"W_gate"``.

    Attributes:
        layers, matrices, training, scale, editor: as `GradientEditor`.
        rank: of ``U V``, at most.
        blocks: how many residual blocks.
        rate: where each matrix' learned ``rate_W`` starts.
        rate_learning_rate: of Adam, for these rates.

    Raises:
        InputError: a number that is not positive.

    Example:
        >>> import tl_knowledge as tlk
        >>> from tl_knowledge.editing import load_training_data
        >>> MEND.for_model("factlm").layers  # its training takes minutes; this one a moment
        (1, 2, 3)
        >>> model, data = tlk.load_model("factlm"), load_training_data("factlm")
        >>> mend = MEND.small().train(model, data.cases[:9], data.corpus[:9], validation=data.validation[:2], progress=False)
        >>> edit = tlk.plan_edit(model, tlk.load_edit_cases()[0].rewrite, mend)
        >>> sorted(edit.changes)
        ['blocks.0.mlp.W_in', 'blocks.0.mlp.W_out', 'blocks.2.mlp.W_in', 'blocks.2.mlp.W_out']
    """

    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "gpt2": {"layers": (9, 10, 11)},
        "gpt2-xl": {"layers": (45, 46, 47)},
        "gpt-j-6b": {"layers": (25, 26, 27)},
        "factlm": {"layers": (1, 2, 3), "rate_learning_rate": 1e-3, "training": FACTLM_TRAINING},
    }

    rank: int = 1920
    blocks: int = 2
    rate: float = 1e-4
    rate_learning_rate: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rank", "blocks", "rate_learning_rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"{name}={getattr(self, name)!r} makes no edit; pass a positive number.")

    @classmethod
    @override
    def small(cls) -> MEND:
        return replace(super().small(), rank=8)

    @override
    def network(self, model: HookedModel) -> MENDNetwork:
        return MENDNetwork(model, self)


class MENDNetwork(EditNetwork):
    """A `ShapeNetwork` for every shape, and every matrix' rate."""

    def __init__(self, model: HookedModel, settings: MEND) -> None:
        super().__init__()
        self._settings, self._places = settings, settings.places(model)
        weights = [matrix_weights(model, place) for place in self._places]
        dtype = torch.promote_types(weights[0].dtype, torch.float32)
        self._shapes = [f"{each.shape[0]}x{each.shape[1]}" for each in weights]
        draw, networks = torch.Generator().manual_seed(settings.training.seed), dict[str, ShapeNetwork]()
        for shape, each in zip(self._shapes, weights, strict=True):
            if shape not in networks:
                networks[shape] = ShapeNetwork(tuple(each.shape), self._shapes.count(shape), settings, draw, dtype)
        self.shapes = torch.nn.ModuleDict(networks)
        self.rates = torch.nn.Parameter(torch.full((len(weights),), settings.rate, dtype=dtype))
        self.to(model_device(model))

    @override
    def changes(self, prompt: Prompt, gradient: TargetGradient) -> dict[BlockMatrix, LowRank]:
        made: dict[BlockMatrix, LowRank] = {}
        for number, place in enumerate(self._places):
            x, d = self._of(number)(gradient.factors[place], self._shapes[:number].count(self._shapes[number]))
            made[place] = LowRank(-self.rates[number] * x.T, d)
        return made

    @override
    def see(self, gradient: TargetGradient) -> None:
        for number, place in enumerate(self._places):
            self._of(number).see(gradient.factors[place])

    @property
    @override
    def refusal(self) -> str:
        few = [shape for number, shape in enumerate(self._shapes) if int(self._of(number).count) < 2]
        return f"fewer than two tokens were seen of matrices {few[0]}" if few else ""

    @override
    def parameter_groups(self) -> list[dict[str, object]]:
        return [{"params": list(self.shapes.parameters())}, {"params": [self.rates], "lr": self._settings.rate_learning_rate}]

    def _of(self, number: int) -> ShapeNetwork:
        network = self.shapes[self._shapes[number]]
        assert isinstance(network, ShapeNetwork)
        return network


class ShapeNetwork(torch.nn.Module):
    """What all matrices of one shape share: running statistics of their factors, and residual blocks."""

    count: torch.Tensor
    mean: torch.Tensor
    squares: torch.Tensor

    def __init__(self, shape: Sequence[int], matrices: int, settings: MEND, draw: torch.Generator, dtype: torch.dtype) -> None:
        super().__init__()
        self._d_in, width = shape[0], sum(shape)
        rank = min(settings.rank, width)
        for name, size in (("count", ()), ("mean", (width,)), ("squares", (width,))):  # in float64: they are sums over the whole training
            self.register_buffer(name, torch.zeros(size, dtype=torch.float64))

        def each(make: Any) -> torch.nn.ParameterList:
            return torch.nn.ParameterList([torch.nn.Parameter(make()) for _ in range(settings.blocks)])

        self.V = each(lambda: torch.randn(rank, width, generator=draw, dtype=torch.float32).to(dtype))
        self.U = each(lambda: torch.zeros(width, rank, dtype=dtype))
        self.b = each(lambda: torch.zeros(width, dtype=dtype))
        self.s = each(lambda: torch.ones(matrices, width, dtype=dtype))
        self.o = each(lambda: torch.zeros(matrices, width, dtype=dtype))

    @torch.no_grad()
    def see(self, factors: GradientFactors) -> None:
        """Take tokens into the running mean and sum of squares, as if one by one (Welford's recurrence, a batch at a time)."""
        z = _kept(factors).double()
        if not len(z):
            return
        mean, total = z.mean(0), self.count + len(z)
        apart = mean - self.mean
        self.squares += (z - mean).square().sum(0) + apart.square() * self.count * len(z) / total
        self.mean += apart * len(z) / total
        self.count.copy_(total)

    def standardised(self, factors: GradientFactors) -> Float[torch.Tensor, "kept width"]:
        """``[x^; d^]`` of the tokens at which neither is zero."""
        z, deviation = _kept(factors).double(), (self.squares / (self.count - 1)).sqrt()
        return ((z - self.mean) / (deviation + TINY)).to(self.V[0].dtype)

    def forward(self, factors: GradientFactors, matrix: int) -> tuple[Float[torch.Tensor, "kept d_in"], Float[torch.Tensor, "kept d_out"]]:
        """``x~`` and ``d~``.

        Args:
            matrix: its number among those of this shape.
        """
        z = self.standardised(factors)
        for into, out, bias, gain, shift in zip(self.V, self.U, self.b, self.s, self.o, strict=True):
            # The gradient of clamp at 0 is 1; that of relu is 0, and U would never move.
            z = z + (gain[matrix] * (z @ into.T @ out.T + bias) + shift[matrix]).clamp(min=0)
        return z[:, : self._d_in], z[:, self._d_in :]


def _kept(factors: GradientFactors) -> Float[torch.Tensor, "kept width"]:
    inside: Bool[torch.Tensor, " token"] = (factors.inputs != 0).any(-1) & (factors.gradients != 0).any(-1)
    return torch.cat([factors.inputs, factors.gradients], dim=-1)[inside]
