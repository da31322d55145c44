"""CNE: the neurons' edit, on the MLP state that causal tracing finds (paper 000, section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from tl_knowledge.editing import Edit, KeyMoments, LowRank
from tl_knowledge.editing.method import edit_provenance
from tl_knowledge.editing.objects import Lambdas, check_lambdas, object_embeddings
from tl_knowledge.facts import Fact
from tl_knowledge.model import HookedModel, component_hook
from tl_knowledge.prompts import Prompt
from tl_knowledge.rows import record
from tl_knowledge.tracing import trace
from tl_knowledge.weights import output_hook, output_weights

__all__ = ["CausalNeuronEdit"]


@dataclass(frozen=True)
class CausalNeuronEdit:
    """Settings of CNE: the output ``m`` of the MLP at the causal state becomes ``m - lambda_1 E[old] + lambda_2 E[new]``.

    The causal state is the layer and token whose restored MLP output has the largest indirect effect on the old object. As weights, that is
    the smallest change of ``W_out`` which does this to the state's key: ``k shift^T / (k . k)``.

    Attributes:
        lambdas: how much of each embedding; under ``"dai"`` measured by the length of ``m``.
        noise: standard deviation of the tracing's noise, or a rule such as ``"3sd"`` (paper 000: 0.1).
        samples: noise draws.
        seed: of the noise.
    """

    lambdas: Lambdas = "paper_000"
    noise: float | str = 0.1
    samples: int = 10
    seed: int = 0

    def plan(self, model: HookedModel, facts: Sequence[Fact], moments: KeyMoments | None) -> Edit:
        """One edit of all facts; moments are not needed.

        Raises:
            InputError: unknown lambdas.
            CorruptionError, TargetError: what `trace` refuses.
        """
        check_lambdas(self.lambdas)
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
            found.setdefault(layer, []).append((key / (key @ key), objects.shift(output[None], self.lambdas)[0]))
            effect = float(traced.mean_effect.nan_to_num(-1).max())
            notes.append({"subject": fact.subject, "target": fact.target, "layer": layer, "pos": pos, "indirect_effect": effect})
        factors = {layer: LowRank(torch.stack([k for k, _ in pairs], dim=1), torch.stack([s for _, s in pairs])) for layer, pairs in found.items()}
        outputs = {layer: output_hook(model, layer) for layer in factors}
        return Edit(factors, outputs, tuple(notes), edit_provenance(model, self, asdict(self), self.seed))
