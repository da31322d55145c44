"""Windows of layers, and how many heads or neurons a layer has."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Literal, TypeAlias
from weakref import WeakKeyDictionary

from tl_knowledge.engine.proof import probe_tokens, run_settings
from tl_knowledge.engine.recording import record
from tl_knowledge.errors import ComponentError, UnsupportedModelError
from tl_knowledge.models.hook_names import Component, component_hook, unit_word
from tl_knowledge.models.protocol import HookedModel, layer_count, model_name
from tl_knowledge.wording import counted

__all__ = ["TraceVariant", "Window", "layer_axis", "resolve_window", "unit_count", "window_layers"]

Window: TypeAlias = int | Literal["auto"]

TraceVariant: TypeAlias = Literal["ours", "meng2022_code"]

WINDOW_MENG_2022 = 10

_counted: WeakKeyDictionary[HookedModel, dict[Hashable, int]] = WeakKeyDictionary()


def resolve_window(model: HookedModel, component: Component, window: Window, variant: TraceVariant) -> int:
    """Number of layers restored together; ``"auto"`` is about a fifth of the layers for modules, 1 for all else.

    A fifth is what the 10 layers of Meng et al.'s program are of GPT-2 XL's 48; ``"meng2022_code"`` keeps the 10. As the program does, it also takes
    a window that is larger than the model, and cuts it off at the model's ends around each layer.

    Raises:
        ComponentError: a window smaller than 1 or (``"ours"``) larger than the model.
    """
    most = layer_count(model)
    if window == "auto":
        if component not in ("mlp_out", "attn_out"):
            return 1
        return WINDOW_MENG_2022 if variant == "meng2022_code" else max(1, round(most / 5))
    if not isinstance(window, int) or window < 1 or (window > most and variant == "ours"):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ComponentError(f"window {window!r} does not fit the model; pass 1 to {counted(most, 'layer')}, or 'auto'.")
    return window


def layer_axis(window: int) -> str:
    """What an axis is called along which windows of so many layers move; with a number after it, where one of them is.

    Example:
        >>> layer_axis(1), f"{layer_axis(2)} 5"
        ('layer', 'window of 2 layers around layer 5')
    """
    return "layer" if window == 1 else f"window of {window} layers around layer"


def window_layers(layer: int, window: int, n_layers: int, variant: TraceVariant) -> tuple[int, int]:
    """First and last layer of a window around a layer, clipped to the model.

    An odd window is symmetric. An even one has its longer arm above the centre in Meng et al. 2022 (``l-4 .. l+5`` for 10)
    and below it in their program (``l-5 .. l+4``)::

        layer                  l-5 l-4 l-3 l-2 l-1  l  l+1 l+2 l+3 l+4 l+5
        window=10, "ours"           #   #   #   #   #   #   #   #   #   #
        "meng2022_code"         #   #   #   #   #   #   #   #   #   #

    Example:
        >>> window_layers(20, 10, 48, "ours"), window_layers(20, 10, 48, "meng2022_code")
        ((16, 25), (15, 24))
    """
    below = window // 2 if variant == "meng2022_code" else (window - 1) // 2
    first = layer - below
    return max(0, first), min(n_layers - 1, first + window - 1)


def unit_count(model: HookedModel, component: Component) -> int:
    """How many heads or neurons a layer has; 1 for components without units.

    Raises:
        UnsupportedModelError: keys or values of which layers have different numbers of heads.
    """
    if component in ("k", "v"):
        return _key_value_heads(model, component)
    if unit_word(component) == "head":
        return int(model.cfg.n_heads)
    if component == "neuron":
        return int(model.blocks[0].mlp.W_out.shape[0])
    return 1


def _key_value_heads(model: HookedModel, component: Component) -> int:
    """As the model runs: heads may share keys and values, and some classes show them shared, some each by itself."""
    counted, key = _counted.setdefault(model, {}), (component, run_settings(model))
    if key not in counted:
        shown = record(model, probe_tokens(model)[:1], [], [component_hook(component, layer) for layer in range(layer_count(model))])
        counts = {activation.shape[2] for activation in shown.values()}
        if len(counts) > 1:
            raise UnsupportedModelError(f"layers of {model_name(model)} have {sorted(counts)} heads of {component!r}; pass 'z' or 'attn_out'.")
        counted[key] = counts.pop()
    return counted[key]
