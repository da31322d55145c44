"""Whether an edit did what its problem asks: the written object after the fact's prompt, its paraphrases and its neighbours."""

from __future__ import annotations

from dataclasses import dataclass

from tl_knowledge.editing import Objective
from tl_knowledge.evaluation import Answer, Candidates, HaseVariant, Reading, hase_scores, read_answers
from tl_knowledge.hooks import corrupt
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import EditCase, Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.prompts.targets import target_tokens

__all__ = ["CaseReader"]


@dataclass(frozen=True, eq=False)
class CaseReader:
    """Reads one case under one problem.

    Attributes:
        fact: what is written (or erased).
        objective: of the problem; its noise lies on the subject of the fact's own prompts, and on no neighbour.
        variant: whose scores; the program's need the first prompt of each kind alone.
    """

    model: HookedModel
    case: EditCase
    fact: Fact
    objective: Objective
    variant: HaseVariant

    def read(self) -> Reading:
        """The written object's probability after every prompt; beside it, after a neighbour's, its own object's."""
        most = 1 if self.variant == "hase2023" else None
        own_prompts = {"rewrite": [self.fact], "paraphrase": [paraphrase.retarget(self.fact.target) for paraphrase in self.case.paraphrases[:most]]}
        reading: dict[str, list[Candidates]] = {}
        for kind, facts in own_prompts.items():
            prompts = [Prompt.from_fact(self.model, fact) for fact in facts]
            reading[kind] = [Candidates(answer, answer) for answer in self._answers(prompts)]
        neighbours = self.case.neighbourhood[:most]
        asked = [Prompt.from_fact(self.model, near) if isinstance(near, Fact) else Prompt.from_text(self.model, near.text) for near in neighbours]
        written, owns = target_tokens(self.model, self.fact.target), [target_tokens(self.model, near.target) for near in neighbours]
        answers = read_answers(self.model, [(prompt, answer) for prompt, own in zip(asked, owns, strict=True) for answer in (written, own)])
        return reading | {"neighbourhood": [Candidates(new, true) for new, true in zip(answers[::2], answers[1::2], strict=True)]}

    def scores(self, before: Reading) -> dict[str, float]:
        """Hase et al.'s scores of the edit that the model has now.

        Args:
            before: what `read` gave without the edit.
        """
        return hase_scores(before, self.read(), variant=self.variant, erase=self.objective.erase)

    def _answers(self, prompts: list[Prompt]) -> list[Answer]:
        """The target after prompts of the fact, corrupted where the objective says so; then each prompt by itself."""
        if self.objective.noise is None:
            return read_answers(self.model, [(prompt, prompt.answer) for prompt in prompts])
        return [
            answer
            for prompt in prompts
            for answer in read_answers(self.model, [(prompt, prompt.answer)], hooks=corrupt(prompt.subject, self.objective.noise))
        ]
