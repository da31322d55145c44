"""CNE: the neurons' edit, on the MLP state that causal tracing finds (paper 000, section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from tl_knowledge.editing import Edit, KeyMoments, LowRank, edit_provenance
from tl_knowledge.engine.recording import record
from tl_knowledge.localised.objects import NeuronEditVariant, check_variant, object_embeddings
from tl_knowledge.models.hook_names import component_hook
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.models.weights import output_hook, output_weights
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.tracing import trace

__all__ = ["CausalNeuronEdit"]


@dataclass(frozen=True)
class CausalNeuronEdit:
    """Settings of CNE: the output ``m`` of the MLP at the causal state becomes ``m - lambda_1 E[old] + lambda_2 E[new]``.

    The causal state is the layer and token whose restored MLP output has the largest indirect effect on the old object. As weights, that is
    the smallest change of ``W_out`` which does this to the state's key: ``k shift^T / (k . k)``.

    Attributes:
        variant: how much of each embedding; under ``"dai2022"`` measured by the length of ``m``.
        noise: standard deviation of the tracing's noise, or a rule such as ``"3sd"`` (paper 000: 0.1).
        samples: noise draws.
        seed: of the noise.
    """

    variant: NeuronEditVariant = "wen_bai"
    noise: float | str = 0.1
    samples: int = 10
    seed: int = 0

    def plan(self, model: HookedModel, facts: Sequence[Fact], moments: KeyMoments | None) -> Edit:
        """One edit of all facts; moments are not needed.

        Raises:
            InputError: unknown variant.
            CorruptionError, TargetError: what `trace` refuses.
        """
        check_variant(self.variant)
        found: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        notes: list[dict[str, Any]] = []
        for fact in facts:
            prompt, objects = Prompt.from_fact(model, fact), object_embeddings(model, fact)
            traced = trace(
                model,
                prompt,
                self.noise,
                component="mlp_out",
                window=1,
                target=objects.old_token,
                samples=self.samples,
                seed=self.seed,
                progress=False,
            )
            pos, layer = traced.causal_state[:2]
            site = component_hook("neuron", layer)
            key = record(model, prompt.tokens, [], [site])[site][0, pos]
            output = key @ output_weights(model, layer).detach()
            found.setdefault(layer, []).append((key / (key @ key), objects.shift(output[None], self.variant)[0]))
            effect = float(traced.mean_effect.nan_to_num(-1).max())
            notes.append({"subject": fact.subject, "target": fact.target, "layer": layer, "pos": pos, "indirect_effect": effect})
        factors = {layer: LowRank(torch.stack([k for k, _ in pairs], dim=1), torch.stack([s for _, s in pairs])) for layer, pairs in found.items()}
        outputs = {layer: output_hook(model, layer) for layer in factors}
        return Edit(factors, outputs, tuple(notes), edit_provenance(model, self, asdict(self), self.seed))
