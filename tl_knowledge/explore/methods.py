"""Editing methods as the explorer offers them: with which settings, and why not where one cannot be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_type_hints

from more_itertools import always_iterable

from tl_knowledge.datasets import load_edit_cases
from tl_knowledge.editing import IKE, Demonstrations, EditMethod, PlannedEdit, RereadEdit, TrainedMethod, method_class
from tl_knowledge.errors import InputError, TLKnowledgeError
from tl_knowledge.explore.state import EditRequest
from tl_knowledge.models.protocol import HookedModel, context_length
from tl_knowledge.results.digest import digest, values_of

__all__ = [
    "MOST_DEMONSTRATIONS",
    "TOKENS_EACH",
    "MethodOffer",
    "changes_what_is_read",
    "editor_mark",
    "first_that_works",
    "method_of",
    "offer_of",
    "trained_by_kind",
]

MOST_DEMONSTRATIONS, TOKENS_EACH = 16, 128
"""Of IKE: one demonstration for so many tokens of the model's context, so that most of it is left for prompts."""

Trained = Mapping[type[EditMethod], TrainedMethod]


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
        changes_reading: whether it changes what the model reads.
        editor: of a trained method, `editor_mark`.
    """

    name: str
    title: str
    needs_moments: bool = False
    layers: tuple[int, ...] = ()
    asks_layers: bool = False
    refusal: str = ""
    changes_reading: bool = False
    editor: str = ""


def first_that_works(offers: Sequence[MethodOffer]) -> str | None:
    """The method that a form begins with: the first that can be used as it is, else the first that can be used once layers are given."""
    usable = [offer for offer in offers if not offer.refusal]
    return next((offer.name for offer in sorted(usable, key=lambda offer: offer.asks_layers)), None)


def changes_what_is_read(name: str) -> bool:
    """Whether a method's edits change what the model reads, so that they are no hooks.

    Example:
        >>> changes_what_is_read("ike"), changes_what_is_read("rome")
        (True, False)
    """
    return issubclass(get_type_hints(method_class(name).plan).get("return", PlannedEdit), RereadEdit)


def editor_mark(method: TrainedMethod) -> str:
    """A short fingerprint of what was learnt, and of the settings that it edits with: what a link says instead of a file's name."""
    return digest([type(method).__name__, values_of(method)])[:12]


def trained_by_kind(model: HookedModel, editors: TrainedMethod | Sequence[TrainedMethod] | None) -> Trained:
    """Trained methods by their classes.

    Raises:
        InputError: one that is not trained, or two of one kind.
        ModelStateError: one that was trained for other weights.
    """
    found: dict[type[EditMethod], TrainedMethod] = {}
    for method in always_iterable(editors):
        if not isinstance(method, TrainedMethod):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"an editor is a {type(method).__name__}; pass a trained MEND, KE or SERAC, as editing.load_trained() reads it.")
        method.trained.check(model)
        if type(method) in found:
            raise InputError(f"two trained editors are {type(method).__name__}; pass one of a kind.")
        found[type(method)] = method
    return found


def offer_of(model: HookedModel, name: str, trained: TrainedMethod | None, *, has_moments: bool) -> MethodOffer:
    """A method as a form offers it."""
    kind = method_class(name)
    title, word, refusal = kind.__name__, kind.layer_word(), "" if trained is not None else _lacks_training(name)
    if not refusal and kind.needs_moments and not has_moments:
        refusal = f"{title} needs key moments: start the explorer with --moments FILE, which tl-knowledge moments writes, or with --corpus FILE."
    if refusal:
        return MethodOffer(name, title, kind.needs_moments, refusal=refusal)
    try:
        method = trained or _settings_of(model, kind)
    except TLKnowledgeError as error:
        asks = word is not None
        return MethodOffer(name, title, kind.needs_moments, asks_layers=asks, refusal="" if asks else str(error))
    layers = tuple(always_iterable(getattr(method, word or "", ())))
    mark = "" if trained is None else editor_mark(trained)
    return MethodOffer(name, title, kind.needs_moments, layers, changes_reading=changes_what_is_read(name), editor=mark)


def method_of(model: HookedModel, request: EditRequest, trained: TrainedMethod | None) -> EditMethod:
    """A request's method with its settings.

    Raises:
        InputError: a method that cannot be used here, one that has no published layer for the model, layers that a trained one was not trained
            for, or another trained one than the request was made with.
        ComponentError: a layer outside the model.
    """
    kind = method_class(request.method)
    _check_editor(request, kind.__name__, trained)
    if trained is None:
        return _settings_of(model, kind, layers=request.layers, subject=request.subject)
    if request.layers and kind.layer_word() is None:
        kind.for_model(model, layers=request.layers)  # which refuses them
    own = tuple(always_iterable(getattr(trained, kind.layer_word() or "", ())))
    if request.layers and sorted(request.layers) != sorted(own):
        words, given = (", ".join(map(str, layers)) for layers in (own, request.layers))
        raise InputError(f"this {kind.__name__} was trained for layers {words}, not {given}; leave the layers empty.")
    return trained


def _settings_of(model: HookedModel, kind: type[EditMethod], *, layers: Sequence[int] = (), subject: str = "") -> EditMethod:
    """A method that is not trained: IKE behind demonstrations from the bundled edit cases about others than a subject, any other one as published."""
    if kind is not IKE or layers:
        return kind.for_model(model, layers=layers or None)
    cases = [case for case in load_edit_cases() if case.fact.subject != subject]
    return IKE(k=min(MOST_DEMONSTRATIONS, context_length(model) // TOKENS_EACH), pool=Demonstrations.from_cases(cases))


def _lacks_training(name: str) -> str:
    """Why a method cannot be used that has to be trained first, and was not; empty for any other."""
    kind = method_class(name)
    if not kind.needs_training:
        return ""
    return f"{kind.__name__} edits with networks that are trained first: start the explorer with --editor FILE, which tl-knowledge train writes."


def _check_editor(request: EditRequest, title: str, trained: TrainedMethod | None) -> None:
    """Refuse an edit of a trained editor that is not here: another one's numbers would be others.

    Raises:
        InputError: no trained editor, another one, or an edit that does not say which.
    """
    here = "" if trained is None else editor_mark(trained)
    if trained is None and (lacks := _lacks_training(request.method)):
        raise InputError(f"{lacks} This edit was made with the trained {title} {request.editor}." if request.editor else lacks)
    if request.editor == here:
        return
    if trained is None:
        raise InputError(f"{title} is not trained, but the edit names the trained editor {request.editor}; take the edit off, and make it again.")
    made = f"with the trained {title} {request.editor}" if request.editor else f"without saying with which trained {title}"
    raise InputError(
        f"the edit was made {made}, and the explorer was started with {here}, which gives other numbers: start it with --editor and the file that "
        "the edit was made with, or take the edit off, and make it again."
    )
