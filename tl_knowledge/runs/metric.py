"""What effects are measured in: one object that traces, knockouts, attributions, circuits and sweeps share."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from typing_extensions import Self

from tl_knowledge.errors import InputError, NumericalError
from tl_knowledge.metrics import answer_log_probability, answer_logit, answer_probability, answer_rank, divergence_from, next_log_probabilities
from tl_knowledge.results.digest import function_digest

__all__ = ["PROBABILITY", "Against", "AnyMetric", "Metric", "MetricWord", "check_gradient"]

MetricWord: TypeAlias = Literal["probability", "log_probability", "logit", "logit_difference", "kl", "rank"]
"""What effects are measured in where the answer is predicted. Of every metric more is better, so that an effect above 0 always is one towards the
clean answer:

==================== ============================================================================================ ===========
word                 is                                                                                           unit
==================== ============================================================================================ ===========
``probability``      the answer's probability (Meng et al. 2022)                                                  1
``log_probability``  its logarithm                                                                                nats
``logit``            the answer's logit, which may be shifted by what no probability shows                        logits
``logit_difference`` the answer's logit less another token's (Wang et al. 2022), or less the mean of several      logits
``kl``               *minus* ``KL(clean || run)`` of the whole next-token distribution (Conmy et al. 2023)        nats
``rank``             *minus* the number of tokens of a larger logit: 0 where the answer is the prediction         ranks
==================== ============================================================================================ ===========
"""

Against: TypeAlias = str | int | Sequence[str | int] | None
"""Other answers, each text by its first token."""

MEASURED_IN = {
    "probability": "probability",
    "log_probability": "log-probability, nats",
    "logit": "logit",
    "kl": "fall of KL, nats",
    "rank": "ranks gained",
}
OF_ANSWER = {
    "probability": "P({})",
    "log_probability": "log P({})",
    "logit": "the logit of {}",
    "kl": "the negative KL from the clean run",
    "rank": "the negative rank of {}",
}
UNITS = {"log_probability": " nats", "logit": " logits", "logit_difference": " logits", "kl": " nats", "rank": " ranks"}


@dataclass(frozen=True)
class Metric:
    """What effects are measured in: one number a row, from the logits where the answer is predicted; the larger, the better.

    Its name says all of it, but what a caller's function computes: files and keys hold the name alone, and two functions have two names.

    Attributes:
        name: a `MetricWord`; ``logit_difference`` with its other tokens; ``function`` with its own name and a digest of it.
        against: the tokens whose mean logit is taken off.

    Example:
        >>> Metric("log_probability").score(torch.zeros(2, 1, 4), torch.tensor([[3]])).exp()
        tensor([0.2500, 0.2500])
    """

    name: str
    against: tuple[int, ...] = ()
    _function: Callable[..., torch.Tensor] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of_function(cls, function: Callable[..., torch.Tensor]) -> Self:
        """A caller's own, ``logits [row d_vocab] -> [row]``."""
        name = str(getattr(function, "__qualname__", type(function).__qualname__)).rpartition("<locals>.")[2]
        return cls(f"function {name} [{function_digest(function)}]", (), function)

    @classmethod
    def from_word(cls, word: str) -> Self:
        """From its name, as a file has it; a function's scores nothing then."""
        tokens = re.search(r"\[([\d, ]+)\]$", word) if word.startswith("logit_difference ") else None
        return cls(word, tuple(map(int, tokens[1].split(", "))) if tokens else ())

    def to_word(self) -> str:
        """What files and keys hold."""
        return self.name

    def __str__(self) -> str:
        return self.name

    @property
    def kind(self) -> str:
        """The `MetricWord`, or ``"function"``."""
        return self.name.partition(" ")[0]

    @property
    def whole_answer(self) -> bool:
        """Whether an answer of several tokens has a value: all others read one position."""
        return self.kind in ("probability", "log_probability")

    @property
    def measured_in(self) -> str:
        """What an effect is counted in, for an axis."""
        return MEASURED_IN.get(self.kind, f"logit difference to {self._words}" if self.against else self._words)

    @property
    def unit(self) -> str:
        """What stands behind a number."""
        return UNITS.get(self.kind, "")

    @property
    def _words(self) -> str:
        """The other answers, or the function's name."""
        return self.name.rpartition(" [")[0].partition(" ")[2].removeprefix("against ")

    def of_answer(self, target: str | None = None) -> str:
        """What is measured of an answer, or of any, for a title.

        Example:
            >>> Metric("log_probability").of_answer(" Paris"), Metric("logit").of_answer()
            ("log P('Paris')", 'the logit of the answer')
        """
        answer = repr(target.strip()) if target is not None else "answer" if self.whole_answer else "the answer"
        if self.against:
            return f"the logit of {answer} less that of {self._words}"
        return OF_ANSWER[self.kind].format(answer) if self.kind in OF_ANSWER else f"{self._words}(logits)"

    @property
    def remark(self) -> str:
        """What effects are counted in, in brackets, for a title or an axis of shares; nothing for the probability, which goes without saying."""
        return "" if self == PROBABILITY else f" ({self.measured_in})"

    def number(self, value: float) -> str:
        """A value of it as text.

        Example:
            >>> Metric("probability").number(0.25), Metric("rank").number(-3.0)
            ('25.0%', '-3 ranks')
        """
        return f"{value:.1%}" if self.kind == "probability" else f"{value + 0.0:.4g}{self.unit}"  # + 0.0: no minus before a zero

    def check_differentiable(self, what: str) -> None:
        """Refuse a rank where gradients are taken.

        Raises:
            InputError: a metric without a gradient.
        """
        if self.kind == "rank":
            raise InputError(f"{what} takes gradients, and metric='rank' counts tokens and has none; pass 'logit' or 'log_probability'.")

    def check_storable(self, store: str | os.PathLike[str] | None) -> None:
        """Refuse a folder for a function's run: it would have to know the function again when it goes on.

        Raises:
            InputError: a store, for a function.
        """
        if store is not None and self.kind == "function":
            raise InputError(f"metric={self._words} is a function, which a stored run cannot know again; pass a word as metric, or leave out store=.")

    def reference(self, logits: Float[torch.Tensor, "row answer d_vocab"]) -> Float[torch.Tensor, "row d_vocab"] | None:
        """What `score` needs of clean runs, from their logits: ``kl`` their log-probabilities, all others nothing."""
        return next_log_probabilities(logits).detach() if self.kind == "kl" else None

    def score(
        self,
        logits: Float[torch.Tensor, "row answer d_vocab"],
        answer: Int[torch.Tensor, "#row answer"],
        reference: Float[torch.Tensor, "#row d_vocab"] | None = None,
    ) -> Float[torch.Tensor, " row"]:
        """The metric in every row; NaN where its logits are.

        Args:
            logits: at the positions that predict the answer's tokens, in order.
            answer: each row's answer, or one for all.
            reference: what `reference` gave for each row's clean run, or one for all.

        Raises:
            InputError: a function that does not give one number a row, each from its own row.
            NumericalError: a function whose numbers are not finite.
        """
        match self.kind:
            case "probability":
                return answer_probability(logits, answer)
            case "log_probability":
                return answer_log_probability(logits, answer)
            case "logit" | "logit_difference":
                return answer_logit(logits, answer, self.against)
            case "rank":
                return 0 - answer_rank(logits, answer)
            case "kl":
                assert reference is not None
                return 0 - divergence_from(reference, logits)
            case _:
                return self._called(logits[:, 0])

    def _called(self, logits: Float[torch.Tensor, "row d_vocab"]) -> Float[torch.Tensor, " row"]:
        """What the caller's function gives; it has a copy of the logits, which it may write on."""
        if self._function is None:
            raise InputError(f"metric {self.name!r} comes from a file, which holds no function; pass the function again.")
        values = _numbers(self._words, self._function(logits.clone()), logits)
        alone = _numbers(self._words, self._function(logits[-1:].detach().clone()), logits[-1:]).detach()
        rounding = torch.finfo(values.dtype).eps ** 0.5
        if not torch.allclose(values[-1:].detach(), alone, rtol=rounding, atol=rounding * float(alone.abs()), equal_nan=True):
            raise InputError(
                f"metric={self._words} gave {values[-1].item():.6g} for a row among {len(values)}, and {alone.item():.6g} for it alone; rows are "
                "different runs: compute each number from its own row."
            )
        return values


