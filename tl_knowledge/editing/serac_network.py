"""What SERAC trains: a scope encoder and a counterfactual model."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from weakref import WeakKeyDictionary

import torch

from tl_knowledge.editing.scope import ScopeEncoder, make_encoder
from tl_knowledge.errors import InputError, ModelStateError
from tl_knowledge.models.loading import load_model
from tl_knowledge.models.protocol import HookedModel, model_name
from tl_knowledge.models.routed import foreign_hook, has_routes

__all__ = ["SeracNetwork", "copy_of", "network_of"]

_built: WeakKeyDictionary[object, dict[str, SeracNetwork]] = WeakKeyDictionary()


class SeracNetwork:
    """Both modules: to be trained, kept, and read with.

    Args:
        scope: what `make_encoder` takes.
        counterfactual: ``"copy"`` of the model, or another model's name.
        seed: of a small encoder's first weights.

    Raises:
        ModelStateError: an edit is kept on the model, or somebody's hook is, which a copy would keep.
        InputError: a counterfactual model with other tokens, or no such encoder.
    """

    scope: ScopeEncoder
    counterfactual: HookedModel

    def __init__(self, model: HookedModel, scope: str, counterfactual: str, seed: int = 0) -> None:
        if counterfactual != "copy":
            self.counterfactual = load_model(counterfactual)
        elif has_routes(model):
            raise ModelStateError("an edit is kept on the model, and a copy would keep it, too; revert(model) it, and write it again afterwards.")
        elif (hooked := foreign_hook(model)) is not None:
            raise ModelStateError(f"a hook is on {hooked!r}, and a copy would keep it, too; call this outside of model.hooks(...), or reset_hooks().")
        else:
            self.counterfactual = copy_of(model)
        other = self.counterfactual
        words = [each.tokenizer.get_vocab() if each.tokenizer is not None else None for each in (model, other)]
        if words[0] != words[1] or other.cfg.d_vocab != model.cfg.d_vocab:
            raise InputError(f"{counterfactual!r} has other tokens than {model_name(model)}; pass a model of its family.")
        self.scope = make_encoder(model, scope, seed)

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """All parameters, by module and name; what a module has twice comes once."""
        for part, module in (("scope", self.scope), ("counterfactual", self.counterfactual)):
            for name, parameter in module.named_parameters():
                yield f"{part}.{name}", parameter

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """What is trained."""
        for _, parameter in self.named_parameters():
            yield parameter

    def parameter_groups(self) -> list[dict[str, object]]:
        """As Adam takes them."""
        return [{"params": list(self.parameters())}]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The parameters themselves; what is not trained follows from the model."""
        return {name: parameter.detach() for name, parameter in self.named_parameters()}

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        """Hold other parameters.

        Raises:
            ValueError: they are of other modules.
        """
        own = self.state_dict()
        if {name: each.shape for name, each in own.items()} != {name: each.shape for name, each in state_dict.items()}:
            raise ValueError("they have other parameters, or such of other sizes")
        for name, parameter in own.items():
            parameter.copy_(state_dict[name])

    def wants_gradients(self, wanted: bool) -> SeracNetwork:
        """Switch the parameters' gradients on or off; returns itself."""
        for parameter in self.parameters():
            parameter.requires_grad_(wanted)
        return self


def copy_of(model: HookedModel) -> HookedModel:
    """A copy of a model; a bridge keeps activations of its last run, which may still have a graph that cannot be copied."""
    kept = [value for module in model.modules() for value in vars(module).values() if isinstance(value, torch.Tensor) and not value.is_leaf]
    return copy.deepcopy(model, {id(value): value.detach().clone() for value in kept})


def network_of(model: HookedModel, scope: str, counterfactual: str, content: str, weights: Mapping[str, torch.Tensor]) -> SeracNetwork:
    """Both modules as they were trained, made once a model.

    Args:
        content: digest of the weights.

    Raises:
        ModelStateError, InputError: as `SeracNetwork`.
    """
    there = _built.setdefault(model, {})
    if content not in there:
        network = SeracNetwork(model, scope, counterfactual)
        network.load_state_dict(weights)
        there[content] = network.wants_gradients(False)
    return there[content]
