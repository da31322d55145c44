"""Whether a model goes on with what is written at a site: some only show an activation and compute past it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from tl_knowledge.arrays import HookFn
from tl_knowledge.engine.forward import run_model
from tl_knowledge.engine.proof import Proof, probe_tokens
from tl_knowledge.errors import ComponentError
from tl_knowledge.models.checks import check_has
from tl_knowledge.models.hook_names import COMPONENTS, Component, component_hook
from tl_knowledge.models.protocol import HookedModel, has_mlps, layer_count, model_name, site_hook

__all__ = ["check_sites", "site_refusal"]

_ALWAYS = COMPONENTS[:5]  # what the package needs of every model, and what every method is tried on


def check_sites(model: HookedModel, components: Iterable[Component]) -> None:
    """Refuse sites that a model does not have, or only shows.

    Raises:
        ComponentError: such a site, and those that the model has.
    """
    asked = tuple(dict.fromkeys(components))
    check_has(model, asked)
    for component in asked:
        refusal = site_refusal(model, component)
        if refusal:
            there = [other for other in COMPONENTS if _fits(model, other) and not site_refusal(model, other)]
            raise ComponentError(f"{component!r} cannot be written in {model_name(model)}: {refusal}; pass one of {', '.join(map(repr, there))}.")


def site_refusal(model: HookedModel, component: Component) -> str | None:
    """Why this model cannot run on with what is written at a site, or ``None`` where it can.

    The probe: a run with a row for each layer, in which that layer's site is not a number; every row's logits must be others than without it.
    """
    return None if component in _ALWAYS else _PROOFS[component].refusal(model)


def _fits(model: HookedModel, component: Component) -> bool:
    return has_mlps(model) or component not in ("mlp_out", "mlp_in", "neuron")


def _probe_of(component: Component) -> Callable[[HookedModel], str]:
    def probe(model: HookedModel) -> str:
        layers = range(layer_count(model))
        names = [site_hook(model, component, layer) for layer in layers]
        missing = [name for name in names if name not in model.hook_dict]
        if missing:
            return f"it has no {missing[0]}"
        rows, fired = probe_tokens(model)[:1].repeat(len(layers), 1), list[str]()
        watched = {*names, *(component_hook("neuron", layer) for layer in layers if component == "mlp_in")}
        plain: torch.Tensor = run_model(model, rows, [(name, _note(name, fired)) for name in sorted(watched)])
        if not set(names) <= set(fired):
            return f"{next(name for name in names if name not in fired)} never fires"
        if component == "mlp_in" and any(fired.index(name) > fired.index(component_hook("neuron", layer)) for layer, name in enumerate(names)):
            return f"{names[0]} comes after the MLP"
        spoilt: torch.Tensor = run_model(model, rows, [(name, _spoil(row)) for row, name in enumerate(names)])
        unread = [layer for layer in layers if torch.equal(spoilt[layer], plain[layer])]
        return f"it computes past {names[unread[0]]}, which it only shows" if unread else ""

    return probe


def _note(name: str, fired: list[str]) -> HookFn:
    return lambda activation, *, hook: fired.append(name)


def _spoil(row: int) -> HookFn:
    def spoil(activation: torch.Tensor, *, hook: object) -> torch.Tensor:
        changed = activation.clone()
        changed[row] = torch.nan
        return changed

    return spoil


_PROOFS = {component: Proof(f"writing {component}", _probe_of(component), instead="") for component in COMPONENTS if component not in _ALWAYS}
