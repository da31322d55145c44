"""What effects are measured in: one object that traces, knockouts, attributions, circuits and sweeps share.

It needs no torch, since the command line reads settings that have it; `tl_knowledge.runs.scoring` computes it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from tl_knowledge.errors import InputError

__all__ = ["PROBABILITY", "Against", "AnyMetric", "Metric", "MetricWord"]

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
        >>> Metric("kl").measured_in
        'fall of KL, nats'
    """

    name: str
    against: tuple[int, ...] = ()
    _function: Callable[..., Any] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of_function(cls, function: Callable[..., Any]) -> Metric:
        """A caller's own, ``logits [row d_vocab] -> [row]``."""
        from tl_knowledge.results.digest import function_digest

        name = str(getattr(function, "__qualname__", type(function).__qualname__)).rpartition("<locals>.")[2]
        return cls(f"function {name} [{function_digest(function)}]", (), function)

    @classmethod
    def from_word(cls, word: str) -> Metric:
        """From its name, as a file has it; a function's scores nothing then."""
        tokens = re.search(r"\[([\d, ]+)\]$", word) if word.startswith("logit_difference ") else None
        return cls(word, tuple(map(int, tokens[1].split(", "))) if tokens else ())

    def to_word(self) -> str:
        """What files and keys hold."""
        return self.name

    def __str__(self) -> str:
        return self.name

    @property
    def function(self) -> Callable[..., Any] | None:
        """The caller's own, where it is at hand."""
        return self._function

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
        return MEASURED_IN.get(self.kind, f"logit difference to {self.words}" if self.against else self.words)

    @property
    def unit(self) -> str:
        """What stands behind a number."""
        return UNITS.get(self.kind, "")

    @property
    def words(self) -> str:
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
            return f"the logit of {answer} less that of {self.words}"
        return OF_ANSWER[self.kind].format(answer) if self.kind in OF_ANSWER else f"{self.words}(logits)"

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
            raise InputError(f"metric={self.words} is a function, which a stored run cannot know again; pass a word as metric, or leave out store=.")


PROBABILITY = Metric("probability")
"""What is measured when nothing is said."""

AnyMetric: TypeAlias = MetricWord | Callable[..., Any] | Metric
"""A word; a function of ``logits [row d_vocab]``, where the answer is predicted, that gives ``[row]``, each number from its own row alone; or what a
result's settings have."""
