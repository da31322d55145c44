"""Edits that change no weight: what activations become, decided position by position as the model runs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

from typing_extensions import override

from tl_knowledge.arrays import Hooks
from tl_knowledge.editing.health import EditHealth, clamped_subjects, perplexities
from tl_knowledge.editing.planned import PlannedEdit
from tl_knowledge.errors import ComponentError
from tl_knowledge.lock import model_lock
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.models.routed import is_on, put_on, take_off
from tl_knowledge.results.digest import digest, values_of

__all__ = ["RoutedEdit"]

WHERE_FROM = ("method", "settings", "fingerprint", "notes", "provenance")


class RoutedEdit(PlannedEdit):
    """An edit that is hooks and nothing else: ``write_into`` keeps them on the model, and `revert` takes them off.

    The hooks decide from the activations of a position alone (and what came before), so they are the same with padding behind it, in a batch, and
    in ``generate`` with a cache. A subclass is a frozen dataclass with the fields of `PlannedEdit`, a ``_key`` as `Edit` has it, and its own
    tensors.

    While it is on the model, it counts as part of it: results that are made then carry another fingerprint.
    """

    _key: object

    @abstractmethod
    def hooks(self) -> Hooks:
        """The edit as plain hooks, for anybody's ``run_with_hooks`` or ``with model.hooks(...)``."""

    def reading(self, hooks: Hooks) -> Hooks:
        """Those of its hooks that only read an activation; they have to see what other hooks make of it."""
        return []

    def digest(self) -> str:
        """Changes when anything that it does changes."""
        return digest({name: value for name, value in values_of(self).items() if name not in WHERE_FROM})

    @override
    def health(self, model: HookedModel, corpus: Iterable[str] = (), *, limit: int = 100) -> EditHealth:
        """What it takes beside the model, and what it does to ordinary text."""
        self.check_not_written(model)
        return EditHealth((), clamped_subjects(self.notes), *perplexities(model, self.hooks(), corpus, limit), self.stored_bytes)

    def check_fits(self, model: HookedModel) -> None:
        """Refuse a model that does not have the places of the hooks.

        Raises:
            ComponentError: it does not.
        """
        missing = [name for name, _ in self.hooks() if name not in model.hook_dict]
        if missing:
            raise ComponentError(
                f"the {self.method} edit acts at {missing[0]!r}, which this model does not have; it was planned for {self.provenance.model!r}."
            )

    @override
    def write_into(self, model: HookedModel) -> None:
        """Keep the hooks on the model until `revert`.

        Raises:
            ComponentError, ModelStateError: as `applied`.
        """
        self.check_fits(model)
        with model_lock(model):
            self.check(model)
            hooks = self.hooks()
            put_on(model, self._key, self, self.digest(), hooks, self.reading(hooks))

    @override
    def revert(self, model: HookedModel) -> None:
        """Take the hooks off the model.

        Raises:
            ModelStateError: they are not on it.
        """
        with model_lock(model):
            take_off(model, self._key)

    @override
    def is_written_into(self, model: HookedModel) -> bool:
        """Whether the hooks are on the model now."""
        return is_on(model, self._key)
