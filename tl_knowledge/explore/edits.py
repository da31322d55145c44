"""Edits of a tab: planned by the house, and run as hooks. The model's weights are every tab's, so that no edit is ever left in them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager

from tl_knowledge.arrays import Hooks
from tl_knowledge.editing import (
    METHODS,
    Edit,
    EditMethod,
    KeyMoments,
    PlannedEdit,
    RereadEdit,
    RoutedEdit,
    TrainedMethod,
    collect_key_moments,
    method_class,
    plan_edit,
)
from tl_knowledge.errors import InputError
from tl_knowledge.explore.asking import space_hint
from tl_knowledge.explore.cache import Cache
from tl_knowledge.explore.methods import MethodOffer, method_of, offer_of, trained_by_kind
from tl_knowledge.explore.state import MOST_EDITS, EditRequest
from tl_knowledge.lock import model_lock
from tl_knowledge.models.protocol import HookedModel, layer_count
from tl_knowledge.prompts.facts import Fact

__all__ = ["Editor", "all_applied", "edit_hooks", "fact_of"]

PLANS_KEPT = 3 * MOST_EDITS  # those of three full tabs, as each may be as large as a matrix
MOMENTS_KEPT = 3  # as large as a layer's W_out, or larger


def fact_of(request: EditRequest) -> Fact:
    """What a request writes."""
    return Fact(request.subject, request.template, request.target_new)


class Editor:
    """Plans edits, each once, and collects the moments that they need, each layer once.

    Args:
        moments: that are there already.
        corpus: gives texts of the kind that the model was trained on; ``None`` where there are none.
        trained: methods that were trained, one of a kind.

    Raises:
        InputError, ModelStateError: a trained method that cannot be used here.
    """

    def __init__(
        self,
        model: HookedModel,
        moments: KeyMoments | None,
        corpus: Callable[[], Iterable[str]] | None,
        trained: TrainedMethod | Sequence[TrainedMethod] | None = None,
    ) -> None:
        self._model, self._moments, self._corpus, self._trained = model, moments, corpus, trained_by_kind(model, trained)
        self._plans, self._collected = Cache(PLANS_KEPT), Cache(MOMENTS_KEPT)

    def offers(self) -> tuple[MethodOffer, ...]:
        """Every editing method of the package; those that cannot be used here with the reason."""
        has_moments = self._moments is not None or self._corpus is not None
        return tuple(offer_of(self._model, name, self._trained.get(method_class(name)), has_moments=has_moments) for name in METHODS)

    def plan(self, requests: Sequence[EditRequest]) -> PlannedEdit:
        """The last of some edits, each of which is planned on the model that the ones before it have left.

        While it is planned, the ones before it are in the weights, under the model's lock; afterwards these are bit for bit what they were.

        Raises:
            InputError: edits that do not go together, a method that cannot be used here, or moments that are not there.
            TLKnowledgeError: as `tl_knowledge.plan_edit`.
        """
        return self._plans.get_or_make(tuple(requests), lambda: self._plan(tuple(requests)))

    def all_plans(self, requests: Sequence[EditRequest]) -> tuple[PlannedEdit, ...]:
        """All of some edits, in order."""
        return tuple(self.plan(requests[: number + 1]) for number in range(len(requests)))

    def _plan(self, requests: tuple[EditRequest, ...]) -> PlannedEdit:
        *before, request = requests
        method = method_of(self._model, request, self._trained.get(method_class(request.method)))
        fact = fact_of(request)
        hint = space_hint(self._model, fact.text, fact.target)
        if hint:
            raise InputError(hint)
        earlier = self.all_plans(before)
        for edit in earlier:
            if not isinstance(edit, Edit):
                what = "what is read" if isinstance(edit, RereadEdit) else "activations"
                raise InputError(f"{edit.method} changes {what}, so no edit can be planned on top of it here; undo it, or make it the last one.")
        moments = self._moments_for(method)
        with all_applied(self._model, earlier):
            return plan_edit(self._model, fact, method, moments=moments, progress=False)

    def _moments_for(self, method: EditMethod) -> KeyMoments | None:
        """The key moments that a method needs.

        Raises:
            InputError: there are none, and no text to collect them from.
        """
        wanted = method.moment_layers
        if wanted == ():
            return None
        layers = range(layer_count(self._model)) if wanted is None else wanted
        if self._moments is not None and set(layers) <= set(self._moments.moments):
            return self._moments
        if self._corpus is None:
            where = "of the whole model" if wanted is None else f"of layers {', '.join(map(str, wanted))}"
            raise InputError(
                f"{type(method).__name__} needs key moments {where}, and there are none: start the explorer with --moments FILE (tl-knowledge "
                "moments writes one), or with --corpus FILE of the kind that the model was trained on."
            )
        corpus = self._corpus
        return self._collected.get_or_make(wanted, lambda: collect_key_moments(self._model, corpus(), layers=wanted, progress=False))


@contextmanager
def all_applied(model: HookedModel, edits: Iterable[PlannedEdit]) -> Generator[None]:
    """Some edits on the model for the length of a ``with``, in order, under the model's lock; afterwards it is bit for bit what it was."""
    with model_lock(model), ExitStack() as stack:
        for edit in edits:
            stack.enter_context(edit.applied(model))
        yield


def edit_hooks(edits: Iterable[PlannedEdit]) -> Hooks:
    """Planned edits as hooks, in order.

    Raises:
        InputError: one that is no hooks.
    """
    hooks: Hooks = []
    for edit in edits:
        if not isinstance(edit, Edit | RoutedEdit):
            raise InputError(f"{edit.method} gives no hooks, so it cannot be shown beside others; use it in a program.")
        hooks += edit.hooks()
    return hooks
