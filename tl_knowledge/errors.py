"""Every error this package raises, in one tree.

::

    TLKnowledgeError
    ├── InputError(ValueError)              something the caller passed is wrong
    │   ├── SubjectNotFoundError            the subject is not in the prompt, or no token boundary fits it
    │   ├── PromptError                     empty prompt, prompt longer than the model's context
    │   ├── TargetError                     a target of no tokens, or outside the vocabulary
    │   ├── ComponentError                  unknown component, layer, position, unit or window
    │   ├── CorruptionError                 noise that cannot be drawn (negative, non-finite, wrong length)
    │   └── DataError                       a file or data set that cannot be read
    ├── ModelError(RuntimeError)            the model cannot be used as it is
    │   ├── UnsupportedModelError           mixture of experts, missing hooks, no such backend
    │   └── ModelStateError                 training mode with dropout
    └── NumericalError(RuntimeError)        activations that are not finite

Each message says what failed, the offending value and the remedy.
"""

from __future__ import annotations

__all__ = [
    "ComponentError",
    "CorruptionError",
    "DataError",
    "InputError",
    "ModelError",
    "ModelStateError",
    "NumericalError",
    "PromptError",
    "SubjectNotFoundError",
    "TLKnowledgeError",
    "TargetError",
    "UnsupportedModelError",
]


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
    """A file or data set cannot be read."""


class ModelError(TLKnowledgeError, RuntimeError):
    """The model cannot be used as it is."""


class UnsupportedModelError(ModelError):
    """The model's architecture or backend is not supported."""


class ModelStateError(ModelError):
    """The model is in a state in which results would be wrong."""


class NumericalError(TLKnowledgeError, RuntimeError):
    """An activation or probability is not finite."""
