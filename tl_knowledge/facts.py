"""Facts as text: no model, no tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tl_knowledge.errors import PromptError, TargetError

__all__ = ["EditCase", "Fact", "Relation"]


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


@dataclass(frozen=True)
class Fact:
    """A subject, a template with ``{}`` in the subject's place, and the target that completes it.

    The target keeps its leading space (`` Seattle``), as the model has to write it.

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
        """The same fact with another target."""
        return replace(self, target=target)

    def rephrase(self, template: str) -> Fact:
        """The same fact in another template."""
        return replace(self, template=template)


@dataclass(frozen=True)
class EditCase:
    """All prompts of one counterfactual edit, as CounterFact has them.

    Attributes:
        fact: what the model knows; its ``target`` is the true object.
        target_new: what it is to say instead.
        paraphrases: the same fact in templates that were held out of training.
        neighbourhood: facts of other subjects with the same relation and object, which must not change.
    """

    fact: Fact
    target_new: str
    paraphrases: tuple[Fact, ...]
    neighbourhood: tuple[Fact, ...]

    @property
    def request(self) -> Fact:
        """The fact with its new target: what an editing method is asked to write."""
        return self.fact.retarget(self.target_new)
