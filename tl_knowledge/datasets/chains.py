"""Edits whose new object has facts of its own: multi-hop cases of any fact set, as MQuAKE has them (Zhong et al. 2023)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping

from tl_knowledge.datasets.edits_of import NEIGHBOURS
from tl_knowledge.datasets.ripples import FactIndex, asked, joined_texts
from tl_knowledge.door import public
from tl_knowledge.errors import DataError, InputError, check_given
from tl_knowledge.prompts.edit_tests import EditTest, Query
from tl_knowledge.prompts.facts import EditCase, Fact, Relation

__all__ = ["chained_edit_cases"]


@public
def chained_edit_cases(
    facts: Iterable[Fact],
    *,
    relations: Iterable[Relation],
    reverse: Mapping[str, str] | None = None,
    limit: int | None = None,
    neighbours: int = NEIGHBOURS,
    seed: int = 0,
) -> list[EditCase]:
    """Edits ``(s, r, o -> o*)`` where ``o`` and ``o*`` both have an object in a second relation ``r2``, and not the same one.

    Their tests are `HOP_AXES`: both facts of the new chain; "the ``r2`` of the ``r`` of ``s``", in any wording of ``r2``, with the new answer; the
    same with the old one. Cases of all pairs of relations take turns; the new object is drawn among the objects of the relation. Neighbours are facts
    with the same relation and object, filled up with others of the relation, as in `load_edit_cases`.

    Args:
        facts: what is known, for example ``load_facts("factlm")``.
        relations: with their templates; where one reads "The ... of {} is", its object can stand in a composed question.
        reverse: for each relation the template of the one that leads back ("{} is the capital of" for capitals): no chain goes by the two.
        limit: how many cases to take, from the first.
        neighbours: how many other subjects to draw for each, fewer where there are not so many.
        seed: of the draws, which depend on it and the fact.

    Raises:
        DataError: no fact, or none that can be edited so.
        InputError: fewer than one neighbour, or a limit below 1.

    Example:
        >>> from tl_knowledge.datasets import load_facts, load_relations
        >>> case = chained_edit_cases(load_facts("factlm"), relations=load_relations(), limit=1)[0]
        >>> case.rewrite.text, case.target_new, case.tests[1].queries[0].answers
        ('A Very Private Affair was created in the country of', ' Germany', ((' Berlin',),))
        >>> case.tests[1].queries[0].text
        'The country of origin of A Very Private Affair has its capital in'
    """
    if neighbours < 1 or (limit is not None and limit < 1):
        raise InputError(f"neighbours={neighbours}, limit={limit} leave nothing to measure; pass at least 1 of each, or limit=None for all.")
    given = check_given(facts, "fact", "pass what is known, for example load_facts('factlm')")
    index = FactIndex.of(given, relations)
    of_relation: dict[str | None, list[Fact]] = {}
    for fact in given:
        of_relation.setdefault(fact.relation, []).append(fact)
    back = reverse or {}
    by_pair: dict[tuple[str | None, str | None], list[EditCase]] = {}
    for fact in given:
        draw = random.Random(f"{seed}/{fact.subject}/{fact.relation}")
        same_relation = of_relation[fact.relation]
        chained = next(_chains(fact, same_relation, index, back, draw), None)
        if chained is not None:
            second, tests = chained
            near = _neighbours(fact, second.subject, same_relation, neighbours, draw)
            paraphrases = tuple(fact.rephrase(template) for template in fact.paraphrases)
            by_pair.setdefault((fact.relation, second.relation), []).append(EditCase(fact, f" {second.subject}", paraphrases, near, tests=tests))
    cases = [case for turn in range(max(map(len, by_pair.values()), default=0)) for some in by_pair.values() for case in some[turn : turn + 1]]
    if not cases:
        raise DataError("no fact's object has a fact of its own that another object of the relation has differently; pass facts that are linked.")
    return cases[:limit]


def _chains(
    fact: Fact, same_relation: list[Fact], index: FactIndex, reverse: Mapping[str, str], draw: random.Random
) -> Iterator[tuple[Fact, tuple[EditTest, ...]]]:
    """Second facts of the chain, of new objects in the order they are drawn, each with the tests of its case."""
    old = fact.target.strip()
    owned = {each.relation: each.target for each in index.by_subject.get(old, ()) if old != fact.subject and index.leads_on(fact, each, reverse)}
    objects = sorted({each.target.strip() for each in same_relation} - {old, fact.subject}) if owned else []
    for new in draw.sample(objects, len(objects)):
        for second in index.by_subject.get(new, ()):
            texts = joined_texts(fact, second, index) if index.leads_on(fact, second, reverse) else []
            if texts and second.relation in owned and second.target != owned[second.relation]:
                hops = (asked(fact.retarget(f" {new}")), asked(second))
                after, before = (tuple(Query(text, ((answer,),)) for text in texts) for answer in (second.target, owned[second.relation]))
                yield second, (EditTest("single_hop", hops, every=True), EditTest("multi_hop", after), EditTest("multi_hop_old", before))


def _neighbours(fact: Fact, new: str, same_relation: list[Fact], count: int, draw: random.Random) -> tuple[Fact, ...]:
    """Facts that must not change: with the same object as far as there are, else with neither."""
    others = [other for other in same_relation if other.subject != fact.subject]
    same = [other for other in others if other.target == fact.target]
    rest = [other for other in others if other.target.strip() not in (fact.target.strip(), new)]
    near = draw.sample(same, min(count, len(same)))
    return (*near, *draw.sample(rest, min(count - len(near), len(rest))))
