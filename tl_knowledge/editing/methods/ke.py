"""KE, the knowledge editor: networks that mask and shift a gradient, by what the edit says (De Cao et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch.nn.utils.parametrizations import weight_norm
from typing_extensions import override

from tl_knowledge.door import public
from tl_knowledge.editing.low_rank import LowRank
from tl_knowledge.editing.optimise.gradient_factors import GradientFactors, TargetGradient
from tl_knowledge.editing.training.gradient_editor import GradientEditor
from tl_knowledge.editing.training.network import EditNetwork
from tl_knowledge.editing.training.settings import TrainingSettings
from tl_knowledge.errors import InputError
from tl_knowledge.models.matrices import BlockMatrix, matrix_weights
from tl_knowledge.models.protocol import HookedModel, embedding_matrix, model_device
from tl_knowledge.prompts.prompt import Prompt

__all__ = ["KE", "KENetwork"]

KE_TRAINING = TrainingSettings(learning_rate=1e-5)
FACTLM_TRAINING = TrainingSettings(
    steps=800, learning_rate=1e-3, accumulate=5, validate_every=200, validation_samples=60, patience=800, text_tokens=32
)


@public
@dataclass(frozen=True)
class KE(GradientEditor):
    """Settings of KE, and once trained what it has learnt: ``dW = most * sigmoid(e) * (g * a + b)`` (De Cao et al. 2021, section 4.2).

    ``g`` is the gradient of a matrix ``[n m]``; ``a = softmax(r_a) c_a^T`` masks it and ``b = softmax(r_b) c_b^T`` shifts it. ``r [n]``, ``c [m]``
    and ``e`` come from two layers with normalised weights (tanh between them), one such net for each matrix, that read a condition: prompt and new
    target, as a trained copy of the model's token embeddings, through a bidirectional LSTM whose last states go through a linear layer and tanh.

    Since ``a`` has rank one, ``g * a = sum_t (softmax(r_a) * x_t) (d_t * c_a)^T``: the change has one rank a token and one more, and is held so,
    exactly. The sign is left to the training. This is the row "KE" ("EFK") of Mitchell et al. (2022a) and Meng et al. (2022): their matrices, sizes
    and outer loss, in which De Cao et al.'s constraint on the drift is a term. The program takes GPT-2's matrices as ``[in out]``, as here, and those
    of other models turned; here rows are inputs on every model.

    Attributes:
        layers, matrices, training, scale, editor: as `GradientEditor`.
        condition: width of the condition.
        hidden: width of the LSTM and of the nets between.
        most: ``most`` above.

    Raises:
        InputError: a number that is not positive.

    Example:
        >>> import tl_knowledge as tlk
        >>> from tl_knowledge.editing import load_training_data
        >>> model, data = tlk.load_model("factlm"), load_training_data("factlm")
        >>> ke = KE.small().train(model, data.cases[:9], data.corpus[:9], validation=data.validation[:2], progress=False)
        >>> case = tlk.load_edit_cases()[0]
        >>> edit, tokens = tlk.plan_edit(model, case.rewrite, ke), len(tlk.Prompt.from_fact(model, case.rewrite))
        >>> {change.rank - tokens for change in edit.changes.values()}  # its target has one token
        {1}
    """

    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "gpt2": {"layers": (9, 10, 11)},
        "gpt2-xl": {"layers": (45, 46, 47)},
        "gpt-j-6b": {"layers": (25, 26, 27)},
        "factlm": {"layers": (5, 6, 7), "condition": 128, "hidden": 128, "training": FACTLM_TRAINING},
    }

    training: TrainingSettings = field(default_factory=lambda: KE_TRAINING, kw_only=True)
    condition: int = 768
    hidden: int = 512
    most: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("condition", "hidden", "most"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"{name}={getattr(self, name)!r} makes no edit; pass a positive number.")

    @classmethod
    @override
    def small(cls) -> KE:
        return replace(super().small(), condition=8, hidden=8)

    @override
    def network(self, model: HookedModel) -> KENetwork:
        return KENetwork(model, self)


class KENetwork(EditNetwork):
    """What reads the edit, and a net for every matrix."""

    def __init__(self, model: HookedModel, settings: KE) -> None:
        super().__init__()
        self._settings, self._places = settings, settings.places(model)
        shapes = [matrix_weights(model, place).shape for place in self._places]
        held = embedding_matrix(model)
        words = held.detach().to("cpu", torch.promote_types(held.dtype, torch.float32), copy=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.training.seed)
            self.embedding = torch.nn.Embedding.from_pretrained(words, freeze=False)
            self.lstm = torch.nn.LSTM(words.shape[1], settings.hidden, bidirectional=True, batch_first=True)
            self.read = torch.nn.Linear(2 * settings.hidden, settings.condition)
            self.heads = torch.nn.ModuleList([self._head(d_in, d_out) for d_in, d_out in shapes])
        self.to(model_device(model), words.dtype)

    def _head(self, d_in: int, d_out: int) -> torch.nn.Module:
        first = weight_norm(torch.nn.Linear(self._settings.condition, self._settings.hidden))
        return torch.nn.Sequential(first, torch.nn.Tanh(), weight_norm(torch.nn.Linear(self._settings.hidden, 2 * (d_in + d_out) + 1)))

    @override
    def changes(self, prompt: Prompt, gradient: TargetGradient) -> dict[BlockMatrix, LowRank]:
        condition = self._condition(prompt)
        return {place: self._change(head(condition), gradient.factors[place]) for place, head in zip(self._places, self.heads, strict=True)}

    def _condition(self, prompt: Prompt) -> Float[torch.Tensor, " condition"]:
        """The edit's words in one vector: the LSTM's last states, forwards and backwards."""
        tokens = torch.cat([prompt.tokens[0], torch.tensor(prompt.answer, device=prompt.tokens.device)])
        _, (states, _) = self.lstm(self.embedding(tokens)[None])
        return self.read(states[:, 0].flatten()).tanh()

    def _change(self, said: Float[torch.Tensor, " said"], factors: GradientFactors) -> LowRank:
        """``most * sigmoid(e) * (g * a + b)`` as factors."""
        x, d = factors.inputs.to(said), factors.gradients.to(said)
        (d_in, d_out) = x.shape[1], d.shape[1]
        c_a, r_a, c_b, r_b, e = said.split([d_out, d_in, d_out, d_in, 1])
        left = torch.cat([(r_a.softmax(0) * x).T, r_b.softmax(0)[:, None]], dim=1)
        return LowRank(self._settings.most * e.sigmoid() * left, torch.cat([d * c_a, c_b[None]]))
