"""MEMIT: many facts at once, spread over several layers (Meng et al. 2023; paper 003, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import torch
from jaxtyping import Float

from tl_knowledge.arrays import Hooks
from tl_knowledge.editing.contexts import context_templates
from tl_knowledge.editing.edit import Edit, LowRank
from tl_knowledge.editing.keys import keys_and_outputs
from tl_knowledge.editing.method import edit_provenance
from tl_knowledge.editing.moments import KeyMoments, needed_moments
from tl_knowledge.editing.requests import EditedToken, Rows, rows_of
from tl_knowledge.editing.values import ValueSettings, optimise_values
from tl_knowledge.errors import InputError
from tl_knowledge.facts import Fact
from tl_knowledge.hooks import add_low_rank
from tl_knowledge.model import HookedModel, block_output, check_layers
from tl_knowledge.weights import output_hook

__all__ = ["MEMIT"]


@dataclass(frozen=True)
class MEMIT:
    """Settings of MEMIT.

    Attributes:
        layers: the edited layers, ascending; what the facts should be is optimised at the output of the last.
        moment_weight: lambda, how much the keys of other text weigh against the facts' (15,000 for GPT-J, 20,000 for GPT-2 XL).
        token: which token's key is edited.
        contexts: how many generated contexts of how many tokens.
        value: of the values' optimisation.
        seed: of the contexts.
    """

    layers: tuple[int, ...]
    moment_weight: float = 15_000.0
    token: EditedToken = "subject_last"
    contexts: tuple[tuple[int, int], ...] = ((10, 5),)
    value: ValueSettings = field(default_factory=lambda: ValueSettings(steps=25, clamp=0.75))
    seed: int = 0

    def plan(self, model: HookedModel, facts: Sequence[Fact], moments: KeyMoments | None) -> Edit:
        """One edit of all facts.

        Raises:
            InputError: no moments, or layers that do not ascend.
            ComponentError: no such layer.
        """
        check_layers(model, self.layers)
        if list(self.layers) != sorted(set(self.layers)):
            raise InputError(f"layers {self.layers} do not ascend; pass each once, lowest first.")
        known = needed_moments(moments, "MEMIT")
        if self.moment_weight <= 0:
            raise InputError(f"moment_weight={self.moment_weight} keeps nothing of other text; pass a positive number, such as 15000.")
        last, templates = self.layers[-1], context_templates(model, self.contexts, seed=self.seed)
        asked = [rows_of(model, fact, templates, self.token) for fact in facts]
        found = optimise_values(model, asked, last, block_output(last), self.value)
        wanted = torch.stack([each.wanted for each in found])
        factors: dict[int, LowRank] = {}
        outputs = {layer: output_hook(model, layer) for layer in self.layers}
        for done, layer in enumerate(self.layers):
            so_far = [pair for k, made in factors.items() for pair in add_low_rank(k, made.left, made.right, outputs[k])]
            keys, now = _keys_and_states(model, asked, layer, last, so_far)
            spread = (wanted - now) / (len(self.layers) - done)
            factors[layer] = _least_squares(known.of_layer(layer).to(keys), keys, spread, self.moment_weight)
        notes = tuple(each.notes(fact) for each, fact in zip(found, facts, strict=True))
        return Edit(factors, outputs, notes, edit_provenance(model, self, asdict(self) | {"tokens": known.tokens}, self.seed))


def _least_squares(
    moment: Float[torch.Tensor, "d_mlp d_mlp"], keys: Float[torch.Tensor, "fact d_mlp"], change: Float[torch.Tensor, "fact d_model"], weight: float
) -> LowRank:
    """``dW^T = R K^T (lambda C + K K^T)^-1``: the facts' outputs change, other keys' as little as possible."""
    return LowRank(torch.linalg.solve(weight * moment + keys.T @ keys, keys.T), change)


def _keys_and_states(
    model: HookedModel, asked: Sequence[Rows], layer: int, last: int, hooks: Hooks
) -> tuple[Float[torch.Tensor, "fact d_mlp"], Float[torch.Tensor, "fact d_model"]]:
    """Every fact's key in a layer (the bare prompt weighs as much as all contexts) and its state at the last edited layer, under some hooks."""
    known = [keys_and_outputs(model, rows, layer, block_output(last), hooks) for rows in asked]
    keys = [each[0] if len(each) == 1 else (each[0] + each[1:].mean(0)) / 2 for each, _ in known]
    return torch.stack(keys), torch.stack([states[0] for _, states in known])
