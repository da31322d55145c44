"""Facts as text: no model, no tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tl_knowledge.door import public
from tl_knowledge.errors import InputError, PromptError, TargetError
from tl_knowledge.prompts.edit_tests import EditTest

__all__ = ["EditCase", "Fact", "MinimalPair", "Relation", "RelationFact", "Statement", "case_values", "refuse_contradictions"]


@public
@dataclass(frozen=True)
class Relation:
    """A relation: an identifier (Wikidata's where there is one), a name, and templates that state it.

    Example:
        >>> Relation("P36", "capital", ("The capital of {} is",)).templates[0].format("France")
        'The capital of France is'
    """

    id: str
    label: str
    templates: tuple[str, ...]


@public
@dataclass(frozen=True)
class Fact:
    """A subject, a template with ``{}`` in the subject's place, and the target that completes it.

    The target keeps its leading space (`` Seattle``), as the model has to write it. A fact that is to be written may say in ``replaces`` what it
    was before.

    Example:
        >>> fact = Fact("The Space Needle", "{} is located in downtown", " Seattle")
        >>> fact.text
        'The Space Needle is located in downtown'
        >>> fact.retarget(" Rome").target
        ' Rome'

    Raises:
        PromptError: the subject is empty or the template has no ``{}``.
        TargetError: the target is empty.
    """

    subject: str
    template: str
    target: str
    relation: str | None = None
    paraphrases: tuple[str, ...] = ()
    replaces: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not self.subject.strip():
            raise PromptError(f"the fact's subject is {self.subject!r}; pass a subject with at least one character.")
        for template in (self.template, *self.paraphrases):
            if "{}" not in template:
                raise PromptError(f"template {template!r} has no {{}}; mark the subject's place, as in '{{}} was born in'.")
        if not self.target.strip():
            raise TargetError(f"the fact's target is {self.target!r}; pass the object's text, as in ' Seattle'.")

    @property
    def text(self) -> str:
        """The prompt: the template with the subject filled in."""
        return self.template.replace("{}", self.subject)

    def retarget(self, target: str) -> Fact:
        """The same fact with another target; ``replaces`` remembers the first one (nothing where the target stays)."""
        return replace(self, target=target, replaces=self.replaces or (None if target == self.target else self.target))

    def rephrase(self, template: str) -> Fact:
        """The same fact in another template."""
        return replace(self, template=template)


@public
@dataclass(frozen=True)
class RelationFact(Fact):
    """A fact asked from the relation's side: the prompt names subject and object, and the target is the relation's name (Wei et al. 2024).

    Attributes:
        removed: the same with the old object, between which and the subject there should be no relation any more.

    Example:
        >>> old = Fact("France", "The relation between {} and Paris is", "None")
        >>> RelationFact("France", "The relation between {} and London is", " capital", removed=old).text
        'The relation between France and London is'
    """

    removed: Fact | None = None


@public
@dataclass(frozen=True)
class Statement:
    """A prompt and what should follow it, where the data set does not say which words are the subject.

    Example:
        >>> Statement("The mother tongue of Montesquieu is", " French").text
        'The mother tongue of Montesquieu is'
    """

    text: str
    target: str


@public
@dataclass(frozen=True)
class MinimalPair:
    """Two sentences that differ in one point of grammar (BLiMP).

    Attributes:
        paradigm: BLiMP's ``UID``, for example ``"determiner_noun_agreement_1"``.
        phenomenon: BLiMP's ``linguistics_term``, for example ``"determiner_noun_agreement"``.
        prefix: what both sentences begin with, where the paradigm can be scored by one word after a prefix; else ``""``.
        word_good, word_bad: that word; else ``""``.
        prefix_bad: what the bad sentence begins with instead, where the *prefixes* differ and the word after them is one (BLiMP's ``..._2``).

    Example:
        >>> pair = MinimalPair("Raymond is selling this sketch.", "Raymond is selling this sketches.", "determiner_noun_agreement_1")
        >>> pair.paradigm
        'determiner_noun_agreement_1'
    """

    good: str
    bad: str
    paradigm: str
    phenomenon: str = ""
    prefix: str = ""
    word_good: str = ""
    word_bad: str = ""
    prefix_bad: str = ""


@public
@dataclass(frozen=True)
class EditCase:
    """All prompts of one counterfactual edit, as CounterFact has them.

    Attributes:
        fact: what the model knows; its ``target`` is the true object.
        target_new: what it is to say instead.
        paraphrases: the same fact in other words (for FactLM: in templates that were held out of training).
        neighbourhood: prompts about other subjects with the same relation and object, which must not change.
        attributes: prompts about other subjects whose answer is the new object.
        generation: beginnings of texts about the subject.
        case_id: the data set's number of the case.
        target_new_id: the data set's identifier of the new object (Wikidata's in CounterFact), by which `AttributeSnippets` finds its texts.
        also: further facts, with their new targets, that the same edit writes (MQuAKE's cases of several edits).
        tests: what should follow from the edit, or stay as it was (RippleEdits, MQuAKE, KnowEdit's portability).
    """

    fact: Fact
    target_new: str
    paraphrases: tuple[Fact, ...]
    neighbourhood: tuple[Fact | Statement, ...]
    attributes: tuple[Statement, ...] = ()
    generation: tuple[str, ...] = ()
    case_id: str = ""
    target_new_id: str = ""
    also: tuple[Fact, ...] = ()
    tests: tuple[EditTest, ...] = ()

    @property
    def rewrite(self) -> Fact:
        """The fact with its new target: what an editing method writes."""
        return self.fact.retarget(self.target_new)

    @property
    def writes(self) -> tuple[Fact, ...]:
        """All that an editing method writes for the case: the fact with its new target, and what goes with it."""
        return (self.rewrite, *self.also)


def case_values(case: EditCase) -> dict[str, Any]:
    """A case as the plain data that tells runs apart; what most cases lack is left out where it is not there."""
    return {name: value for name, value in asdict(case).items() if value or name not in ("also", "tests")}


def refuse_contradictions(facts: Iterable[Fact]) -> None:
    """Refuse facts that give one subject and relation two objects.

    Raises:
        InputError: two of them do.
    """
    targets: dict[tuple[str, str], str] = {}
    for fact in facts:
        other = targets.setdefault((fact.subject, fact.relation or fact.template), fact.target)
        if other != fact.target:
            raise InputError(f"{fact.text!r} has two targets, {other!r} and {fact.target!r}, in one batch; keep one of them.")
