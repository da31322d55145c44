"""Names of what can be restored or severed, and of the hooks where it is read.

Nothing here needs torch, so the command line can list these words without waiting for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias, get_args

from tl_knowledge.errors import ComponentError, check_choice

__all__ = [
    "COMPONENTS",
    "EMBED",
    "EMBEDDINGS",
    "STATES",
    "UNEMBED_IN",
    "Component",
    "Module",
    "NodeComponent",
    "Written",
    "attention_pattern",
    "attention_scores",
    "block_input",
    "block_output",
    "by_position",
    "component_hook",
    "has_units",
    "severable",
    "state_hook",
    "unit_word",
]

Module: TypeAlias = Literal["mlp_out", "attn_out", "resid_pre", "mlp_in", "q", "k", "v", "z", "pattern", "attn_scores"]
"""What can be severed: a module's write into the residual stream, or what it reads and makes on the way there."""

Component: TypeAlias = Literal[
    "resid_post", "mlp_out", "attn_out", "head", "neuron", "resid_pre", "mlp_in", "q", "k", "v", "z", "pattern", "attn_scores"
]
"""What can be restored: a state, a module's output, one head's ``z``, one neuron's activation; the state that enters a block, what its MLP reads, a
head's query, key, value, ``z`` (the same as ``"head"``), attention pattern or scores, the last two by the position that attends."""

Written: TypeAlias = Literal["mlp_out", "attn_out"]
"""A module's write into the residual stream."""

NodeComponent: TypeAlias = Literal["resid_post", "mlp_out", "attn_out", "head", "neuron"]
"""What can be a node of a circuit."""

COMPONENTS: tuple[Component, ...] = get_args(Component)
STATES: tuple[Component, ...] = ("resid_post", "resid_pre")
_PER_HEAD: tuple[Component, ...] = ("head", "q", "k", "v", "z", "pattern", "attn_scores")

EMBED = "hook_embed"  # the token embedding's output, before positions

EMBEDDINGS = -1  # the "layer" of the state that enters block 0

UNEMBED_IN = "unembed.hook_in"  # the final norm's output, past Hugging Face's last reshape

_HOOKS: dict[Component, str] = {
    "resid_post": "hook_resid_post",
    "mlp_out": "hook_mlp_out",
    "attn_out": "hook_attn_out",
    "head": "attn.hook_z",
    "neuron": "mlp.hook_post",
    "resid_pre": "hook_resid_pre",
    "mlp_in": "mlp.hook_in",
    "q": "attn.hook_q",
    "k": "attn.hook_k",
    "v": "attn.hook_v",
    "z": "attn.hook_z",
    "pattern": "attn.hook_pattern",
    "attn_scores": "attn.hook_attn_scores",
}


def component_hook(component: Component, layer: int) -> str:
    """The hook of a component in a layer; of ``"mlp_in"`` that of bridges (`tl_knowledge.models.protocol.site_hook` knows the model).

    Example:
        >>> component_hook("mlp_out", 3)
        'blocks.3.hook_mlp_out'

    Raises:
        ComponentError: unknown component.
    """
    check_choice("component", component, COMPONENTS, ComponentError)
    return f"blocks.{layer}.{_HOOKS[component]}"


def severable(modules: Module | Iterable[Module] | None) -> tuple[Module, ...]:
    """No module, one or several, as a tuple.

    Raises:
        ComponentError: something that is not a module's output.
    """
    names: tuple[Module, ...] = (modules,) if isinstance(modules, str) else tuple(modules or ())  # pyright: ignore
    for module in names:
        if module not in get_args(Module):
            raise ComponentError(f"module {module!r} cannot be severed; pass one or several of {', '.join(map(repr, get_args(Module)))}.")
    return names


def has_units(component: Component) -> bool:
    """Whether the component's activation has one more axis to choose from: heads or neurons."""
    return unit_word(component) != ""


def unit_word(component: Component) -> str:
    """What a component's units are: heads, neurons, or nothing where it has none."""
    return "head" if component in _PER_HEAD else "neuron" if component == "neuron" else ""


def block_input(layer: int) -> str:
    """The hook of the residual stream that enters a block."""
    return component_hook("resid_pre", layer)


def block_output(layer: int) -> str:
    """The hook of the residual stream that leaves a block."""
    return component_hook("resid_post", layer)


def state_hook(layer: int) -> str:
    """The hook of the residual stream after a layer; ``-1`` is what enters block 0.

    Example:
        >>> state_hook(-1), state_hook(3)
        ('blocks.0.hook_resid_pre', 'blocks.3.hook_resid_post')
    """
    return block_input(0) if layer == EMBEDDINGS else block_output(layer)


def attention_scores(layer: int) -> str:
    """The hook of a block's attention scores before the softmax, ``[batch head query key]``."""
    return component_hook("attn_scores", layer)


def attention_pattern(layer: int) -> str:
    """The hook of a block's attention pattern after the softmax, ``[batch head query key]``."""
    return component_hook("pattern", layer)


def by_position(name: str, activation: Any) -> Any:
    """An activation as ``[batch pos ...]``: of attention's scores and patterns, ``[batch query head key]`` as a view; of everything else, itself."""
    return activation.transpose(1, 2) if name.endswith(("attn.hook_pattern", "attn.hook_attn_scores")) else activation
