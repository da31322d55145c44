"""Corruption settings: how the embeddings of a span are made uninformative.

Every setting is a frozen dataclass; a draw is a pure function of its seed and of the shape ``[sample span d_model]``,
so that the corrupted run and every restored run see the same noise. Noise is drawn in float64 on the CPU, on any device.

A scale is a number, or ``"3sd"``: three standard deviations of all embeddings, as they enter the model (Wei et al. 2024), which
``resolve(model)`` turns into a number. Meng et al.'s program takes the standard deviation over the subjects of the fact
set instead: ``GaussianNoise(3 * subject_embedding_sd(model, subjects))``.

A seed that is not set is the driver's: ``trace(model, prompt, GaussianNoise(0.4), seed=7)`` draws from seed 7.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from typing_extensions import override

from tl_knowledge.arrays import Embeddings
from tl_knowledge.door import public
from tl_knowledge.errors import CorruptionError, check_choice, check_given
from tl_knowledge.models.hook_names import EMBED
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.runs.embeddings import entering_embeddings
from tl_knowledge.runs.windows import TraceVariant
from tl_knowledge.wording import counted

__all__ = [
    "GaussianNoise",
    "MultivariateGaussianNoise",
    "Noise",
    "PromptSwap",
    "Scale",
    "StudentTNoise",
    "UniformNoise",
    "embedding_sd",
    "subject_embedding_sd",
]

Scale: TypeAlias = float | str

_SCALE_RULE = re.compile(r"(\d+(?:\.\d+)?)\s*sd")


@public
def embedding_sd(model: AnyModel) -> float:
    """Standard deviation over all scalars of the vocabulary's embeddings as they enter the model (Wei et al. 2024)."""
    return float(entering_embeddings(as_model(model, masked=True, without_mlps=True)).double().std())


@public
def subject_embedding_sd(model: AnyModel, subjects: Iterable[str]) -> float:
    """Standard deviation over all scalars of the subjects' embeddings (the rule of Meng et al.'s program).

    Each subject is tokenised alone, without a leading space and without BOS.
    """
    model = as_model(model, masked=True, without_mlps=True)
    given = check_given(subjects, "subject", "pass the subjects of the fact set")
    ids = [token for subject in given for token in model.tokenizer(subject, add_special_tokens=False)["input_ids"]]
    if not ids:
        raise CorruptionError(f"the subjects {given} have no tokens; pass the subjects of the fact set.")
    matrix = entering_embeddings(model)
    return float(matrix[torch.tensor(ids, device=matrix.device)].double().std())


@dataclass(frozen=True)
class Noise(ABC):
    """What all drawn corruptions share; use one of the subclasses.

    Attributes:
        seed: of the draw; ``None`` is the seed of the function that it is passed to, and 0 in a plain hook.
        replace: put the noise in the embeddings' place instead of adding it.
        variant: ``"ours"`` (numpy's default generator) or ``"meng2022_code"`` (the stream of Meng et al.'s program: ``RandomState(1 + seed)``,
            so that the default seed 0 is that program's own).
    """

    seed: int | None = field(default=None, kw_only=True)
    replace: bool = field(default=False, kw_only=True)
    variant: TraceVariant = field(default="ours", kw_only=True)

    def __post_init__(self) -> None:
        check_choice("variant", self.variant, TraceVariant, CorruptionError)
        if self.seed is not None and self.seed < 0:
            raise CorruptionError(f"seed {self.seed} is negative; pass an integer of at least 0.")

    @property
    @abstractmethod
    def scale(self) -> Scale:
        """The noise's scale, as given."""

    @abstractmethod
    def with_scale(self, scale: float) -> Noise:
        """The same settings with another scale."""

    @abstractmethod
    def draw(self, shape: tuple[int, int, int]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Noise of unit scale, ``[sample span d_model]``."""

    def resolve(self, model: HookedModel) -> Noise:
        """The same settings with every scale as a number.

        Raises:
            CorruptionError: a scale that is neither a number nor of the form ``"3sd"``, negative or not finite.
        """
        if not isinstance(self.scale, str):
            _check_scale(self.scale)
            return self
        rule = _SCALE_RULE.fullmatch(self.scale.strip())
        if rule is None:
            raise CorruptionError(f"noise scale {self.scale!r} is not understood; pass a number, or '3sd' for 3 sd of the embeddings.")
        return self.with_scale(float(rule[1]) * embedding_sd(model))

    def with_seed(self, seed: int | None) -> Noise:
        """The same settings with another seed."""
        return replace(self, seed=seed)

    def seeded(self, seed: int = 0) -> Noise:
        """The same settings with their seed set: their own, else the one that the driver was given.

        Raises:
            CorruptionError: both were given, and they differ.

        Example:
            >>> GaussianNoise(0.4).seeded(7).seed, GaussianNoise(0.4, seed=3).seeded().seed
            (7, 3)
        """
        if self.seed is not None and seed not in (0, self.seed):
            raise CorruptionError(f"the noise has seed {self.seed}, but seed={seed} was given too; pass one of them.")
        return self.with_seed(seed) if self.seed is None else self

    def generator(self) -> np.random.Generator | np.random.RandomState:
        """A fresh generator at the start of the seed's stream."""
        seed = self.seed or 0
        return np.random.RandomState(1 + seed) if self.variant == "meng2022_code" else np.random.default_rng(seed)

    def corrupted(self, embeddings: Embeddings, positions: tuple[int, ...]) -> Float[torch.Tensor, "batch span d_model"]:
        """Embeddings of the span with the noise added, or the noise alone under ``replace``."""
        if isinstance(self.scale, str):
            raise CorruptionError(f"noise scale {self.scale!r} depends on the model; call noise.resolve(model) first.")
        _check_scale(self.scale)
        clean = embeddings[:, list(positions)]
        drawn = torch.from_numpy(self.draw((clean.shape[0], clean.shape[1], clean.shape[2]))).to(clean.device)
        noise = self.scale * drawn
        # Summed in float64 and rounded once, as adding float64 noise in place does in Meng et al.'s program.
        return (noise if self.replace else clean.double() + noise).to(clean.dtype)


@public
@dataclass(frozen=True)
class GaussianNoise(Noise):
    """Independent Gaussian noise of standard deviation ``sd``."""

    sd: Scale = "3sd"

    @property
    @override
    def scale(self) -> Scale:
        return self.sd

    @override
    def with_scale(self, scale: float) -> GaussianNoise:
        return replace(self, sd=scale)

    @override
    def draw(self, shape: tuple[int, int, int]) -> np.ndarray[Any, np.dtype[np.float64]]:
        generator = self.generator()
        return generator.randn(*shape) if isinstance(generator, np.random.RandomState) else generator.standard_normal(shape)


@public
@dataclass(frozen=True)
class UniformNoise(Noise):
    """Independent noise, uniform in ``[-half_width, half_width]``."""

    half_width: Scale = "3sd"

    @property
    @override
    def scale(self) -> Scale:
        return self.half_width

    @override
    def with_scale(self, scale: float) -> UniformNoise:
        return replace(self, half_width=scale)

    @override
    def draw(self, shape: tuple[int, int, int]) -> np.ndarray[Any, np.dtype[np.float64]]:
        return self.generator().uniform(-1.0, 1.0, shape)


@public
@dataclass(frozen=True)
class StudentTNoise(Noise):
    """Independent Student-t noise: heavier tails than the Gaussian; ``sd`` scales a standard t variable."""

    sd: Scale = "3sd"
    degrees: float = 3.0

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.degrees) and self.degrees > 0):
            raise CorruptionError(f"degrees of freedom {self.degrees} are not positive; pass a positive number.")

    @property
    @override
    def scale(self) -> Scale:
        return self.sd

    @override
    def with_scale(self, scale: float) -> StudentTNoise:
        return replace(self, sd=scale)

    @override
    def draw(self, shape: tuple[int, int, int]) -> np.ndarray[Any, np.dtype[np.float64]]:
        return self.generator().standard_t(self.degrees, shape)


