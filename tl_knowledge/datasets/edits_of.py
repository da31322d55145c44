"""Edit cases out of other data: of facts that trade their objects, and of minimal pairs whose verb is to take the other number (Niu et al. 2024)."""

from __future__ import annotations

import random
from collections.abc import Iterable

from more_itertools import always_iterable

from tl_knowledge.door import public
from tl_knowledge.errors import DataError, InputError, check_given
from tl_knowledge.prompts.facts import EditCase, Fact, MinimalPair, Statement
from tl_knowledge.wording import counted

__all__ = ["agreement_edit_cases", "shifted_edit_cases"]

NEIGHBOURS = 5


@public
def shifted_edit_cases(facts: Iterable[Fact]) -> list[EditCase]:
    """Every fact with the object of the fact before it in its relation (the first with the last one's), as Niu et al.'s program edits P36 and P1376.

    Facts whose neighbour has the same object are left out: nothing would be edited.

    Raises:
        DataError: no fact, or no two of a relation with different objects.

    Example:
        >>> facts = [Fact(s, "The capital of {} is", o, "P36") for s, o in (("France", " Paris"), ("Peru", " Lima"), ("Italy", " Rome"))]
        >>> [(case.fact.subject, case.target_new) for case in shifted_edit_cases(facts)]
        [('France', ' Rome'), ('Peru', ' Paris'), ('Italy', ' Lima')]
    """
    by_relation: dict[str | None, list[Fact]] = {}
    for fact in check_given(always_iterable(facts, Fact), "fact"):
        by_relation.setdefault(fact.relation, []).append(fact)
    cases = [
        EditCase(fact, some[i - 1].target, tuple(fact.rephrase(template) for template in fact.paraphrases), ())
        for some in by_relation.values()
        for i, fact in enumerate(some)
        if some[i - 1].target != fact.target
    ]
    if not cases:
        raise DataError("no fact has another of its relation with a different object before it; pass facts of one relation.")
    return cases


@public
def agreement_edit_cases(
    pairs: MinimalPair | Iterable[MinimalPair], *, limit: int | None = None, neighbours: int = NEIGHBOURS, seed: int = 0
) -> list[EditCase]:
    """Edits of agreement: after a subject the verb takes the wrong number ("are" becomes "is"), and after other subjects it should not.

    The whole prefix of a pair is the edited subject. Neighbours are other prefixes with the same right word, which must stay right; attributes are
    prefixes after which the new word is right anyway. So ``NS`` and ``NA`` of `evaluate` say how far the edit spills over to other subjects.

    Args:
        pairs: of paradigms with one prefix and two words, such as BLiMP's ``regular_plural_subject_verb_agreement_1``; others are left out.
        limit: how many cases to take, from the first.
        neighbours: how many other subjects to draw for each, fewer where there are not so many.
        seed: of the draws, which depend on it and the prefix.

    Raises:
        DataError: no pair, or none of that form.
        InputError: fewer than one neighbour, or a limit below 1.

    Example:
        >>> names = ("The dogs", "The cars", "Most women")
        >>> pairs = [MinimalPair(f"{name} are here.", f"{name} is here.", "agreement", prefix=name, word_good="are", word_bad="is") for name in names]
        >>> case = agreement_edit_cases(pairs)[0]
        >>> case.rewrite.text, case.target_new, sorted(fact.text for fact in case.neighbourhood)
        ('The dogs', ' is', ['Most women', 'The cars'])
    """
    if neighbours < 1 or (limit is not None and limit < 1):
        raise InputError(f"neighbours={neighbours}, limit={limit} leave nothing to measure; pass at least 1 of each, or limit=None for all.")
    given = check_given(always_iterable(pairs, MinimalPair), "minimal pair")
    usable = [pair for pair in given if pair.prefix and not pair.prefix_bad and pair.word_good != pair.word_bad]
    if not usable:
        raise DataError(f"none of {counted(len(given), 'pair')} has one prefix and two words, as regular_plural_subject_verb_agreement_1 has.")
    by_word: dict[tuple[str, str], list[str]] = {}
    for pair in usable:
        by_word.setdefault((pair.paradigm, pair.word_good), []).append(pair.prefix)
    cases: list[EditCase] = []
    for pair in usable[:limit]:
        draw = random.Random(f"{seed}/{pair.paradigm}/{pair.prefix}")
        same, other = ([each for each in dict.fromkeys(by_word.get((pair.paradigm, word), [])) if each != pair.prefix] for word in _words(pair))
        good, bad = (f" {word}" for word in _words(pair))
        near = tuple(Fact(prefix, "{}", good, pair.paradigm) for prefix in draw.sample(same, min(neighbours, len(same))))
        attributes = tuple(Statement(prefix, bad) for prefix in draw.sample(other, min(neighbours, len(other))))
        cases.append(EditCase(Fact(pair.prefix, "{}", good, pair.paradigm), bad, (), near, attributes))
    return cases


def _words(pair: MinimalPair) -> tuple[str, str]:
    return pair.word_good, pair.word_bad
