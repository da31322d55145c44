"""Facts' prompts read clean, and again under scaled neurons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float

from tl_knowledge.engine.batches import HooksAt, answer_probabilities, no_hooks
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.neurons.attribution import activation_site
from tl_knowledge.neurons.continuations import own_continuations
from tl_knowledge.neurons.groups import PromptGroup
from tl_knowledge.neurons.neuron_set import NeuronSet
from tl_knowledge.neurons.settings import AttributionSettings
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt

__all__ = ["EffectReading", "own_wordings"]


@dataclass(frozen=True, eq=False, repr=False)
class EffectReading:
    """Facts' prompts with their clean probabilities, read again under scaled neurons."""

    model: HookedModel
    prompts: Sequence[Sequence[Prompt]]
    clean: Sequence[Float[torch.Tensor, " prompt"]]
    factor: float
    at: str
    before: bool
    whole_targets: bool

    @classmethod
    def of(cls, model: HookedModel, groups: Sequence[PromptGroup], scoring: AttributionSettings, factor: float, program: bool) -> EffectReading:
        """The facts, read clean."""
        prompts = [group.prompts for group in groups]
        reading = cls(model, prompts, (), factor, scoring.at, activation_site(model, scoring.variant) == "hook_pre", program)
        together = reading._probabilities([prompt for some in prompts for prompt in some], no_hooks)
        return replace(reading, clean=together.split([len(some) for some in prompts]))

    def clean_mean(self, i: int) -> float:
        """The mean of a fact's prompts."""
        return float(self.clean[i].mean())

    def change(self, rows: Sequence[int], sets: Sequence[NeuronSet], *, suppress: bool) -> tuple[float, float]:
        """Mean change of P(answer), relative and absolute, over facts, their prompts, and all sets."""
        prompts, before = [prompt for row in rows for prompt in self.prompts[row]], torch.cat([self.clean[row] for row in rows])
        factor, total = 0.0 if suppress else self.factor, torch.zeros_like(before)
        for neurons in sets:
            total += self._probabilities(prompts, lambda pos, s=neurons: s.scale(factor, positions=pos, before_nonlinearity=self.before)) - before
        weights = torch.cat([before.new_full((len(self.prompts[row]),), 1 / len(self.prompts[row])) for row in rows]) / len(rows)
        mean = total / len(sets)
        return float((weights * mean / before).sum()), float((weights * mean).sum())

    def _probabilities(self, prompts: Sequence[Prompt], hooks_at: HooksAt) -> Float[torch.Tensor, " prompt"]:
        if self.whole_targets:
            return own_continuations(self.model, prompts, hooks_at, at=self.at)[1]
        return answer_probabilities(self.model, prompts, hooks_at, at=self.at)


def own_wordings(model: HookedModel, facts: Sequence[Fact]) -> list[PromptGroup]:
    """A group of one prompt for each fact."""
    return [PromptGroup(fact.relation or "", fact.subject, (Prompt.from_fact(model, fact),)) for fact in facts]
