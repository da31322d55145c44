"""What every editing method is, and the one verb that plans an edit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, ClassVar, TypeVar

from more_itertools import always_iterable

from tl_knowledge.door import public
from tl_knowledge.editing.optimise.values import ValueSettings
from tl_knowledge.editing.planned import PlannedEdit
from tl_knowledge.engine.progress import show_progress
from tl_knowledge.errors import InputError, check_given
from tl_knowledge.models.checks import check_layers
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel, model_name
from tl_knowledge.models.published_settings import TRACED_LAYERS, published_for
from tl_knowledge.prompts.facts import Fact, refuse_contradictions
from tl_knowledge.prompts.prompt import Prompt, check_fits
from tl_knowledge.runs.edits import EditPlanner, models_of
from tl_knowledge.runs.key_moments import KeyMoments

__all__ = ["EditMethod", "plan_edit"]

Method = TypeVar("Method", bound="EditMethod")  # typing.Self is refused by the test suite's type checker
AnEdit = TypeVar("AnEdit")

_SMALL: Mapping[str, Any] = {
    "layer": 1,
    "layers": (0, 2),
    "steps": 4,
    "samples": 2,
    "contexts": ((3, 2),),
    "value": ValueSettings(steps=4),
}


class EditMethod(ABC):
    """Frozen settings of an editing method: a subclass is a ``@dataclass(frozen=True)`` with a ``plan``.

    A subclass that edits layers calls its field ``layer`` (one) or ``layers`` (several); then `for_model`, the command line and the collecting of
    key moments know them. Everything else here has a default. A new method is one file with such a class, and one line in
    `tl_knowledge.editing.registry`.

    Attributes:
        needs_moments: whether `plan` needs the key moments of the edited layers.
        needs_training: whether it edits only once it was trained (`tl_knowledge.editing.TrainedMethod`).
        published: for each model (a name as in ``"gpt2-xl"``), the published values of the fields.
        published_variants: the same by variant, where a program's settings are others.
        tuned: for each model, other values than the defaults that were chosen on it by measuring; no named variant has them.
        takes_traced_layer: whether a method of one layer that publishes none for a model takes ROME's.
        takes_several_layers: whether its ``layer`` may be several.
        edits_any_model: whether masked models (BERT), and encoders with decoders (T5), can be edited like autoregressive ones.

    Example:
        >>> from dataclasses import dataclass
        >>> import torch, tl_knowledge as tlk
        >>> from tl_knowledge.editing import Edit, EditMethod, LowRank
        >>> @dataclass(frozen=True)
        ... class Shrink(EditMethod):  # no method anybody needs
        ...     layer: int
        ...     factor: float = 0.5
        ...     def plan(self, model, facts, moments):
        ...         weights = model.blocks[self.layer].mlp.W_out.detach()
        ...         change = LowRank((self.factor - 1) * weights, torch.eye(weights.shape[1]))
        ...         return Edit.planned(model, self, {self.layer: change})
        >>> model = tlk.load_model("factlm")
        >>> Shrink.for_model(model).layer == tlk.ROME.for_model(model).layer  # without published settings of its own: the layer that tracing finds
        True
        >>> tlk.plan_edit(model, tlk.load_edit_cases()[0].rewrite, Shrink(layer=3)).layers
        (3,)
    """

    needs_moments: ClassVar[bool] = False
    needs_training: ClassVar[bool] = False
    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    published_variants: ClassVar[Mapping[str, Mapping[str, Mapping[str, Any]]]] = {}
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    takes_traced_layer: ClassVar[bool] = True
    takes_several_layers: ClassVar[bool] = False
    edits_any_model: ClassVar[bool] = False

    @abstractmethod
    def plan(self, model: HookedModel, facts: Sequence[Fact], moments: KeyMoments | None) -> PlannedEdit:
        """The edit that makes the model say each fact's target; the model is left as it was."""

    @classmethod
    def for_model(cls: type[Method], model: AnyModel, *, layers: int | Iterable[int] | None = None, variant: str = "ours") -> Method:
        """The settings that are published for a model.

        A method of one layer that publishes none of its own takes ROME's (fine-tuning does not).

        Args:
            layers: other layers than the published ones; exactly one for a method of one layer.
            variant: whose program is to be followed, with the settings that are published for it.

        Raises:
            InputError: nothing is published, an unknown variant, or layers for a method that takes none or only one.
            ComponentError: a layer outside the model.
        """
        model = as_model(model, **models_of(cls))
        word = cls.layer_word()
        takes_traced = cls.takes_traced_layer and word == "layer"
        settings = dict(published_for(model, cls.published) or {}) | _of_variant(cls, model, variant)
        if layers is not None:
            settings |= _layers_given(cls, word, check_layers(model, tuple(always_iterable(layers))))
        elif takes_traced and word not in settings and (traced := published_for(model, TRACED_LAYERS)) is not None:
            settings["layer"] = traced
        missing = [field.name for field in _fields(cls) if _required(field) and field.name not in settings]
        if missing:
            traceable = TRACED_LAYERS if takes_traced or not cls.published else ()
            call, known = f"{cls.__name__}({missing[0]}=...)", ", ".join(dict.fromkeys([*traceable, *cls.published]))
            found = ", found for example by trace()" if missing[0] == word else ""
            raise InputError(f"nothing is published for {model_name(model)!r}; pass {call}{found}. Known: {known}.")
        return cls(**settings)

    @classmethod
    def small(cls: type[Method]) -> Method:
        """Settings that plan in a moment on a model of four layers, as the contract tests do; override where the defaults change nothing there."""
        return cls(**{field.name: _SMALL[field.name] for field in _fields(cls) if field.name in _SMALL})

    @classmethod
    def layer_word(cls) -> str | None:
        """``"layer"`` for a method of one layer, ``"layers"`` for one of several, ``None`` for one that chooses them itself."""
        names = {field.name for field in _fields(cls)}
        return next((word for word in ("layer", "layers") if word in names), None)

    @property
    def moment_layers(self) -> tuple[int, ...] | None:
        """The layers whose key moments `plan` needs; ``None`` for all of the model's."""
        word = self.layer_word()
        if not self.needs_moments:
            return ()
        return None if word is None else tuple(always_iterable(getattr(self, word)))


