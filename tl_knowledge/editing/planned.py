"""What every planned edit can do, whatever it changes: be in a model for the length of a ``with``, or until it is taken back."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any

from tl_knowledge.editing.health import EditHealth
from tl_knowledge.errors import ModelStateError
from tl_knowledge.lock import model_lock
from tl_knowledge.models.ledger import unedited_fingerprint
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.result import Result

__all__ = ["PlannedEdit"]


class PlannedEdit(Result):
    """A frozen dataclass with these fields, and what `EditMethod.plan` returns.

    Attributes:
        method: the method's name.
        settings: the method's settings, as plain data.
        fingerprint: of the weights it was planned for.
        notes: what the method recorded of each fact, plain data.
        provenance: the model, the versions.
    """

    method: str
    settings: dict[str, Any]
    fingerprint: str
    notes: tuple[dict[str, Any], ...]
    provenance: Provenance

    @abstractmethod
    def write_into(self, model: HookedModel) -> None:
        """Edit the model until `revert`; several stack, and any of them can be reverted.

        Raises:
            ComponentError: the edit is of another model's shape.
            ModelStateError: it is in the model already, or was planned for other weights.
            NumericalError: the weights would not be finite.
        """

    @abstractmethod
    def revert(self, model: HookedModel) -> None:
        """Take the edit back out of the model.

        Raises:
            ModelStateError: it is not in this model, or someone else changed the weights since.
        """

    @abstractmethod
    def is_written_into(self, model: HookedModel) -> bool:
        """Whether the edit is in the model now."""

    @abstractmethod
    def health(self, model: HookedModel, corpus: Iterable[str] = (), *, limit: int = 100) -> EditHealth:
        """How large the change is, and what it does to ordinary text; the model is left as it is.

        Args:
            model: the model without this edit.
            corpus: ordinary text for the perplexity; none is measured without.
            limit: how many of them, at most.

        Raises:
            ModelStateError: the edit is in the model, or was planned for other weights.
        """

    @contextmanager
    def applied(self, model: HookedModel) -> Generator[HookedModel]:
        """Edit the model for the length of a ``with``; afterwards, and after an exception, it is bit for bit what it was.

        Another thread that calls this package on the same model waits until then.

        Raises:
            ComponentError: the edit is of another model's shape.
            ModelStateError: it was planned for other weights.
            NumericalError: the weights would not be finite.
        """
        with model_lock(model):
            written_before = self.is_written_into(model)
            try:
                self.write_into(model)
                yield model
            finally:
                if not written_before and self.is_written_into(model):
                    self.revert(model)

    def check(self, model: HookedModel) -> None:
        """Refuse a model whose own weights are not those that the edit was planned for; edits that are in it do not count.

        Raises:
            ModelStateError: other weights.
        """
        now = unedited_fingerprint(model)
        if now != self.fingerprint:
            raise ModelStateError(
                f"the edit was planned for other weights ({self.fingerprint}, of {self.provenance.model!r} in {self.provenance.dtype}) than this "
                f"model's own ({now}); plan it on this model, or run it as hooks()."
            )

    def check_not_written(self, model: HookedModel) -> None:
        """`check`, and refuse a model that the edit is in, so that there is no run without it.

        Raises:
            ModelStateError: other weights, or the edit is in the model.
        """
        if self.is_written_into(model):
            raise ModelStateError("the edit is written into this model, so there is no unedited run to compare with; edit.revert(model) first.")
        self.check(model)

    @property
    def facts_written(self) -> int:
        """How many facts it was planned for."""
        return int(self.notes[0].get("facts", len(self.notes))) if self.notes else 0
