"""Editing a fact's knowledge neurons: objects' embeddings on their rows of ``W_out`` (Dai et al. 2022, section 5; the baseline KN)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from tl_knowledge.editing import Edit, KeyMoments, LowRank, edit_provenance
from tl_knowledge.errors import InputError, NumericalError
from tl_knowledge.localised.objects import NeuronEditVariant, check_variant, object_embeddings
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.models.weights import output_hook, output_weights
from tl_knowledge.neurons import AttributionVariant, NeuronSet, attribute_neurons, select_neurons
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt

__all__ = ["KnowledgeNeuronEdit"]


@dataclass(frozen=True)
class KnowledgeNeuronEdit:
    """Settings of knowledge-neuron editing: ``W_out[i] += -lambda_1 E[old] + lambda_2 E[new]`` for the neurons of the old object.

    Attributes:
        variant: how much of each embedding.
        erase: set the rows to zero instead, which takes the fact away and writes nothing.
        threshold: of the attribution, as a part of the prompt's largest.
        shared_by: in what part of the paraphrases a neuron must be found; facts without paraphrases are not refined.
        spare: neurons that are never edited, such as those that many of a relation's facts share.
        attribution_variant, steps, at: of the attribution.
    """

    variant: NeuronEditVariant = "wen_bai"
    erase: bool = False
    threshold: float = 0.2
    shared_by: float = 0.5
    spare: NeuronSet | None = None
    attribution_variant: AttributionVariant = "ours"
    steps: int = 20
    at: str = "last"

    def plan(self, model: HookedModel, facts: Sequence[Fact], moments: KeyMoments | None) -> Edit:
        """One edit of all facts; moments are not needed.

        Raises:
            InputError: unknown variant or place.
            NumericalError: no neuron is left for a fact.
        """
        check_variant(self.variant)
        if self.at not in ("last", "subject"):
            raise InputError(f"at={self.at!r} is no place for knowledge neurons; pass 'last' or 'subject'.")
        rows: dict[int, dict[int, torch.Tensor]] = {}
        notes: list[dict[str, Any]] = []
        for fact in facts:
            objects = object_embeddings(model, fact)
            neurons = self._neurons(model, fact, objects.old_token)
            for layer, neuron in neurons:
                row = output_weights(model, layer)[neuron].detach()[None]
                change = -row if self.erase else objects.shift(row, self.variant)
                known = rows.setdefault(layer, {})
                known[neuron] = change[0] if self.erase or neuron not in known else known[neuron] + change[0]
            notes.append({"subject": fact.subject, "target": fact.target, "neurons": sorted(neurons), "old_token": objects.old_token})
        factors = {layer: _rows_as_factors(model, layer, changed) for layer, changed in rows.items()}
        settings = asdict(self) | {"spare": None if self.spare is None else sorted(self.spare)}
        return Edit(factors, {layer: output_hook(model, layer) for layer in factors}, tuple(notes), edit_provenance(model, self, settings, 0))

    def _neurons(self, model: HookedModel, fact: Fact, old_token: int) -> NeuronSet:
        """The old object's neurons, refined over the fact's wordings."""
        templates = [fact.template, *(template for template in fact.paraphrases if template != fact.template)]
        asked = [Prompt.from_fact(model, fact.rephrase(template)) for template in templates]
        prompts = [replace(prompt, answer=(old_token,)) for prompt in asked]
        scores = attribute_neurons(model, prompts, variant=self.attribution_variant, steps=self.steps, at=self.at, progress=False)
        found = select_neurons(scores, threshold=self.threshold, shared_by=self.shared_by)
        found = found if self.spare is None else found - self.spare
        if not len(found):
            raise NumericalError(f"no neuron is left to edit for {fact.text!r}; lower threshold={self.threshold:g} or shared_by={self.shared_by:g}.")
        return found


def _rows_as_factors(model: HookedModel, layer: int, changed: dict[int, torch.Tensor]) -> LowRank:
    """Changes of single rows, as one-hot columns times the changes."""
    right = torch.stack(list(changed.values()))
    left = right.new_zeros(output_weights(model, layer).shape[0], len(changed))
    left[list(changed), range(len(changed))] = 1
    return LowRank(left, right)
