"""What the package asks of a model, the names of its hooks, and the checks before any work.

Nothing here knows TransformerLens' classes (``loading.py`` is the only door to them): a model is anything that
fulfils `HookedModel`, which ``HookedTransformer`` and ``TransformerBridge`` both do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol, TypeAlias, get_args, runtime_checkable

import torch
from jaxtyping import Float

from tl_knowledge.arrays import Hooks
from tl_knowledge.errors import ComponentError, ModelStateError, UnsupportedModelError

__all__ = [
    "COMPONENTS",
    "EMBED",
    "UNEMBED_IN",
    "Component",
    "HookedModel",
    "Module",
    "attention_input",
    "attention_pattern",
    "attention_scores",
    "block_input",
    "block_output",
    "check_layers",
    "check_model",
    "component_hook",
    "context_length",
    "describe_model",
    "embedding_matrix",
    "has_units",
    "is_masked",
    "layer_count",
    "mlp_input",
    "model_device",
    "prepends_bos",
    "severable",
    "weight_fingerprint",
    "weight_processing",
]

Module: TypeAlias = Literal["mlp_out", "attn_out"]
"""What can be severed: a module's write into the residual stream."""

Component: TypeAlias = Literal["resid_post", "mlp_out", "attn_out", "head", "neuron"]
"""What can be restored: a state, a module's output, one head's ``z``, one neuron's activation."""

COMPONENTS: tuple[Component, ...] = get_args(Component)

EMBED = "hook_embed"  # the token embedding's output, before positions
UNEMBED_IN = "unembed.hook_in"  # the final norm's output, past Hugging Face's last reshape

_HOOKS: dict[Component, str] = {
    "resid_post": "hook_resid_post",
    "mlp_out": "hook_mlp_out",
    "attn_out": "hook_attn_out",
    "head": "attn.hook_z",
    "neuron": "mlp.hook_post",
}


@runtime_checkable
class HookedModel(Protocol):
    """The part of TransformerLens' model interface that this package uses."""

    cfg: Any
    tokenizer: Any
    blocks: Any
    training: bool

    @property
    def hook_dict(self) -> dict[str, Any]: ...

    def __call__(self, input: Any, /, **kwargs: Any) -> Any: ...

    def run_with_hooks(self, input: Any, /, *, fwd_hooks: Hooks = ..., **kwargs: Any) -> Any: ...

    def run_with_cache(self, input: Any, /, **kwargs: Any) -> Any: ...

    def hooks(self, fwd_hooks: Hooks = ..., **kwargs: Any) -> AbstractContextManager[Any]: ...

    def parameters(self) -> Any: ...

    def named_parameters(self) -> Any: ...

    def modules(self) -> Any: ...


def component_hook(component: Component, layer: int) -> str:
    """The hook of a component in a layer.

    Example:
        >>> component_hook("mlp_out", 3)
        'blocks.3.hook_mlp_out'

    Raises:
        ComponentError: unknown component.
    """
    if component not in _HOOKS:
        raise ComponentError(f"component {component!r} is unknown; pass one of {', '.join(map(repr, COMPONENTS))}.")
    return f"blocks.{layer}.{_HOOKS[component]}"


def severable(modules: Module | Iterable[Module]) -> tuple[Module, ...]:
    """One module or several, as a tuple.

    Raises:
        ComponentError: something that is not a module's output.
    """
    names: tuple[Module, ...] = (modules,) if isinstance(modules, str) else tuple(modules)  # pyright: ignore
    for module in names:
        if module not in get_args(Module):
            raise ComponentError(f"module {module!r} cannot be severed; pass 'mlp_out', 'attn_out' or both.")
    return names


def has_units(component: Component) -> bool:
    """Whether the component's activation has one more axis to choose from: heads or neurons."""
    return component in ("head", "neuron")


def block_input(layer: int) -> str:
    """The hook of the residual stream that enters a block."""
    return f"blocks.{layer}.hook_resid_pre"


def block_output(layer: int) -> str:
    """The hook of the residual stream that leaves a block."""
    return component_hook("resid_post", layer)


def mlp_input(model: HookedModel, layer: int) -> str | None:
    """The hook of what a block's MLP reads, ``[batch pos d_model]``; ``None`` where the model has none."""
    for name in (f"blocks.{layer}.mlp.hook_in", f"blocks.{layer}.ln2.hook_normalized"):
        if name in model.hook_dict:
            return name
    return None


def attention_input(model: HookedModel, layer: int) -> str | None:
    """The hook of what a block's attention reads, where queries, keys and values are projected position by position.

    ``None`` on bridges (Hugging Face's attention reshapes by the input's shape) and under TransformerLens' split inputs.
    """
    name = f"blocks.{layer}.ln1.hook_normalized"
    split = any(getattr(model.cfg, flag, False) for flag in ("use_split_qkv_input", "use_attn_in", "use_attn_result"))
    return name if name in model.hook_dict and f"blocks.{layer}.attn.hook_in" not in model.hook_dict and not split else None


def attention_scores(layer: int) -> str:
    """The hook of a block's attention scores before the softmax, ``[batch head query key]``."""
    return f"blocks.{layer}.attn.hook_attn_scores"


def attention_pattern(layer: int) -> str:
    """The hook of a block's attention pattern behind the softmax, ``[batch head query key]``."""
    return f"blocks.{layer}.attn.hook_pattern"


