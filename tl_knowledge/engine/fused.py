"""The MLPs' non-linearity, and the norms, in one kernel while rows run, where that is the same function.

GPT-2's GELU is written out in TransformerLens and in Hugging Face: seven operations, each of which passes over the widest activation of the
model. So is the layer norm of ``HookedTransformer``, in six. PyTorch has each in one. It takes the other's place for the length of a ``with``
only, in single and double precision (half precision would round at other places), and where both give the same values to rounding; of a norm also
only where nobody looks at its scale, which the one kernel does not show.
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

NORMS = ("LayerNorm", "LayerNormPre")
"""Classes of ``HookedTransformer`` that are tried: with a weight and a bias, and with both folded into what reads it."""

EXACT_IN = (torch.float32, torch.float64)

ROUNDINGS = 8  # by how many units in the last place, of numbers about 1, the two may differ

_fused: Callable[[torch.Tensor], torch.Tensor] = partial(torch.nn.functional.gelu, approximate="tanh")

_same: dict[Hashable, bool] = {}


@contextmanager
def fused_activations(model: HookedModel) -> Generator[None]:
    """For the length of a ``with``, compute the model's GELUs in one kernel; afterwards they are what they were, whatever happens."""
    functions: list[tuple[Any, Any]] = []
    modules: list[Any] = []
    try:
        try:
            _put_in(model, functions, modules)
            yield
        finally:
            _put_back(functions, modules)
    except BaseException:  # an interrupt does not stop it half-way
        _put_back(functions, modules)
        raise


def _put_in(model: HookedModel, functions: list[tuple[Any, Any]], modules: list[Any]) -> None:
    """Note each activation, then replace it."""
    dtype = next(iter(model.parameters())).dtype
    for module in model.modules() if dtype in EXACT_IN else ():
        own = vars(module)
        function = own.get("act_fn")
        if getattr(function, "__name__", "") in WRITTEN_OUT and _is_same(function, function, dtype):
            functions.append((own, function))
            own["act_fn"] = partial(_run, function, function)
        elif type(module).__name__ in WRITTEN_OUT and "forward" not in own and _is_same(type(module), module.forward, dtype):
            modules.append(own)
            own["forward"] = partial(_run, type(module), module.forward)
        elif type(module).__name__ in NORMS and "forward" not in own and _is_unwatched(module) and _is_same_norm(module, dtype):
            modules.append(own)
            own["forward"] = partial(_run_norm, module, module.forward)


def _put_back(functions: list[tuple[Any, Any]], modules: list[Any]) -> None:
    for own, function in functions:
        own["act_fn"] = function
    for own in modules:
        own.pop("forward", None)


def _run(key: Hashable, function: Callable[[torch.Tensor], torch.Tensor], given: torch.Tensor) -> torch.Tensor:
    """What is given decides, which may have another precision than the model's weights."""
    return _fused(given) if given.dtype in EXACT_IN and _is_same(key, function, given.dtype) else function(given)


def _run_norm(norm: Any, function: Callable[[torch.Tensor], torch.Tensor], given: torch.Tensor) -> torch.Tensor:
    watched = norm.hook_scale.fwd_hooks or norm.hook_scale.bwd_hooks
    return function(given) if watched or given.dtype not in EXACT_IN or given.dtype != norm.cfg.dtype else _norm(norm, given)


def _is_unwatched(norm: Any) -> bool:
    """Of ``HookedTransformer``, without a hook that would see what the norm is tried on."""
    points = [getattr(norm, name, None) for name in ("hook_scale", "hook_normalized")]
    return all(point is not None and not point.fwd_hooks and not point.bwd_hooks for point in points)


def _norm(norm: Any, given: torch.Tensor) -> torch.Tensor:
    """What a norm's own ``forward`` computes."""
    normalised = norm.hook_normalized(torch.nn.functional.layer_norm(given, given.shape[-1:], eps=norm.eps))
    return torch.addcmul(norm.b, normalised, norm.w) if hasattr(norm, "w") else normalised


def _is_same_norm(norm: Any, dtype: torch.dtype) -> bool:
    """Whether a norm is the fused one, to rounding; asked once a class, length and size of what keeps it from dividing by zero."""
    weights = next(iter(norm.parameters()), None)
    key = (type(norm), dtype, norm.eps, None if weights is None else len(weights))
    if key not in _same:
        length = 64 if weights is None else len(weights)
        device = None if weights is None else weights.device
        points = torch.linspace(-40, 60, 8 * length, dtype=dtype, device=device).sin().view(2, 4, length).cumsum(0)
        with torch.no_grad():
            expected = norm.forward(points)
            away = (expected - _norm(norm, points)).abs()
        _same[key] = bool((away <= ROUNDINGS * torch.finfo(dtype).eps * expected.abs().clamp(min=1)).all())
    return _same[key]


def _is_same(key: Hashable, function: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype) -> bool:
    """Whether a function is the fused one, to rounding."""
    if (key, dtype) not in _same:
        points = torch.linspace(-12, 12, 4097, dtype=dtype)
        with torch.no_grad():
            away = (function(points) - _fused(points)).abs()
        _same[key, dtype] = bool((away <= ROUNDINGS * torch.finfo(dtype).eps * points.abs().clamp(min=1)).all())
    return _same[key, dtype]
