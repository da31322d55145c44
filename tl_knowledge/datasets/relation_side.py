"""Edit cases from the relation's side (Wei et al. 2024): the prompt names subject and object, and the relation's name is what is asked for."""

from __future__ import annotations

from collections.abc import Iterable

from more_itertools import always_iterable

from tl_knowledge.door import public
from tl_knowledge.errors import DataError, PromptError, check_given
from tl_knowledge.prompts.facts import EditCase, Fact, Relation, RelationFact

__all__ = ["NO_RELATION", "RELATION_SIDE_TEMPLATES", "relation_side_cases"]

NO_RELATION = "None"
"""What the program takes for the name of the relation between a subject and an object that have none."""

RELATION_SIDE_TEMPLATES = (
    "The relation between {} and [object] is",
    "{} is related to [object] by",
    "What connects {} with [object] is the",
)
"""Wordings of ours: the authors' data file is not public."""


@public
def relation_side_cases(
    cases: EditCase | Iterable[EditCase], relations: Iterable[Relation], *, templates: Iterable[str] = RELATION_SIDE_TEMPLATES
) -> list[EditCase]:
    """The same edits as Wei et al.'s program makes them from the relation's side: between the subject and the *new* object there is the relation.

    A case ``(s, r, o -> o*)`` becomes a prompt that names ``s`` and ``o*``, whose answer is ``"None"`` before the edit and the name of ``r`` after
    it; its fact is a `RelationFact`, which also has the prompt that names ``s`` and ``o``, where the edit takes the relation away. Neighbours,
    attributes and generation prompts are the original's, so they are left out.

    Args:
        cases: for example of `load_counterfact` or `load_edit_cases`.
        relations: for the names; each case's relation is looked up by its identifier.
        templates: wordings with ``{}`` for the subject and ``[object]`` for the object; the first is edited, the others are its paraphrases.

    Raises:
        DataError: no case, or a case whose relation has no name here.
        PromptError: no wording, or one that does not name both.

    Example:
        >>> from tl_knowledge.datasets import load_edit_cases, load_relations, relation_side_cases
        >>> case = relation_side_cases(load_edit_cases(limit=1), load_relations())[0]
        >>> case.fact.text, case.fact.target, case.target_new
        ('The relation between A Very Private Affair and Germany is', ' None', ' country of origin')
        >>> case.fact.removed.text
        'The relation between A Very Private Affair and France is'
    """
    wordings = tuple(templates)
    if not wordings:
        raise PromptError("no wording was given; pass at least one with {} for the subject and [object] for the object.")
    for wording in wordings:
        if "{}" not in wording or "[object]" not in wording:
            raise PromptError(f"template {wording!r} does not name both; mark the subject's place by {{}} and the object's by [object].")
    names = {relation.id: " " + relation.label.strip() for relation in relations}
    given = check_given(always_iterable(cases, EditCase), "case", "pass at least one, for example load_edit_cases()[:200]")
    return [_from_the_relations_side(case, names, wordings) for case in given]


def _from_the_relations_side(case: EditCase, names: dict[str, str], wordings: tuple[str, ...]) -> EditCase:
    identifier, subject = case.fact.relation, case.fact.subject
    if identifier not in names:
        raise DataError(
            f"the relation {identifier!r} of {case.fact.text!r} has no name among those given ({', '.join(names)}); add it, or leave it out."
        )
    new, old = ([wording.replace("[object]", each.strip()) for wording in wordings] for each in (case.target_new, case.fact.target))
    removed = Fact(subject, old[0], NO_RELATION, identifier)
    fact = RelationFact(subject, new[0], " " + NO_RELATION, identifier, removed=removed)
    paraphrases = tuple(Fact(subject, template, fact.target, identifier) for template in new[1:])
    return EditCase(fact, names[identifier], paraphrases, (), case_id=case.case_id)