def layer_count(model: HookedModel) -> int:
    """Number of blocks."""
    return int(model.cfg.n_layers)


def context_length(model: HookedModel) -> int:
    """Longest prompt, in tokens."""
    return int(model.cfg.n_ctx)


def model_device(model: HookedModel) -> torch.device:
    """Where the model's first parameter is."""
    return next(iter(model.parameters())).device


def prepends_bos(model: HookedModel) -> bool:
    """Whether prompts start with a beginning-of-sequence token unless told otherwise."""
    has_bos = getattr(model.tokenizer, "bos_token_id", None) is not None
    return has_bos and bool(getattr(model.cfg, "default_prepend_bos", True))


def embedding_matrix(model: HookedModel) -> Float[torch.Tensor, "d_vocab d_model"]:
    """The token embeddings, one row a vocabulary entry, as the weights hold them."""
    weights: torch.Tensor = model.W_E  # pyright: ignore  # a property of both classes
    return weights.detach()


def weight_processing(model: HookedModel) -> dict[str, bool]:
    """Which of TransformerLens' weight processing steps the model shows.

    Centring is read off the weights themselves (every row of ``W_out`` has mean zero), so it is right for any model
    the caller made, however it was loaded.
    """
    folded = str(getattr(model.cfg, "normalization_type", "")).endswith("Pre") or bool(getattr(model, "compatibility_mode", False))
    written: torch.Tensor = model.blocks[0].mlp.W_out.detach()
    centred = bool(written.float().mean(-1).abs().max() < 1e-5 * written.float().abs().mean())
    return {"fold_ln": folded, "center_writing_weights": centred}


def describe_model(model: HookedModel) -> dict[str, Any]:
    """What `Provenance` records of a model: name, backend, weight processing, dtype, device."""
    parameter = next(iter(model.parameters()))
    return {
        "model": _name(model),
        "backend": type(model).__name__,
        "weight_processing": weight_processing(model),
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "device": str(parameter.device),
    }


def weight_fingerprint(model: HookedModel) -> str:
    """Changes when any weight does: names, shapes and bit patterns of all parameters.

    Bits are summed as integers, so the value does not depend on threads or device.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters(), key=lambda pair: str(pair[0])):
        weights: torch.Tensor = parameter.detach().contiguous().flatten()
        bits = weights.view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[weights.element_size()])
        some = bits[:: max(1, len(bits) // 64)].tolist()  # a sum alone would not notice rows changing places
        digest.update(json.dumps([name, list(parameter.shape), int(bits.sum(dtype=torch.int64)), some]).encode())
    return digest.hexdigest()[:16]


def is_masked(model: HookedModel) -> bool:
    """Whether the model reads in both directions and fills masks (BERT)."""
    # Bridges call BERT's attention causal, so the architecture's name is asked too.
    names = [str(getattr(model.cfg, name, "")) for name in ("architecture", "original_architecture")]
    return getattr(model.cfg, "attention_dir", "causal") != "causal" or any(name.endswith("MaskedLM") for name in names)


def check_model(model: Any, *, masked: bool = False) -> HookedModel:
    """Return the model if the methods of this package can work on it; it is not changed.

    Args:
        masked: whether a masked model will do, which only knowledge neurons can work on.

    Raises:
        UnsupportedModelError: not a TransformerLens model, not autoregressive, or a mixture of experts.
        ModelStateError: training mode with dropout, which would make every run random.
    """
    if not isinstance(model, HookedModel):
        raise UnsupportedModelError(
            f"{type(model).__name__} is not a TransformerLens model; pass a HookedTransformer, a TransformerBridge, or a name to load_model()."
        )
    if not masked and is_masked(model):
        raise UnsupportedModelError(f"{_name(model)} attends in both directions; pass an autoregressive model.")
    for layer, block in enumerate(model.blocks):
        out = getattr(getattr(block, "mlp", None), "W_out", None)
        if getattr(model.cfg, "num_experts", None) or not isinstance(out, torch.Tensor) or out.ndim != 2:
            raise UnsupportedModelError(f"layer {layer} of {_name(model)} has no single W_out (a mixture of experts?); pass a model with dense MLPs.")
    if model.training and _dropout(model) > 0:
        raise ModelStateError(f"{_name(model)} is in training mode with dropout {_dropout(model):g}; call model.eval() first.")
    return model


def check_layers(model: HookedModel, layers: Sequence[int] | None) -> tuple[int, ...]:
    """Return the layers, all of them for ``None``, refusing those the model does not have.

    Raises:
        ComponentError: no layer, or one outside the model.
    """
    if layers is None:
        return tuple(range(layer_count(model)))
    if not layers:
        raise ComponentError("no layer was given; pass at least one layer.")
    for layer in layers:
        if not 0 <= layer < layer_count(model):
            raise ComponentError(f"layer {layer} is outside {_name(model)}; it has layers 0 to {layer_count(model) - 1}.")
    return tuple(layers)


def _name(model: HookedModel) -> str:
    return str(getattr(model.cfg, "model_name", None) or type(model).__name__)


def _dropout(model: HookedModel) -> float:
    """The largest dropout probability of any part of the model."""
    modules = [float(m.p) for m in model.modules() if isinstance(m, torch.nn.Dropout)]
    config = getattr(getattr(model, "original_model", None), "config", None)
    return max([0.0, *modules, float(getattr(config, "attention_dropout", 0.0) or 0.0)])
