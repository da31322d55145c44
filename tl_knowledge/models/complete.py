"""Loading that leaves nothing to chance: no weight is drawn at random, and no random number of the caller's is used up."""

from __future__ import annotations

import random
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from transformers import PreTrainedModel

from tl_knowledge.errors import DataError

__all__ = ["every_tensor_loaded", "randomness_kept"]

TENSORS_NAMED = 5


@contextmanager
def every_tensor_loaded(name: str) -> Generator[None]:
    """Refuse, inside, checkpoints that lack weights of their model, which transformers fills with random numbers.

    TransformerLens loads through ``PreTrainedModel.from_pretrained`` in many places, so it is asked there what was missing.

    Raises:
        DataError: weights that are missing or of another shape, by name.
    """
    original = PreTrainedModel.from_pretrained.__func__  # pyright: ignore

    def from_pretrained(cls: type[PreTrainedModel], *args: Any, **kwargs: Any) -> Any:
        asked = kwargs.pop("output_loading_info", False)
        model, info = original(cls, *args, output_loading_info=True, **kwargs)
        missing = sorted(str(key) for kind in ("missing_keys", "mismatched_keys") for key in info.get(kind) or ())
        if missing:
            more = f" and {len(missing) - TENSORS_NAMED} more" if len(missing) > TENSORS_NAMED else ""
            raise DataError(
                f"the weights of {name!r} are not complete: {', '.join(missing[:TENSORS_NAMED])}{more} missing or of another shape, "
                "and would be random numbers; save the whole model again with save_pretrained()."
            )
        return (model, info) if asked else model

    with patch.object(PreTrainedModel, "from_pretrained", classmethod(from_pretrained)):
        yield


@contextmanager
def randomness_kept() -> Generator[None]:
    """Leave the random numbers of torch, numpy and Python where they are: models are initialised before their weights are read."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
