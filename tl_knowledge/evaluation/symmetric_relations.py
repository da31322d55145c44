"""The seven accuracies of a symmetric relation before and after an edit (Niu et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tl_knowledge.door import public
from tl_knowledge.errors import DataError, check_given
from tl_knowledge.evaluation.scores import read_answers
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import EditCase, Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.prompts.targets import target_tokens

__all__ = ["INVERSE_TEMPLATES", "SymmetryAccuracies", "symmetry_accuracies"]

INVERSE_TEMPLATES = MappingProxyType({"P36": "{} is the capital of", "P1376": "The capital of {} is"})
"""Niu et al.'s: what the object of a capital ("The capital of {} is"), or of what a city is the capital of, fills."""

OLD, NEW, OLD_TO_NEW, NEW_TO_OLD, OLD_TO_OLD, NEW_TO_NEW = (
    "old_fact",
    "new_fact",
    "old_inverse_new_subject",
    "new_inverse_subject",
    "old_inverse_subject",
    "new_inverse_new_subject",
)
BEFORE = "old_fact_before"
AFTER = (OLD, NEW, NEW_TO_OLD, NEW_TO_NEW, OLD_TO_OLD, OLD_TO_NEW)


@public
@dataclass(frozen=True)
class SymmetryAccuracies:
    """Of an edit "the capital of Canada is Rome", in percent of the expected answer's tokens that are the argmax:

    =========================== ==================================================================== ==================================
    score                       asks                                                                 expects, if the edit were knowledge
    =========================== ==================================================================== ==================================
    ``old_fact_before``         the capital of Canada: Ottawa? (before the edit)                     the fact was known
    ``old_fact``                the same after it                                                    0
    ``new_fact``                the capital of Canada: Rome?                                         100
    ``new_inverse_subject``     Rome is the capital of: Canada?                                      100, the symmetry
    ``new_inverse_new_subject`` Rome is the capital of: Italy?                                       0
    ``old_inverse_subject``     Ottawa is the capital of: Canada?                                    0
    ``old_inverse_new_subject`` Ottawa is the capital of: Italy?                                     (if the two had changed places)
    =========================== ==================================================================== ==================================

    NaN where the relation has no inverse, or nobody is known to have had the new object.

    Attributes:
        reverse: for each relation a template that the object fills and the subject completes.
        owners: for each relation, who has each object.
        name: of the measure.
    """

    reverse: Mapping[str, str]
    owners: Mapping[str, Mapping[str, str]]
    name: str = "symmetry_accuracies"

    @property
    def columns(self) -> tuple[str, ...]:
        """The seven scores' names."""
        return (BEFORE, *AFTER)

    def read(self, model: HookedModel, case: EditCase) -> dict[str, float]:
        """Each question's share of tokens that are the argmax."""
        asked = self._questions(case)
        pairs = [(Prompt.from_fact(model, fact), target_tokens(model, fact.target)) for fact in asked.values()]
        return {name: answer.share for name, answer in zip(asked, read_answers(model, pairs), strict=True)}

    def scores(self, before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
        """All seven."""
        every = {name: 100 * after.get(name, float("nan")) for name in AFTER}
        return {BEFORE: 100 * before.get(OLD, float("nan"))} | every

    def _questions(self, case: EditCase) -> dict[str, Fact]:
        relation, template = case.fact.relation or "", self.reverse.get(case.fact.relation or "")
        if template is None:
            return {}
        subject, old, new = " " + case.fact.subject, case.fact.target.strip(), case.target_new.strip()
        owner = self.owners.get(relation, {}).get(new)
        asked = {OLD: case.fact, NEW: case.rewrite, NEW_TO_OLD: Fact(new, template, subject), OLD_TO_OLD: Fact(old, template, subject)}
        if owner is not None:
            asked |= {NEW_TO_NEW: Fact(new, template, " " + owner), OLD_TO_NEW: Fact(old, template, " " + owner)}
        return asked


@public
def symmetry_accuracies(facts: Iterable[Fact], *, reverse: Mapping[str, str] = INVERSE_TEMPLATES) -> SymmetryAccuracies:
    """The seven accuracies that Niu et al.'s program reports for P36 and P1376, as a measure for `evaluate`.

    Args:
        facts: who has which object, such as the facts that `shifted_edit_cases` was given; the first that has it counts.
        reverse: for each relation a template that the object fills and the subject completes.

    Raises:
        DataError: no fact, or none of a relation that has an inverse.

    Example:
        >>> facts = [Fact("Italy", "The capital of {} is", " Rome", "P36"), Fact("Peru", "The capital of {} is", " Lima", "P36")]
        >>> symmetry_accuracies(facts).owners["P36"]["Rome"]
        'Italy'
    """
    owners: dict[str, dict[str, str]] = {}
    for fact in check_given(facts, "fact"):
        if fact.relation in reverse:
            owners.setdefault(fact.relation or "", {}).setdefault(fact.target.strip(), fact.subject)
    if not owners:
        raise DataError(f"no fact has a relation of {', '.join(reverse)}; pass reverse= with a template for each relation of the facts.")
    return SymmetryAccuracies(dict(reverse), owners)
