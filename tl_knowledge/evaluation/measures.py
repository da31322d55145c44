"""What else can be read off an edited model, case by case: further prompts and generated text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from tl_knowledge.door import public
from tl_knowledge.evaluation.scores import read_answers
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import EditCase, Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.prompts.targets import target_tokens

__all__ = ["EditMeasure", "PromptAccuracy", "perspectives", "subject_synonymy", "symmetry", "synonymy"]


@runtime_checkable
class EditMeasure(Protocol):
    """Anything that is read before and after an edit."""

    def read(self, model: HookedModel, case: EditCase) -> Any:
        """What the model says of the case now."""
        ...

    def scores(self, before: Any, after: Any) -> dict[str, float]:
        """Named scores in percent, NaN where the case has none; with ``after = before`` they are the unedited model's."""
        ...


@public
@dataclass(frozen=True)
class PromptAccuracy:
    """How often the argmax is a whole target, on prompts of the caller's choice.

    Attributes:
        name: the score's.
        facts: the prompts of a case, with what is expected after the edit; none where it does not apply.
    """

    name: str
    facts: Callable[[EditCase], Sequence[Fact]]

    def read(self, model: HookedModel, case: EditCase) -> list[bool]:
        """Whether each prompt's target is the argmax."""
        pairs = [(Prompt.from_fact(model, fact), target_tokens(model, fact.target)) for fact in self.facts(case)]
        return [answer.exact for answer in read_answers(model, pairs)]

    def scores(self, before: list[bool], after: list[bool]) -> dict[str, float]:
        """Their share."""
        return {self.name: 100 * float(np.mean(after)) if after else float("nan")}


@public
def symmetry(reverse: Mapping[str, str]) -> PromptAccuracy:
    """Does the edited fact hold the other way round (Niu et al. 2024)?

    Args:
        reverse: for each relation a template that the *object* fills and the subject completes: ``{"capital": "{} is the capital of"}``.
    """

    def facts(case: EditCase) -> list[Fact]:
        template = reverse.get(case.fact.relation or "")
        return [] if template is None else [Fact(case.target_new.strip(), template, " " + case.fact.subject)]

    return PromptAccuracy("symmetry", facts)


@public
def synonymy(templates: Mapping[str, str], targets: Mapping[str, str]) -> PromptAccuracy:
    """Does the edit reach what it implies in other words (Niu et al. 2024)?

    Args:
        templates: for each relation another wording: ``{"field": "{} is a famous"}``.
        targets: what each new object is called there: ``{" physics": " physicist"}``; cases without an entry are left out.
    """

    def facts(case: EditCase) -> list[Fact]:
        template, target = templates.get(case.fact.relation or ""), targets.get(case.target_new)
        return [] if template is None or target is None else [Fact(case.fact.subject, template, target)]

    return PromptAccuracy("synonymy", facts)


@public
def subject_synonymy(names: Mapping[str, Sequence[str]]) -> PromptAccuracy:
    """Does the edit hold under the subject's other names (Niu et al. 2024)?

    Args:
        names: for each subject its other names.
    """

    def facts(case: EditCase) -> list[Fact]:
        return [Fact(name, case.fact.template, case.target_new) for name in names.get(case.fact.subject, ())]

    return PromptAccuracy("subject_synonymy", facts)


@public
def perspectives(entity: Mapping[str, Sequence[str]], relation: Mapping[str, Sequence[str]]) -> list[PromptAccuracy]:
    """Reliability and generality from the subject's and from the relation's side (Wei et al. 2024, tables 1 and 2).

    Args:
        entity, relation: for each relation its templates of that side; the first measures reliability, the others generality.
    """

    def of(side: Mapping[str, Sequence[str]], which: slice) -> Callable[[EditCase], list[Fact]]:
        return lambda case: [case.rewrite.rephrase(template) for template in side.get(case.fact.relation or "", ())[which]]

    return [
        PromptAccuracy(f"{name}_{quality}", of(side, which))
        for name, side in (("entity", entity), ("relation", relation))
        for quality, which in (("reliability", slice(0, 1)), ("generality", slice(1, None)))
    ]
