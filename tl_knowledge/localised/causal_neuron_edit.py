"""CNE: the neurons' edit, on the MLP state that causal tracing finds (Wen and Bai, section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from typing_extensions import override

from tl_knowledge.door import public
from tl_knowledge.editing import Edit, EditMethod, KeyMoments, LowRank
from tl_knowledge.engine.progress import progress_bar, progress_shown
from tl_knowledge.engine.recording import record
from tl_knowledge.errors import check_choice
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
    the smallest change of ``W_out`` which does this to the state's key: ``k shift^T / (k . k)``.

    Attributes:
        variant: how much of each embedding; under ``"dai2022"`` measured by the length of ``m``.
        noise: standard deviation of the tracing's noise, or a rule such as ``"3sd"`` (Wen and Bai: 0.1).
        window: layers restored together; when ``None`` 1, so that the state alone decides, and under ``"wen_bai"`` 10 (at most all layers).
        samples: noise draws.
        seed: of the noise.
    """

    variant: NeuronEditVariant = "ours"
    noise: float | str = 0.1
    window: int | None = None
    samples: int = 10
    seed: int = 0

    @classmethod
    @override
    def small(cls) -> CausalNeuronEdit:
        return replace(super().small(), noise=0.5)

    @override
    def plan(self, model: HookedModel, facts: Sequence[Fact], moments: KeyMoments | None) -> Edit:
        """One edit of all facts; moments are not needed.

        Raises:
            InputError: unknown variant.
            ComponentError, CorruptionError, TargetError: what `trace` refuses.
        """
        check_choice("variant", self.variant, NeuronEditVariant)
        pairs: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        notes: list[dict[str, Any]] = []
        for fact in progress_bar(facts, what="find causal states", unit="fact", progress=progress_shown(), leave=False):
            prompt, objects = Prompt.from_fact(model, fact), object_embeddings(model, fact, self.variant)
            pos, layer, effect = self._causal_state(model, prompt, objects.old_token)
            site = component_hook("neuron", layer)
            key = record(model, prompt.tokens, [], [site])[site][0, pos]
            output = key @ output_weights(model, layer).detach()
            pairs.setdefault(layer, []).append((key / (key @ key), objects.shift(output[None], self.variant)[0]))
            notes.append({"subject": fact.subject, "target": fact.target, "layer": layer, "pos": pos, "indirect_effect": effect})
        factors = {layer: LowRank(torch.stack([k for k, _ in own], dim=1), torch.stack([shift for _, shift in own])) for layer, own in pairs.items()}
        return Edit.planned(model, self, factors, notes=notes)

    def _causal_state(self, model: HookedModel, prompt: Prompt, old_token: int) -> tuple[int, int, float]:
        """Token and layer of the largest indirect effect on the old object, and that effect."""
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
        pos, layer = traced.causal_state[:2]
        return pos, layer, float(traced.mean_effect.nan_to_num(-1).max())
