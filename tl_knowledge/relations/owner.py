"""Whose map or vector it is."""

from __future__ import annotations

from tl_knowledge.errors import InputError, ModelStateError
from tl_knowledge.models.description import weight_fingerprint
from tl_knowledge.models.ledger import unedited_fingerprint
from tl_knowledge.models.protocol import HookedModel, layer_count, model_name
from tl_knowledge.results.provenance import Provenance

__all__ = ["check_own"]


def check_own(model: HookedModel, provenance: Provenance, what: str, sizes: tuple[int, int]) -> HookedModel:
    """Refuse a model that something was not estimated from; the model. Edits that are written since do not matter.

    Args:
        what: it is, for an error.
        sizes: width and number of blocks of the model that it is of.

    Raises:
        InputError: a model of another width or depth.
        ModelStateError: other weights.
    """
    if (int(model.cfg.d_model), layer_count(model)) != sizes:
        raise InputError(
            f"the {what} is of {sizes[1]} blocks of width {sizes[0]}, {model_name(model)} has {layer_count(model)} of {model.cfg.d_model}; "
            "estimate one of its own."
        )
    if provenance.weights not in ("", weight_fingerprint(model), unedited_fingerprint(model)):
        raise ModelStateError(f"the {what} is of other weights of {provenance.model!r} than {model_name(model)} has; estimate one of its own.")
    return model
