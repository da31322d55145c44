"""RippleEdits' axes (Cohen et al. 2024) for edits of any fact set: what should follow from an edit, or stay, by the set's own facts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from more_itertools import always_iterable

from tl_knowledge.datasets.ripple_edits import RIPPLE
from tl_knowledge.door import public
from tl_knowledge.errors import check_given
from tl_knowledge.prompts.edit_tests import EditTest, Query
from tl_knowledge.prompts.facts import EditCase, Fact, Relation

__all__ = ["FactIndex", "asked", "joined_texts", "noun_phrase", "subject_texts", "with_ripples"]

_NOUN = re.compile(r"The (?P<noun>.+ of) \{\}(?: [a-z]+){1,4}")


def noun_phrase(relation: Relation) -> str | None:
    """What a relation's object is called, by its templates; none where no template has it.

    Example:
        >>> noun_phrase(Relation("P27", "citizenship", ("{} is a citizen of", "The citizenship of {} is that of")))
        'the citizenship of {}'
    """
    found = next((match for template in relation.templates if (match := _NOUN.fullmatch(template))), None)
    return None if found is None else f"the {found['noun']} {{}}"


def asked(fact: Fact) -> Query:
    """A fact as a query."""
    return Query(fact.text, ((fact.target,),))


@dataclass(frozen=True)
class FactIndex:
    """A set's facts by subject and by object, with its relations' wordings.

    Attributes:
        by_subject: the facts of each subject.
        by_object: the facts that have each object.
        templates: each relation's.
        phrases: what each relation's object is called (`noun_phrase`).
    """

    by_subject: Mapping[str, Sequence[Fact]]
    by_object: Mapping[str, Sequence[Fact]]
    templates: Mapping[str, tuple[str, ...]]
    phrases: Mapping[str, str]

    @classmethod
    def of(cls, facts: Iterable[Fact], relations: Iterable[Relation]) -> FactIndex:
        """Of these facts."""
        by_subject: dict[str, list[Fact]] = {}
        by_object: dict[str, list[Fact]] = {}
        for fact in facts:
            by_subject.setdefault(fact.subject, []).append(fact)
            by_object.setdefault(fact.target.strip(), []).append(fact)
        given = list(relations)
        phrases = {relation.id: phrase for relation in given if (phrase := noun_phrase(relation)) is not None}
        return cls(by_subject, by_object, {relation.id: relation.templates for relation in given}, phrases)

    def leads_on(self, fact: Fact, after: Fact, reverse: Mapping[str, str]) -> bool:
        """Whether a fact of a fact's object says something new: not of the reversed relation, nor back to the subject, nor the object itself."""
        reversed_relation = reverse.get(fact.relation or "") in self.templates.get(after.relation or "", ())
        return not reversed_relation and after.target.strip() not in (fact.subject, after.subject)

    def target_of(self, subject: str, relation: str | None) -> str | None:
        """The object of a subject in a relation."""
        return next((fact.target for fact in self.by_subject.get(subject, ()) if fact.relation == relation), None)


def joined_texts(first: Fact, second: Fact, index: FactIndex) -> list[str]:
    """Wordings of "the ``second`` of the ``first``", a question over two facts; none where the first relation has no noun phrase.

    Example:
        >>> born, capital = Fact("Ann", "{} lives in", " Peru", "P1"), Fact("Peru", "The capital of {} is", " Lima", "P2")
        >>> relations = [Relation("P1", "country", ("The country of {} is",)), Relation("P2", "seat", ("The capital of {} is", "{} is ruled from"))]
        >>> joined_texts(born, capital, FactIndex.of([born, capital], relations))
        ['The capital of the country of Ann is', 'The country of Ann is ruled from']
    """
    phrase = index.phrases.get(first.relation or "")
    templates = index.templates.get(second.relation or "", (second.template,))
    inner = "" if phrase is None else phrase.replace("{}", first.subject)
    texts = [template.replace("{}", inner) for template in templates if inner]
    return [text[0].upper() + text[1:] for text in texts]


