"""Every error this package raises, in one tree.

::

    TLKnowledgeError
    ├── InputError(ValueError)              something the caller passed is wrong
    │   ├── SubjectNotFoundError            the subject is not in the prompt, or no token boundary fits it
    │   ├── PromptError                     empty prompt, prompt longer than the model's context
    │   ├── TargetError                     a target of no tokens, or outside the vocabulary
    │   ├── ComponentError                  unknown component, layer, position, unit or window
    │   ├── CorruptionError                 noise that cannot be drawn (negative, non-finite, wrong length)
    │   └── DataError                       nothing was given, or a file or data set that cannot be read
    ├── ModelError(RuntimeError)            the model cannot be used as it is
    │   ├── UnsupportedModelError           mixture of experts, missing hooks, no such backend
    │   └── ModelStateError                 training mode with dropout
    └── NumericalError(RuntimeError)        activations that are not finite

Each message says what failed, the offending value and the remedy.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, TypeVar, get_args

__all__ = [
    "ComponentError",
    "CorruptionError",
    "DataError",
    "InputError",
    "MissingSpaceWarning",
    "ModelError",
    "ModelStateError",
    "NumericalError",
    "PromptError",
    "SlowEngineWarning",
    "SubjectNotFoundError",
    "TLKnowledgeError",
    "TargetError",
    "UnreadEditWarning",
    "UnsupportedModelError",
    "check_choice",
    "check_given",
    "check_trains",
]

Item = TypeVar("Item")


class TLKnowledgeError(Exception):
    """Base of every error raised on purpose by ``tl_knowledge``."""


class InputError(TLKnowledgeError, ValueError):
    """Something the caller passed is wrong."""


class SubjectNotFoundError(InputError):
    """The subject does not occur in the prompt, or its characters do not fall on token boundaries."""


class PromptError(InputError):
    """The prompt is empty, too long for the model, or has no such span."""


class TargetError(InputError):
    """The target has no tokens or lies outside the vocabulary."""


class ComponentError(InputError):
    """No such component, layer, position, unit or window."""


class CorruptionError(InputError):
    """The corruption cannot be drawn as asked."""


class DataError(InputError):
    """Nothing was given to work on, or a file or data set cannot be read."""


class ModelError(TLKnowledgeError, RuntimeError):
    """The model cannot be used as it is."""


class UnsupportedModelError(ModelError):
    """The model's architecture or backend is not supported."""


class ModelStateError(ModelError):
    """The model is in a state in which results would be wrong."""


class NumericalError(TLKnowledgeError, RuntimeError):
    """An activation or probability is not finite."""


class MissingSpaceWarning(UserWarning):
    """A target that lacks the space between it and the prompt."""


class SlowEngineWarning(UserWarning):
    """A fast engine would not be exact on this model, so that a slower one runs."""


class UnreadEditWarning(UserWarning):
    """An edit in the last layer, at a token that no position which predicts the target reads: its value cannot change the answer."""


def check_choice(word: str, value: object, choices: Any, error: type[InputError] = InputError) -> None:
    """Refuse a word that is not among the known ones, naming the nearest.

    Args:
        word: the argument's name.
        value: what was passed.
        choices: a `Literal`, or the known words.
        error: the class to raise.

    Raises:
        InputError: or the class that was given.

    Example:
        >>> check_choice("engine", "row", ("rows", "loop"))
        Traceback (most recent call last):
            ...
        tl_knowledge.errors.InputError: engine 'row' is unknown, did you mean 'rows'? Pass one of 'rows', 'loop'.
    """
    known: tuple[str, ...] = get_args(choices) or tuple(choices)
    if value in known:
        return
    near = get_close_matches(str(value), known, n=1)
    meant = f", did you mean {near[0]!r}? Pass" if near else "; pass"
    raise error(f"{word} {value!r} is unknown{meant} one of {', '.join(map(repr, known))}.")


def check_given(items: Iterable[Item], what: str, remedy: str = "pass at least one") -> tuple[Item, ...]:
    """What was given as a tuple, refusing nothing at all.

    Raises:
        DataError: nothing was given.

    Example:
        >>> check_given(iter("ab"), "fact")
        ('a', 'b')
    """
    given = tuple(items)
    if not given:
        raise DataError(f"no {what} was given; {remedy}.")
    return given


def check_trains(settings: object, *names: str) -> None:
    """Refuse settings of a training that train nothing.

    Args:
        names: of the fields that must be positive and finite.

    Raises:
        InputError: one of them is not.
    """
    for name in names:
        if not 0 < getattr(settings, name) < float("inf"):
            raise InputError(f"{name}={getattr(settings, name)!r} trains nothing; pass a positive number.")
