"""Edits of a tab: planned by the house, and run as hooks. The model's weights are every tab's, so that no edit is ever left in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import get_type_hints

from tl_knowledge.arrays import Hooks
from tl_knowledge.editing import (
    METHODS,
    Edit,
    EditMethod,
    GradientEditor,
    KeyMoments,
    PlannedEdit,
    RereadEdit,
    RoutedEdit,
    TrainedMethod,
    collect_key_moments,
    method_class,
    method_for_model,
    plan_edit,
)
from tl_knowledge.errors import InputError, TLKnowledgeError
from tl_knowledge.explore.asking import space_hint
from tl_knowledge.explore.cache import Cache
from tl_knowledge.explore.state import MOST_EDITS, EditRequest
from tl_knowledge.lock import model_lock
from tl_knowledge.models.protocol import HookedModel, layer_count
from tl_knowledge.prompts.facts import Fact

__all__ = ["Editor", "MethodOffer", "edit_hooks", "fact_of", "first_that_works"]

PLANS_KEPT = 3 * MOST_EDITS  # those of three full tabs, as each may be as large as a matrix
MOMENTS_KEPT = 3  # as large as a layer's W_out, or larger


@dataclass(frozen=True)
class MethodOffer:
    """An editing method as a form offers it.

    Attributes:
        name: the short name.
        title: the class' name.
        needs_moments: whether key moments are collected first.
        layers: where it edits unless told otherwise; empty where it chooses itself, or where nothing is published for the model.
        asks_layers: whether layers have to be given, as nothing is published for the model.
        refusal: why it cannot be used here, and the remedy; empty where it can.
    """

    name: str
    title: str
    needs_moments: bool = False
    layers: tuple[int, ...] = ()
    asks_layers: bool = False
    refusal: str = ""


def first_that_works(offers: Sequence[MethodOffer]) -> str | None:
    """The method that a form begins with: the first that can be used as it is, else the first that can be used once layers are given."""
    usable = [offer for offer in offers if not offer.refusal]
    return next((offer.name for offer in sorted(usable, key=lambda offer: offer.asks_layers)), None)


def _offer(model: HookedModel, name: str, trained: TrainedMethod | None, *, has_moments: bool) -> MethodOffer:
    kind = method_class(name)
    title, word, refusal = kind.__name__, kind.layer_word(), "" if trained is not None else _refusal(name)
    if not refusal and kind.needs_moments and not has_moments:
        refusal = f"{title} needs key moments: start the explorer with --moments FILE, which tl-knowledge moments writes, or with --corpus FILE."
    if refusal:
        return MethodOffer(name, title, kind.needs_moments, refusal=refusal)
    try:
        method = trained or method_for_model(model, name)
    except TLKnowledgeError as error:
        asks = word is not None
        return MethodOffer(name, title, kind.needs_moments, asks_layers=asks, refusal="" if asks else str(error))
    layers = getattr(method, word or "", ())
    return MethodOffer(name, title, kind.needs_moments, (layers,) if isinstance(layers, int) else tuple(layers or ()))


def _refusal(name: str) -> str:
    """Why a method is not for the explorer, by what it is."""
    kind = method_class(name)
    title = kind.__name__
    if issubclass(get_type_hints(kind.plan).get("return", PlannedEdit), RereadEdit):
        return f"{title} changes what the model reads, so that no token is where the page shows it: use plan_edit() in a program, or ROME here."
    if kind.needs_training:
        return f"{title} edits with networks that are trained first: start the explorer with --editor FILE, which tl-knowledge train writes."
    return ""


def _by_kind(model: HookedModel, editors: Iterable[TrainedMethod]) -> dict[type[EditMethod], GradientEditor]:
    """Trained methods by their classes.

    Raises:
        InputError: one that cannot be used here, or two of one kind.
        ModelStateError: one that was trained for other weights.
    """
    found: dict[type[EditMethod], GradientEditor] = {}
    for method in editors:
        if not isinstance(method, GradientEditor):
            raise InputError(f"an editor is a {type(method).__name__}; pass a trained MEND or KE, whose edits are hooks.")
        method.trained.check(model)
        if type(method) in found:
            raise InputError(f"two trained editors are {type(method).__name__}; pass one of a kind.")
        found[type(method)] = method
    return found


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
        trained: Iterable[TrainedMethod] = (),
    ) -> None:
        self._model, self._moments, self._corpus, self._trained = model, moments, corpus, _by_kind(model, trained)
        self._plans, self._collected = Cache(PLANS_KEPT), Cache(MOMENTS_KEPT)

    def offers(self) -> tuple[MethodOffer, ...]:
        """Every editing method of the package; those that cannot be used here with the reason."""
        has_moments = self._moments is not None or self._corpus is not None
        return tuple(_offer(self._model, name, self._trained.get(method_class(name)), has_moments=has_moments) for name in METHODS)

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
        method, fact = self._method_of(request), fact_of(request)
        hint = space_hint(self._model, fact.text, fact.target)
        if hint:
            raise InputError(hint)
        earlier = self.all_plans(before)
        for edit in earlier:
            if not isinstance(edit, Edit):
                raise InputError(f"{edit.method} changes activations, so no edit can be planned on top of it here; undo it, or make it the last one.")
        moments = self._moments_for(method)
        with model_lock(self._model), ExitStack() as stack:
            for edit in earlier:
                stack.enter_context(edit.applied(self._model))
            return plan_edit(self._model, fact, method, moments=moments, progress=False)

    def _method_of(self, request: EditRequest) -> EditMethod:
        """A request's method with its settings.

        Raises:
            InputError: an unknown method, one that cannot be used here, one that has no published layer for the model, or layers that a trained
                one was not trained for.
            ComponentError: a layer outside the model.
        """
        if (trained := self._trained.get(method_class(request.method))) is not None:
            if request.layers and sorted(request.layers) != sorted(trained.layers):
                name, words = type(trained).__name__, ", ".join(map(str, trained.layers))
                raise InputError(f"this {name} was trained for layers {words}, not {', '.join(map(str, request.layers))}; leave the layers empty.")
            return trained
        if refusal := _refusal(request.method):
            raise InputError(refusal)
        return method_class(request.method).for_model(self._model, layers=request.layers or None)

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
