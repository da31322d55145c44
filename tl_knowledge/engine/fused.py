"""The MLPs' non-linearity in one kernel while rows run, where that is the same function.

GPT-2's GELU is written out in TransformerLens and in Hugging Face: seven operations, each of which passes over the widest activation of the
model. PyTorch has it in one. It takes the other's place for the length of a ``with`` only, in single and double precision (half precision would
round at other places), and where both give the same values to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from tl_knowledge.models.protocol import HookedModel

__all__ = ["fused_activations"]

WRITTEN_OUT = ("gelu_new", "gelu_fast", "NewGELUActivation", "FastGELUActivation")
"""Names of the functions (of ``HookedTransformer``) and classes (of Hugging Face) that are tried."""

ROUNDINGS = 8  # by how many units in the last place, of numbers about 1, the two may differ

_fused: Callable[[torch.Tensor], torch.Tensor] = partial(torch.nn.functional.gelu, approximate="tanh")

_same: dict[Hashable, bool] = {}


@contextmanager
def fused_activations(model: HookedModel) -> Generator[None]:
    """For the length of a ``with``, compute the model's GELUs in one kernel; afterwards they are what they were, whatever happens."""
    dtype = next(iter(model.parameters())).dtype
    functions: list[tuple[Any, Any]] = []
    modules: list[Any] = []
    try:
        for module in model.modules() if dtype in (torch.float32, torch.float64) else ():
            own = vars(module)
            function = own.get("act_fn")
            if getattr(function, "__name__", "") in WRITTEN_OUT and _is_same(function, function, dtype):
                functions.append((own, function))
                own["act_fn"] = _fused
            elif type(module).__name__ in WRITTEN_OUT and "forward" not in own and _is_same(type(module), module.forward, dtype):
                modules.append(own)
                own["forward"] = _fused
        yield
    finally:
        for own, function in functions:
            own["act_fn"] = function
        for own in modules:
            own.pop("forward", None)


def _is_same(key: Hashable, function: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype) -> bool:
    """Whether a function is the fused one, to rounding."""
    if (key, dtype) not in _same:
        points = torch.linspace(-12, 12, 4097, dtype=dtype)
        with torch.no_grad():
            away = (function(points) - _fused(points)).abs()
        _same[key, dtype] = bool((away <= ROUNDINGS * torch.finfo(dtype).eps * points.abs().clamp(min=1)).all())
    return _same[key, dtype]
