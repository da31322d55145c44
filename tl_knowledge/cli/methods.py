"""Editing methods by name, as the commands take them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from tl_knowledge.editing import EMMET, MEMIT, ROME, AlphaEdit, EditMethod, FineTune, FineTuneConstrained, KeyMoments, collect_key_moments
from tl_knowledge.errors import InputError
from tl_knowledge.localised import CausalNeuronEdit, KnowledgeNeuronEdit
from tl_knowledge.models.protocol import HookedModel

__all__ = ["METHOD_NAMES", "method_argument", "moments_argument"]

Layers = Sequence[int]


def _single(model: HookedModel, layers: Layers) -> int:
    if len(layers) > 1:
        raise InputError(f"this method edits one layer, not {len(layers)}; pass --layer once.")
    return layers[0] if layers else ROME.for_model(model).layer


def _rome(model: HookedModel, layers: Layers) -> EditMethod:
    return ROME(_single(model, layers)) if layers else ROME.for_model(model)


def _memit(model: HookedModel, layers: Layers) -> EditMethod:
    return MEMIT(tuple(layers)) if layers else MEMIT.for_model(model)


def _alphaedit(model: HookedModel, layers: Layers) -> EditMethod:
    return AlphaEdit(tuple(layers)) if layers else AlphaEdit.for_model(model)


_METHODS: dict[str, Callable[[HookedModel, Layers], EditMethod]] = {
    "rome": _rome,
    "memit": _memit,
    "emmet": lambda model, layers: EMMET(_single(model, layers)),
    "alphaedit": _alphaedit,
    "ft": lambda model, layers: FineTune(_single(model, layers)),
    "ft+l": lambda model, layers: FineTuneConstrained(_single(model, layers)),
    "kn": lambda model, layers: KnowledgeNeuronEdit(),
    "cne": lambda model, layers: CausalNeuronEdit(),
}
METHOD_NAMES = tuple(_METHODS)
WITHOUT_MOMENTS = ("ft", "ft+l", "kn", "cne")


def method_argument(model: HookedModel, name: str, layers: Layers, settings: Sequence[str] = ()) -> EditMethod:
    """A method by name; the published layers of the model unless some are given; settings as ``name=value``.

    Raises:
        InputError: an unknown method or setting, or several layers for a method of one.
    """
    if name not in _METHODS:
        raise InputError(f"method {name!r} is unknown; pass one of {', '.join(METHOD_NAMES)}.")
    method: Any = _METHODS[name](model, layers)
    known = {field.name for field in fields(method)}
    for setting in settings:
        key, _, value = setting.partition("=")
        inner = {field.name for field in fields(method.value)} if "value" in known else set[str]()
        if key not in known | inner or not value:
            raise InputError(f"setting {setting!r} is not understood for {name}; pass name=value with one of {', '.join(sorted(known | inner))}.")
        own = method.value if key in inner else method
        parsed = _parsed(value)
        changed = replace(own, **{key: float(parsed) if isinstance(getattr(own, key), float) and isinstance(parsed, int) else parsed})
        method = replace(method, value=changed) if key in inner else changed
    return method


def moments_argument(
    model: HookedModel, names: Sequence[str], methods: Sequence[Any], path: Path | None, corpus: list[str], progress: bool
) -> KeyMoments | None:
    """Moments from a file, or collected from a corpus for the layers that the methods edit; none where no method needs them."""
    if all(name in WITHOUT_MOMENTS for name in names):
        return None
    if path is not None:
        return KeyMoments.load(path)
    needed: set[int] = set()
    for name, method in zip(names, methods, strict=True):
        if name not in WITHOUT_MOMENTS:
            needed |= set(getattr(method, "layers", None) or [method.layer])
    return collect_key_moments(model, corpus, layers=sorted(needed), progress=progress)


def _parsed(value: str) -> Any:
    """A number, list or word."""
    try:
        found: Any = json.loads(value)
    except json.JSONDecodeError:
        return value
    return tuple(tuple(x) if isinstance(x, list) else x for x in found) if isinstance(found, list) else found
