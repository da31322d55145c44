"""What a result was computed with: stored beside every result, so that a number can be traced to its making."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from tl_knowledge.models.description import describe_model, weight_fingerprint
from tl_knowledge.models.protocol import HookedModel, prepends_bos
from tl_knowledge.results.packing import plain

__all__ = ["Provenance", "installed_versions", "provenance_of"]

PACKAGES = ("tl-knowledge", "transformer-lens", "transformers", "torch", "numpy")


def installed_versions() -> dict[str, str]:
    """Versions of this package and of what its numbers depend on, as this process found them.

    Example:
        >>> sorted(installed_versions())
        ['numpy', 'python', 'tl-knowledge', 'torch', 'transformer-lens', 'transformers']
    """
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


@cache
def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


@dataclass(frozen=True)
class Provenance:
    """Where a result comes from.

    Attributes:
        model: the model's name.
        backend: ``"HookedTransformer"`` or ``"TransformerBridge"``.
        weight_processing: which of TransformerLens' weight processing steps the weights show, read off the weights.
        prepends_bos: whether the prompt starts with a beginning-of-sequence token.
        dtype: of the weights, for example ``"float32"``.
        device: where the weights are.
        seed: of the corrupting noise.
        engine: ``"rows"`` or ``"loop"``, with the reason when it is a fallback.
        settings: every other setting of the call, for people; programs read the result's own ``settings``.
        versions: of the packages the numbers depend on.
        weights: fingerprint of the model's weights, with what edits had written into them; nothing in files of older versions.
    """

    model: str
    backend: str
    weight_processing: dict[str, bool]
    prepends_bos: bool
    dtype: str
    device: str
    seed: int
    engine: str
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    versions: dict[str, str] = field(default_factory=installed_versions)
    weights: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return asdict(self)


def provenance_of(model: HookedModel, *, engine: str, seed: int = 0, has_bos: bool | None = None, settings: Any = None, **more: Any) -> Provenance:
    """Where a result comes from that was computed on this model just now.

    Args:
        engine: how it was computed.
        seed: of what was drawn.
        has_bos: whether the prompts begin with BOS; what the model does by default when ``None``.
        settings: a dataclass of settings, or nothing.
        more: further settings by name.
    """
    bos = prepends_bos(model) if has_bos is None else has_bos
    known = {} if settings is None else plain(settings)
    weights = weight_fingerprint(model)
    return Provenance(**describe_model(model), prepends_bos=bos, seed=seed, engine=engine, settings=known | more, weights=weights)