PROBABILITY = Metric("probability")
"""What is measured when nothing is said."""

AnyMetric: TypeAlias = MetricWord | Callable[..., torch.Tensor] | Metric
"""A word; a function of ``logits [row d_vocab]``, where the answer is predicted, that gives ``[row]``, each number from its own row alone; or what a
result's settings have."""


def _numbers(name: str, given: object, logits: Float[torch.Tensor, "row d_vocab"]) -> Float[torch.Tensor, " row"]:
    """What a function gave, in at least single precision; NaN where the row's logits are.

    Raises:
        InputError, NumericalError: no number a row, or none that is finite.
    """
    if not isinstance(given, torch.Tensor) or tuple(given.shape) != (len(logits),):
        what = f"shape {tuple(given.shape)}" if isinstance(given, torch.Tensor) else type(given).__name__
        raise InputError(f"metric={name} gave {what} for logits {list(logits.shape)}; return one number a row, a tensor of shape [{len(logits)}].")
    values, sound = given.to(torch.promote_types(logits.dtype, torch.float32)), logits.detach().amax(-1).isfinite()
    wrong = values.detach()[sound & ~values.detach().isfinite()]
    if len(wrong):
        raise NumericalError(f"metric={name} gave {wrong[0].item()} for finite logits; return finite numbers.")
    return values.masked_fill(~sound, torch.nan)


def check_gradient(scores: Float[torch.Tensor, " row"], metric: Metric) -> None:
    """Refuse a function whose numbers have no gradient in the logits.

    Raises:
        InputError: such a function.
    """
    if not scores.requires_grad:
        raise InputError(f"metric={metric} has no gradient in the logits, which is what is taken here; compute it with differentiable functions.")
