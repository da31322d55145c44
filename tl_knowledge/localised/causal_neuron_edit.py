"""CNE: the neurons' edit, on the MLP state that causal tracing finds (Wen and Bai, section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from typing_extensions import override

from tl_knowledge.door import public
from tl_knowledge.editing import Edit, EditMethod, KeyMoments, LowRank
from tl_knowledge.engine.progress import progress_bar, progress_shown
from tl_knowledge.engine.recording import record
from tl_knowledge.errors import InputError, check_choice
from tl_knowledge.localised.objects import NeuronEditVariant, object_embeddings
from tl_knowledge.models.hook_names import component_hook
from tl_knowledge.models.protocol import HookedModel, layer_count
from tl_knowledge.models.weights import output_weights
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.tracing import trace

__all__ = ["CausalNeuronEdit"]

WINDOW_WEN_BAI = 10


@public
@dataclass(frozen=True)
class CausalNeuronEdit(EditMethod):
    """Settings of CNE: the output ``m`` of the MLP at the causal state becomes ``m - lambda_1 E[old] + lambda_2 E[new]``.

    The causal state is the layer and token whose restored MLP output has the largest indirect effect on the old object. As weights, that is
    the smallest change of ``W_out`` which does this to the state's key: ``k shift^T / (k . k)``; of several states in a layer, the smallest that
    does it to all of their keys.

    Attributes:
        variant: how much of each embedding; under ``"dai2022"`` measured by the length of ``m``. Meng et al.'s program has no such edit.
        k: how many causal states of a fact are changed, from the largest effect on (Wen and Bai, section 6, propose several). Their keys are
            those of the unedited model.
        noise: standard deviation of the tracing's noise, or a rule such as ``"3sd"`` (Wen and Bai: 0.1).
        window: layers restored together; when ``None`` 1, so that the state alone decides, and under ``"wen_bai"`` 10 (at most all layers).
        samples: noise draws.
        seed: of the noise.

    Raises:
        InputError: unknown variant, or no state to change.
    """

    variant: NeuronEditVariant = "ours"
    k: int = 1
    noise: float | str = 0.1
    window: int | None = None
    samples: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("variant", self.variant, [each for each in get_args(NeuronEditVariant) if each != "meng2022_code"])
        if self.k < 1:
            raise InputError(f"k={self.k} changes no state; pass 1 or more.")

    @classmethod
    @override
    def small(cls) -> CausalNeuronEdit:
        return replace(super().small(), noise=0.5)

    @override
    def plan(self, model: HookedModel, facts: Sequence[Fact], moments: KeyMoments | None) -> Edit:
        """One edit of all facts; moments are not needed.

        Raises:
            ComponentError, CorruptionError, TargetError: what `trace` refuses.
        """
        pairs: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        notes: list[dict[str, Any]] = []
        for fact in progress_bar(facts, what="find causal states", unit="fact", progress=progress_shown(), leave=False):
            prompt, objects = Prompt.from_fact(model, fact), object_embeddings(model, fact, self.variant)
            states = self._causal_states(model, prompt, objects.old_token)
            keys = record(model, prompt.tokens, [], sorted({component_hook("neuron", layer) for _, layer, _ in states}))
            for pos, layer, _ in states:
                key = keys[component_hook("neuron", layer)][0, pos]
                output = key @ output_weights(model, layer).detach()
                pairs.setdefault(layer, []).append((key, objects.shift(output[None], self.variant)[0]))
            (pos, layer, effect), places = states[0], [{"layer": layer, "pos": pos, "indirect_effect": effect} for pos, layer, effect in states]
            notes.append({"subject": fact.subject, "target": fact.target, "layer": layer, "pos": pos, "indirect_effect": effect, "states": places})
        return Edit.planned(model, self, {layer: _moving(own) for layer, own in pairs.items()}, notes=notes)

    def _causal_states(self, model: HookedModel, prompt: Prompt, old_token: int) -> list[tuple[int, int, float]]:
        """Tokens and layers of the largest indirect effects on the old object, and those effects."""
        default = min(WINDOW_WEN_BAI, layer_count(model)) if self.variant == "wen_bai" else 1
        traced = trace(
            model,
            prompt,
            self.noise,
            component="mlp_out",
            window=default if self.window is None else self.window,
            target=old_token,
            samples=self.samples,
            seed=self.seed,
            progress=False,
        )
        effects = traced.mean_effect.nan_to_num(nan=-float("inf"))
        best = effects.flatten().sort(descending=True, stable=True).indices[: self.k].tolist()
        return [(i % effects.shape[1], traced.layers[i // effects.shape[1]], float(effects.flatten()[i])) for i in best]


def _moving(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> LowRank:
    """The smallest change of ``W_out`` that moves the outputs of some keys by their shifts."""
    keys, shifts = torch.stack([key for key, _ in pairs]), torch.stack([shift for _, shift in pairs])
    wide = torch.promote_types(keys.dtype, torch.float32)
    return LowRank(torch.linalg.pinv(keys.to(wide)).to(keys), shifts)
