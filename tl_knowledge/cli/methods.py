"""Editing methods by name; which there are stands in `tl_knowledge.editing.METHODS` and nowhere here."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import tl_knowledge as tlk
from tl_knowledge.errors import InputError, check_choice

__all__ = ["method_argument", "moments_argument", "named_methods", "needed_corpus", "settings_argument", "split_method"]


def named_methods(
    model: tlk.HookedModel, given: Sequence[str], layers: Sequence[int] | None, settings: Sequence[str] | None
) -> dict[str, tlk.editing.EditMethod]:
    """Methods by what was typed: ``rome``, or with settings of its own ``rome:layer=5,clamp=3``.

    Raises:
        InputError: as `method_argument`.
    """
    shared, methods = settings_argument(settings), {}
    for text in given:
        name, own = split_method(text)
        own = dict(own) | shared
        there = own.pop("layers", own.pop("layer", None))
        chosen = layers if there is None else [there] if isinstance(there, int) else list(there)
        methods[text] = method_argument(model, name, chosen, own)
    return methods


def split_method(text: str) -> tuple[str, dict[str, Any]]:
    """A method's name and its settings.

    Raises:
        InputError: settings that are not of the form name=value.

    Example:
        >>> split_method("rome:layer=5,contexts=[[5, 10]]")
        ('rome', {'layer': 5, 'contexts': ((5, 10),)})
    """
    name, _, rest = text.partition(":")
    return name, settings_argument(re.split(r",(?![^\[]*\])", rest) if rest else [])


def settings_argument(settings: Sequence[str] | None) -> dict[str, Any]:
    """Settings as ``name=value``, each value a number, a truth value, a list or a word.

    Raises:
        InputError: not of that form.

    Example:
        >>> settings_argument(["clamp=3", "contexts=[[5, 10]]", "variant=gupta2024"])
        {'clamp': 3, 'contexts': ((5, 10),), 'variant': 'gupta2024'}
    """
    values: dict[str, Any] = {}
    for setting in settings or ():
        name, _, text = setting.partition("=")
        if not name or not text:
            raise InputError(f"setting {setting!r} is not understood; pass name=value, such as clamp=3.")
        values[name] = _parsed(text)
    return values


def method_argument(model: tlk.HookedModel, name: str, layers: Sequence[int] | None, settings: dict[str, Any]) -> tlk.editing.EditMethod:
    """A method by name; the published layers of the model unless some are given, and its settings changed.

    Raises:
        InputError: an unknown method or setting, several layers for a method of one, or layers that a trained method was not trained for.
        DataError: ``editor=`` of a trained method is no file of it.
    """
    kind, settings = tlk.editing.method_class(name), dict(settings)
    if "editor" in settings and issubclass(kind, tlk.editing.TrainedMethod):
        method: Any = kind.load(settings.pop("editor"))
        if layers:
            kind.for_model(model, layers=layers)  # which refuses them where a method has none
            method = replace(method, layers=tuple(layers))  # which refuses others than it was trained for
    else:
        method = tlk.editing.method_for_model(model, name, layers=layers or None, variant=settings.pop("variant", "ours"))
    for key, value in settings.items():
        method = _changed(method, key, value)
    return method


def moments_argument(
    model: tlk.HookedModel,
    methods: Sequence[tlk.editing.EditMethod | tlk.localised.MovedMethod],
    path: Path | None,
    corpus: str | None,
    *,
    progress: bool,
) -> tlk.KeyMoments | None:
    """Moments from a file, or collected from a corpus for the layers that the methods need; ``None`` where none needs any.

    Raises:
        InputError: moments are needed, and there is neither a file nor a corpus.
    """
    from tl_knowledge.runs.key_moments import needed_layers  # here, as it imports torch

    if (layers := needed_layers(methods)) == ():
        return None
    if path is not None:
        return tlk.KeyMoments.load(path)
    texts = tlk.datasets.corpus_texts(needed_corpus(corpus, str(model.cfg.model_name)))
    return tlk.collect_key_moments(model, texts, layers=layers, progress=progress)


def needed_corpus(corpus: str | None, model: str) -> str:
    """The corpus that key moments are taken over.

    Raises:
        InputError: none was given, and the model is not FactLM.
    """
    if corpus is None:
        raise InputError(
            f"key moments of {model!r} are taken over ordinary text, and FactLM's own is fit for FactLM only; "
            f"pass --corpus with a text file, wikipedia or wikitext (streamed), or --moments with a file of tl-knowledge moments."
        )
    return corpus


def _changed(settings: Any, name: str, value: Any) -> Any:
    """Settings with one of theirs changed, or one of the settings that they hold: ``clamp`` is in ROME's ``value``.

    Raises:
        InputError: an unknown name, or a word where a number belongs.
    """
    names = [field.name for field in fields(settings) if not field.name.startswith("_")]
    inside = {group: getattr(settings, group) for group in names if is_dataclass(getattr(settings, group))}
    check_choice("setting", name, [*(each for each in names if each not in inside), *(f.name for group in inside.values() for f in fields(group))])
    if name not in names:
        group = next(group for group, held in inside.items() if name in {field.name for field in fields(held)})
        return replace(settings, **{group: _changed(inside[group], name, value)})
    before = getattr(settings, name)
    if isinstance(before, int | float) and not isinstance(value, int | float):
        raise InputError(f"setting {name}={value!r} is no number; pass one, such as {name}={json.dumps(before)}.")
    return replace(settings, **{name: float(value) if isinstance(before, float) else value})


def _parsed(text: str) -> Any:
    """A number, truth value, list (as a tuple) or word."""
    try:
        value: Any = json.loads(text)
    except json.JSONDecodeError:
        return text
    return tuple(tuple(item) if isinstance(item, list) else item for item in value) if isinstance(value, list) else value
