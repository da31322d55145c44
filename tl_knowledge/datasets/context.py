"""In-context prompts: other facts of the relation, in the same template, before the fact (Wen and Bai, section 3.2)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace

from more_itertools import always_iterable

from tl_knowledge.door import public
from tl_knowledge.errors import DataError, check_given
from tl_knowledge.prompts.facts import Fact

__all__ = ["CONTEXT_PAIRS", "in_context", "with_context"]

CONTEXT_PAIRS = 4


@public
def in_context(fact: Fact, pairs: Sequence[tuple[str, str]], *, separator: str = ". ") -> Fact:
    """The fact with other subjects and objects stated before it, in each of its templates.

    Example:
        >>> fact = Fact("France", "The capital of {} is", " Paris", paraphrases=("{}, whose capital is",))
        >>> in_context(fact, [("Peru", " Lima")]).text
        'The capital of Peru is Lima. The capital of France is'
    """

    def stated(template: str) -> str:
        shown = "".join(template.replace("{}", subject) + target + separator for subject, target in pairs)
        return shown + template

    return replace(fact, template=stated(fact.template), paraphrases=tuple(map(stated, fact.paraphrases)))


@public
def with_context(
    facts: Fact | Iterable[Fact], *, limit: int = CONTEXT_PAIRS, pool: Iterable[Fact] | None = None, separator: str = ". ", seed: int = 0
) -> list[Fact]:
    """Every fact after some others of its relation, drawn for each fact and the same in all its templates.

    Args:
        limit: how many others.
        pool: where the others are drawn from; the facts themselves when ``None``.
        separator: between the statements.
        seed: of the draws, which depend on it, the relation and the subject only.

    Raises:
        DataError: no fact, a relation with too few other subjects, or a limit below 1.
    """
    given = check_given(always_iterable(facts, Fact), "fact")
    by_relation: dict[str | None, dict[str, str]] = {}
    for other in given if pool is None else pool:
        by_relation.setdefault(other.relation, {}).setdefault(other.subject, other.target)
    if limit < 1:
        raise DataError(f"limit={limit} makes no context; pass at least 1 ({CONTEXT_PAIRS} is usual).")
    shown: list[Fact] = []
    for fact in given:
        others = [(subject, target) for subject, target in by_relation.get(fact.relation, {}).items() if subject != fact.subject]
        if len(others) < limit:
            raise DataError(
                f"relation {fact.relation!r} has {len(others)} subjects beside {fact.subject!r}, fewer than {limit}; pass a pool= with more."
            )
        drawn = random.Random(f"{seed}/{fact.relation}/{fact.subject}").sample(others, limit)
        shown.append(in_context(fact, drawn, separator=separator))
    return shown