@public
def with_ripples(
    cases: EditCase | Iterable[EditCase],
    *,
    facts: Iterable[Fact],
    relations: Iterable[Relation],
    reverse: Mapping[str, str] | None = None,
    names: Mapping[str, Sequence[str]] | None = None,
) -> list[EditCase]:
    """Edit cases with tests along the axes of RippleEdits, by what a fact set says of their subjects and objects.

    For an edit ``(s, r, o -> o*)``:

    ====================== ======================================================================== ===========================================
    axis                   asks                                                                     counts where the unedited model says
    ====================== ======================================================================== ===========================================
    logical generalisation ``(o*, r reversed, s)``, where ``reverse`` has the relation              (always)
    compositionality I     ``(s, r2 of r, y*)`` for each ``(o*, r2, y*)`` that o has not            ``(o*, r2, y*)``
    compositionality II    ``(s', r of r', o*)`` for each ``(s', r', s)``                           ``(s', r', s)``
    subject aliasing       ``(s, r, o*)`` under each of the subject's ``names``                     (always)
    relation specificity   the subject's other facts                                                the fact itself
    ====================== ======================================================================== ===========================================

    Forgetfulness (a relation's further objects are still said) has no test here: the sets that are bundled have one object a relation. A composed
    question is asked in every wording of ``r2`` ("The capital of the country of Ann is"), of which one has to be answered. Nothing is composed with
    the reversed relation, nor where the answer is the subject or the object between.

    Args:
        cases: tests that they have already are kept.
        facts: what is known, for example ``load_facts("factlm")``.
        relations: with their templates; where one reads "The ... of {} is", its object can stand in a composed question.
        reverse: for each relation a template that the object fills and the subject completes.
        names: for each subject its other names.

    Raises:
        DataError: no case or no fact.

    Example:
        >>> from tl_knowledge.datasets import load_edit_cases, load_facts, load_relations
        >>> case = with_ripples(load_edit_cases(limit=39), facts=load_facts(), relations=load_relations())[38]
        >>> [(test.axis, test.queries[0].text) for test in case.tests]
        [('ripple_relation_specificity', 'Bing Maps is owned by')]
    """
    given = check_given(always_iterable(cases, EditCase), "case", "pass at least one, for example load_edit_cases()[:200]")
    index = FactIndex.of(check_given(facts, "fact", "pass what is known, for example load_facts('factlm')"), relations)
    return [replace(case, tests=(*case.tests, *_ripples(case, index, reverse or {}, names or {}))) for case in given]


def _ripples(case: EditCase, index: FactIndex, reverse: Mapping[str, str], names: Mapping[str, Sequence[str]]) -> list[EditTest]:
    subject, relation, new = case.fact.subject, case.fact.relation, case.target_new
    tests: list[EditTest] = []
    if relation is not None and relation in reverse:
        back = Query(reverse[relation].replace("{}", new.strip()), ((f" {subject}",),))
        tests.append(EditTest(f"{RIPPLE}logical_generalization", (back,)))
    onward = [after for after in index.by_subject.get(new.strip(), ()) if index.leads_on(case.fact, after, reverse)]
    tests += [test for after in onward if (test := _onward(case, after, index)) is not None]
    for before in index.by_object.get(subject, ()):
        texts = joined_texts(before, case.fact, index) if index.leads_on(before, case.fact, reverse) else []
        if texts:
            queries = tuple(Query(text, ((new,),)) for text in texts)
            tests.append(EditTest(f"{RIPPLE}compositionality_2", queries, (asked(before),)))
    aliases = [asked(replace(case.rewrite, subject=name)) for name in names.get(subject, ())]
    tests += [EditTest(f"{RIPPLE}subject_aliasing", (query,)) for query in aliases]
    others = [asked(fact) for fact in index.by_subject.get(subject, ()) if fact.relation != relation]
    return tests + [EditTest(f"{RIPPLE}relation_specificity", (query,), (query,)) for query in others]


def _onward(case: EditCase, after: Fact, index: FactIndex) -> EditTest | None:
    """The test of a fact of the new object; none where the old object has the same, or where it cannot be asked."""
    old = index.target_of(case.fact.target.strip(), after.relation)
    texts = [] if old == after.target else joined_texts(case.fact, after, index)
    queries = tuple(Query(text, ((after.target,),)) for text in texts)
    return EditTest(f"{RIPPLE}compositionality_1", queries, (asked(after),)) if queries else None


@public
def subject_texts(cases: EditCase | Iterable[EditCase], *, facts: Iterable[Fact]) -> dict[str, tuple[str, ...]]:
    """For each case's subject its facts as sentences, without those that a case edits: texts for `tl_knowledge.evaluation.EssenceDrift`.

    An edited fact would raise the perplexity of a text that has it by being written, which is no drift.

    Raises:
        DataError: no case.

    Example:
        >>> france = [Fact("France", "The capital of {} is", " Paris", "P36"), Fact("France", "{} belongs to", " NATO", "P463")]
        >>> subject_texts(EditCase(france[0], " Rome", (), ()), facts=france)
        {'France': ('France belongs to NATO.',)}
    """
    given = check_given(always_iterable(cases, EditCase), "case", "pass at least one, for example load_edit_cases()[:200]")
    edited = {(fact.subject, fact.relation) for case in given for fact in case.writes}
    subjects = {case.fact.subject for case in given}
    texts: dict[str, list[str]] = {}
    for fact in facts:
        if fact.subject in subjects and (fact.subject, fact.relation) not in edited:
            texts.setdefault(fact.subject, []).append(f"{fact.text}{fact.target}.")
    return {subject: tuple(of_subject) for subject, of_subject in texts.items()}