@public
@dataclass(frozen=True)
class MultivariateGaussianNoise(Noise):
    """Gaussian noise with the covariance of the model's embeddings, ``factor`` times as large in every direction."""

    factor: Scale = 3.0
    _root: torch.Tensor | None = field(default=None, kw_only=True, repr=False, compare=False)

    @property
    @override
    def scale(self) -> Scale:
        return self.factor

    @override
    def with_scale(self, scale: float) -> MultivariateGaussianNoise:
        return replace(self, factor=scale)

    @override
    def resolve(self, model: HookedModel) -> MultivariateGaussianNoise:
        """Take the covariance's square root from the model's embeddings."""
        if isinstance(self.factor, str):
            raise CorruptionError(f"factor {self.factor!r} is not a number; the covariance already comes from the embeddings: pass 3.0.")
        _check_scale(self.factor)
        values, vectors = torch.linalg.eigh(torch.cov(entering_embeddings(model).double().cpu().T))
        return replace(self, _root=vectors * values.clamp_min(0).sqrt())

    @override
    def draw(self, shape: tuple[int, int, int]) -> np.ndarray[Any, np.dtype[np.float64]]:
        if self._root is None:
            raise CorruptionError("the embeddings' covariance is not known yet; call noise.resolve(model) first.")
        white = GaussianNoise(1.0, seed=self.seed, variant=self.variant).draw(shape)
        return white @ self._root.numpy().T


@public
@dataclass(frozen=True, repr=False)
class PromptSwap:
    """Corrupt by another prompt: the span's embeddings become those of a prompt of equal length.

    Nothing is drawn, so there is one sample, however many are asked for.
    """

    prompt: Prompt
    _embeddings: torch.Tensor | None = field(default=None, kw_only=True, repr=False, compare=False)

    def __repr__(self) -> str:
        return f"PromptSwap({self.prompt.text or list(self.prompt.labels)!r})"

    def resolve(self, model: HookedModel) -> PromptSwap:
        """Take the other prompt's embeddings from the model."""
        _, cache = model.run_with_cache(self.prompt.tokens, names_filter=[EMBED])
        return replace(self, _embeddings=cache[EMBED].detach())

    def corrupted(self, embeddings: Embeddings, positions: tuple[int, ...]) -> Float[torch.Tensor, "batch span d_model"]:
        """The other prompt's embeddings at the span, for every row."""
        if self._embeddings is None:
            raise CorruptionError("the other prompt's embeddings are not known yet; call swap.resolve(model) first.")
        if max(positions) >= len(self.prompt):
            raise CorruptionError(
                f"the other prompt has {counted(len(self.prompt), 'token')}, but position {max(positions)} is "
                f"corrupted; pass a prompt of equal length."
            )
        return self._embeddings[:, list(positions)].to(embeddings).expand(embeddings.shape[0], -1, -1)


def _check_scale(scale: float) -> None:
    if not math.isfinite(scale) or scale < 0:
        raise CorruptionError(f"noise scale {scale} is not a finite number of at least 0; pass for example 0.1, or '3sd'.")