@public
def plan_edit(
    model: AnyModel, facts: Fact | Iterable[Fact], method: EditPlanner[AnEdit], *, moments: KeyMoments | None = None, progress: bool = True
) -> AnEdit:
    """Plan the edit that makes the model say each fact's target; the model is never changed.

    Args:
        facts: with their *new* targets (``fact.retarget(" Rome")``, ``case.rewrite``).
        method: for example ``ROME(layer=5)``; any object with ``plan(model, facts, moments)`` will do.
        moments: of the model's keys, from `collect_key_moments`, for the methods that need them.
        progress: show a bar, where the method has one and it takes longer than a moment.

    Raises:
        DataError: no fact.
        InputError: facts that contradict each other, or moments of another model.
        PromptError, TargetError, SubjectNotFoundError: a fact that does not fit the model.
        NumericalError: singular moments, or a loss that is not finite.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> fact = tlk.Fact("France", "The capital of {} is", " London")
        >>> tlk.plan_edit(model, fact, tlk.FineTune(layer=3, steps=2))
        <Edit: FineTune, W_out of layer 3, 1 fact; factlm>
    """
    model = as_model(model, **models_of(method))
    wanted = check_given(always_iterable(facts, Fact), "fact", "pass at least one to edit")
    refuse_contradictions(wanted)
    for fact in wanted:
        check_fits(model, Prompt.from_fact(model, fact), multi_token=True)
    if moments is not None:
        moments.check(model)
    with show_progress(progress):
        return method.plan(model, wanted, moments)


def _fields(cls: type) -> tuple[Field[Any], ...]:
    return fields(cls) if is_dataclass(cls) else ()


def _required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _of_variant(cls: type[EditMethod], model: HookedModel, variant: str) -> dict[str, Any]:
    """The settings of a variant on a model, beyond what every variant has; of "ours", those that were tuned.

    Raises:
        InputError: the method has no variants, or the program's settings on this model are not published.
    """
    if variant == "ours":
        return dict(published_for(model, cls.tuned) or {})
    if "variant" not in {field.name for field in _fields(cls)}:
        raise InputError(f"{cls.__name__} has no variants, but variant={variant!r} was given; leave it out.")
    table = cls.published_variants.get(variant, {})
    own = published_for(model, table)
    if table and own is None:
        raise InputError(
            f"no settings of variant {variant!r} are published for {model_name(model)!r}; pass your own to {cls.__name__}(variant={variant!r}, ...). "
            f"Known: {', '.join(table)}."
        )
    return {"variant": variant, **(own or {})}


def _layers_given(cls: type[EditMethod], word: str | None, layers: tuple[int, ...]) -> dict[str, Any]:
    """Layers as the field that a method has for them.

    Raises:
        InputError: it has none, or one for a single layer.
    """
    if word is None:
        raise InputError(f"{cls.__name__} chooses its layers itself, but layers {layers} were given; leave them out.")
    if word == "layers" or (cls.takes_several_layers and len(layers) > 1):
        return {word: layers}
    if len(layers) > 1:
        raise InputError(f"{cls.__name__} edits one layer, not {len(layers)}; pass exactly one.")
    return {"layer": next(iter(layers))}
