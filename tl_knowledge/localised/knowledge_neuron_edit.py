"""Editing a fact's knowledge neurons: objects' embeddings on their rows of ``W_out`` (Dai et al. 2022, section 5; the baseline KN)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from typing_extensions import override

from tl_knowledge.door import public
from tl_knowledge.editing import Edit, EditMethod, KeyMoments, LowRank
from tl_knowledge.errors import ComponentError, NumericalError, check_choice
from tl_knowledge.localised.objects import NeuronEditVariant, object_embeddings
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.models.weights import output_weights
from tl_knowledge.neurons import AttributionVariant, NeuronAttribution, NeuronSet, attribute_neurons, select_neurons
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt

__all__ = ["KnowledgeNeuronEdit"]

THRESHOLD, THRESHOLD_WEN_BAI = 0.2, 0.3


@public
@dataclass(frozen=True)
class KnowledgeNeuronEdit(EditMethod):
    """Settings of knowledge-neuron editing: ``W_out[i] += -lambda_1 E[old] + lambda_2 E[new]`` for the neurons of the old object.

    ``variant`` names whose change of the rows it is. Which neurons are changed is for the other settings: Dai et al. attribute with
    ``attribution_variant="dai2022"`` and leave out what a tenth of the relation's facts share (``spare``), EleutherAI's program attributes with
    ``"eleutherai2022"``. ``"meng2022_code"`` is a whole program: the bare prompt alone, EleutherAI's attribution, nothing refined.

    Attributes:
        variant: how much of each embedding; ``"meng2022_code"`` does not read ``shared_by`` and ``attribution_variant``.
        erase: set the rows to zero instead, which takes the fact away and writes nothing.
        threshold: of the attribution, as a share of the prompt's largest; 0.2, and 0.3 under ``"wen_bai"``, when ``None``.
        shared_by: in more than what share of the paraphrases a neuron must be; facts without paraphrases are not refined.
        spare: neurons that are never edited, such as those that many of a relation's facts share.
        neurons: edit these instead of those that are attributed; with ``erase`` and ``located.relation_neurons("P36")`` a whole relation is
            taken away (Dai et al. 2022, section 5.2).
        attribution_variant, steps, at: of the attribution; ``at`` is ``"last"`` or ``"subject"``.

    Raises:
        InputError: unknown variant or place.
    """

    edits_any_model: ClassVar[bool] = True

    variant: NeuronEditVariant = "ours"
    erase: bool = False
    threshold: float | None = None
    shared_by: float = 0.5
    spare: NeuronSet | None = None
    attribution_variant: AttributionVariant = "ours"
    steps: int = 20
    at: str = "last"
    neurons: NeuronSet | None = None

    def __post_init__(self) -> None:
        check_choice("variant", self.variant, NeuronEditVariant)
        check_choice("at", self.at, ("last", "subject"))

    @classmethod
    @override
    def small(cls) -> KnowledgeNeuronEdit:
        return replace(super().small(), threshold=0.1, shared_by=0.1)

    @override
    def plan(self, model: HookedModel, facts: Sequence[Fact], moments: KeyMoments | None) -> Edit:
        """One edit of all facts; moments are not needed.

        Raises:
            NumericalError: no neuron is left for a fact.
            ComponentError: ``neurons`` of a model of another shape.
            TargetError: an object of several tokens, for a masked model.
        """
        rows: dict[int, dict[int, torch.Tensor]] = {}
        notes: list[dict[str, Any]] = []
        for fact in facts:
            objects = object_embeddings(model, fact, self.variant)
            neurons = self._given(model) if self.neurons is not None else self._neurons(model, fact, objects.attributed)
            for layer, neuron in neurons:
                row = output_weights(model, layer)[neuron].detach()[None]
                change = -row if self.erase else objects.shift(row, self.variant)
                changed = rows.setdefault(layer, {})
                changed[neuron] = change[0] if self.erase or neuron not in changed else changed[neuron] + change[0]
            notes.append({"subject": fact.subject, "target": fact.target, "neurons": sorted(neurons), "old_token": objects.old_token})
        factors = {layer: _rows_as_factors(model, layer, changed) for layer, changed in rows.items()}
        return Edit.planned(model, self, factors, notes=notes)

    def _neurons(self, model: HookedModel, fact: Fact, attributed: tuple[int, ...]) -> NeuronSet:
        """The old object's neurons, refined over the fact's wordings."""
        scores = self._scores(model, fact, attributed)
        default = THRESHOLD_WEN_BAI if self.variant == "wen_bai" else THRESHOLD
        threshold = default if self.threshold is None else self.threshold
        neurons = select_neurons(scores, threshold=threshold, shared_by=self.shared_by)
        left = neurons if self.spare is None else neurons - self.spare
        if not len(left):
            raise NumericalError(f"no neuron is left to edit for {fact.text!r}; lower threshold={threshold:g} or shared_by={self.shared_by:g}.")
        return left

    def _given(self, model: HookedModel) -> NeuronSet:
        """The neurons that were given instead."""
        assert self.neurons is not None
        none = NeuronSet.of(model, [])
        if self.neurons.shape != none.shape:
            raise ComponentError(f"neurons= are of a model of {self.neurons.shape}, layers and neurons a layer; this one has {none.shape}.")
        left = self.neurons - (none if self.spare is None else self.spare)
        if not len(left):
            raise NumericalError("no neuron is left to edit of those that neurons= gives; pass others, or spare fewer.")
        return left

    def _scores(self, model: HookedModel, fact: Fact, attributed: tuple[int, ...]) -> NeuronAttribution:
        """The neurons' scores on every wording; in Meng et al.'s program on the bare prompt, the mean over the tokens, each as its next one."""
        as_program = self.variant == "meng2022_code"
        templates = [fact.template, *(template for template in fact.paraphrases if template != fact.template and not as_program)]
        stated = [Prompt.from_fact(model, fact.rephrase(template)) for template in templates]
        prompts = [replace(prompt, answer=(token,)) for prompt in stated for token in attributed]
        variant = "eleutherai2022" if as_program else self.attribution_variant
        scores = attribute_neurons(model, prompts, variant=variant, steps=self.steps, at=self.at, progress=False)
        return replace(scores.of_prompts([0]), scores=scores.mean_scores[None]) if as_program else scores


def _rows_as_factors(model: HookedModel, layer: int, changed: dict[int, torch.Tensor]) -> LowRank:
    """Changes of single rows, as one-hot columns times the changes."""
    right = torch.stack(list(changed.values()))
    left = right.new_zeros(output_weights(model, layer).shape[0], len(changed))
    left[list(changed), range(len(changed))] = 1
    return LowRank(left, right)
