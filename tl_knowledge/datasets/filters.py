"""Which facts of a set to use: those of a relation, a random sample. Text only; what a model says of facts is in ``answers.py``."""

from __future__ import annotations

import random
from collections.abc import Iterable

from tl_knowledge.door import public
from tl_knowledge.errors import DataError, check_given
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.wording import counted

__all__ = ["of_relation", "sample_facts"]


@public
def of_relation(facts: Iterable[Fact], *relations: str) -> list[Fact]:
    """Facts of some relations.

    Raises:
        DataError: a relation that no fact has.
    """
    given = list(facts)
    present = {fact.relation for fact in given}
    missing = [relation for relation in relations if relation not in present]
    if missing:
        raise DataError(f"no fact has relation {missing[0]!r}; the facts have {', '.join(sorted(map(str, present)))}.")
    return [fact for fact in given if fact.relation in relations]


@public
def sample_facts(facts: Iterable[Fact], limit: int, *, seed: int = 0) -> list[Fact]:
    """A random sample of facts, in their order; all of them when there are no more.

    Raises:
        DataError: no fact, or a limit below 1.

    Example:
        >>> facts = [Fact(name, "{} is", " here") for name in "abcdef"]
        >>> len(sample_facts(facts, 3)), sample_facts(facts, 9) == facts
        (3, True)
    """
    if limit < 1:
        raise DataError(f"a sample of {counted(limit, 'fact')} is empty; pass at least 1.")
    given = check_given(facts, "fact")
    drawn = sorted(random.Random(seed).sample(range(len(given)), min(limit, len(given))))
    return [given[i] for i in drawn]
