"""What an edit and an editing method are to those who only plan and apply them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar, runtime_checkable

from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.runs.key_moments import KeyMoments

__all__ = ["AppliedEdit", "EditPlanner", "models_of"]


@runtime_checkable
class AppliedEdit(Protocol):
    """Anything that can be applied to a model and taken back."""

    def applied(self, model: HookedModel) -> AbstractContextManager[Any]:
        """A context inside which the model is edited."""
        ...

    def write_into(self, model: HookedModel) -> None:
        """Edit the model until `revert`."""
        ...

    def revert(self, model: HookedModel) -> None:
        """Take the edit back."""
        ...


PlannedEdit_co = TypeVar("PlannedEdit_co", covariant=True)


@runtime_checkable
class EditPlanner(Protocol[PlannedEdit_co]):
    """Anything with ``plan``: `tl_knowledge.editing.EditMethod`, or a class of your own that has nothing else."""

    def plan(self, model: HookedModel, facts: Sequence[Fact], moments: KeyMoments | None) -> PlannedEdit_co:
        """The edit that makes the model say each fact's target; the model is left as it was."""
        ...


def models_of(method: object) -> dict[str, bool]:
    """Which kinds of models a method edits, in the words of `as_model`: where it says ``edits_any_model``, those with masks or a decoder, too."""
    return dict.fromkeys(("masked", "encoder_decoder"), bool(getattr(method, "edits_any_model", False)))
