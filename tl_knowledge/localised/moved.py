"""One method at every layer of a sweep, from its settings at one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

from more_itertools import always_iterable

from tl_knowledge.door import public
from tl_knowledge.editing import EditMethod, FineTune, Objective
from tl_knowledge.errors import InputError
from tl_knowledge.localised.sweep import layers_around
from tl_knowledge.models.checks import check_layers
from tl_knowledge.models.loading import AnyModel, as_model

__all__ = ["MovedMethod", "move_method"]

WINDOW_HASE_2023 = 5


@dataclass(frozen=True)
class MovedMethod:
    """A method with its layer and its objective changed; what `sweep_layers` asks for. It can be sent to another process.

    Attributes:
        method: the settings; all but the layers and the objective stay.
        places: for each layer of the sweep what stands in the method's own field.
    """

    method: EditMethod
    places: dict[int, Any]

    def __call__(self, layer: int, objective: Objective) -> EditMethod:
        """The method at a layer; fine-tuning, which knows no objectives of programs, gets ours."""
        aim = replace(objective, variant="ours") if isinstance(self.method, FineTune) else objective
        changed: Any = self.method
        return replace(changed, objective=aim, **{type(self.method).layer_word() or "": self.places[layer]})

    @property
    def moment_layers(self) -> tuple[int, ...]:
        """The layers whose key moments a sweep needs."""
        needed = [self(layer, Objective()).moment_layers or () for layer in self.places]
        return tuple(sorted({layer for group in needed for layer in group}))


@public
def move_method(model: AnyModel, method: EditMethod, *, window: int | None = None, layers: int | Iterable[int] | None = None) -> MovedMethod:
    """A method for every layer, as `sweep_layers` takes it.

    Args:
        method: settings with ``layer`` or ``layers`` and an ``objective``, for example `ROME` or `MEMIT`.
        window: how many layers are edited together around each, cut off at the model's ends; when ``None`` five by a method of several layers, as
            Hase et al. do, and one by a method of one.
        layers: the sweep's.

    Raises:
        InputError: a method that chooses its layers itself or has no objective, or several layers for a method of one.
        ComponentError: a layer outside the model, or a window that does not fit.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> moved = tlk.localised.move_method(model, tlk.MEMIT.for_model(model), layers=[0, 4])
        >>> moved(4, tlk.editing.Objective()).layers, moved.moment_layers
        ((2, 3, 4, 5, 6), (0, 1, 2, 3, 4, 5, 6))
    """
    model, name, word = as_model(model), type(method).__name__, type(method).layer_word()
    if word is None:
        raise InputError(f"{name} chooses its layers itself and cannot be moved; pass a method with layer= or layers=, such as ROME or MEMIT.")
    if "objective" not in {field.name for field in fields(method)}:  # pyright: ignore[reportArgumentType]
        raise InputError(f"{name} has no objective, which each editing problem changes; pass a method that has one, such as ROME or MEMIT.")
    several = word == "layers" or type(method).takes_several_layers
    wide = (WINDOW_HASE_2023 if word == "layers" else 1) if window is None else window
    if wide > 1 and not several:
        raise InputError(f"window={wide} edits layers together, but {name} edits one; pass window=1, or a method of several layers.")
    swept = check_layers(model, None if layers is None else tuple(always_iterable(layers)))
    around = {layer: layers_around(model, layer, window=wide) for layer in swept}
    return MovedMethod(method, {layer: own if word == "layers" or wide > 1 else layer for layer, own in around.items()})
