"""Settings as the plain data that makes one run the same as another."""

from __future__ import annotations

import hashlib
import json
from dataclasses import is_dataclass
from typing import Any

import torch

from tl_knowledge.results.packing import packed_fields

__all__ = ["digest", "values_of"]


def values_of(settings: object) -> dict[str, Any]:
    """An object's settings as plain data; tensors among them by their hash, and what is no data by its ``repr``.

    Example:
        >>> from types import SimpleNamespace
        >>> values_of(SimpleNamespace(layer=3, rule=(1, 2)))
        {'layer': 3, 'rule': [1, 2]}
    """
    tensors: dict[str, torch.Tensor] = {}
    values = packed_fields(settings, tensors) if is_dataclass(settings) else dict(getattr(settings, "__dict__", {}))
    hashes = {"tensors": [hashlib.sha256(tensor.cpu().numpy().tobytes()).hexdigest()[:16] for _, tensor in sorted(tensors.items())]}
    return json.loads(json.dumps(values | (hashes if tensors else {}), default=repr))


def digest(values: Any) -> str:
    """A short hash of plain data.

    Example:
        >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
