"""In-context prompts: other facts of the relation, in the same template, before the fact (Wen and Bai, section 3.2).

The facts in the context have different objects, and none of them has the fact's own answer in it: an answer that stands in the context can be
copied from there. They are drawn for each prompt, so that a fact's wordings have different contexts.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from more_itertools import always_iterable

from tl_knowledge.door import public
from tl_knowledge.errors import DataError, check_given
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.wording import counted

__all__ = ["CONTEXT_PAIRS", "CONTEXT_SEPARATOR", "Pair", "draw_pairs", "in_context", "state", "with_context"]

CONTEXT_PAIRS = 4

CONTEXT_SEPARATOR = ".\n"
"""Wen and Bai's program ends each statement with its mark and a new line."""

Pair = tuple[str, str]
"""A subject and its object."""


@public
def in_context(fact: Fact, pairs: Sequence[tuple[str, str]], *, separator: str = CONTEXT_SEPARATOR) -> Fact:
    """The fact with other subjects and objects stated before it, the same in each of its templates.

    Example:
        >>> fact = Fact("France", "The capital of {} is", " Paris", paraphrases=("{}, whose capital is",))
        >>> in_context(fact, [("Peru", " Lima")]).text
        'The capital of Peru is Lima.\\nThe capital of France is'
    """
    return replace(
        fact,
        template=state(fact.template, pairs, separator),
        paraphrases=tuple(state(template, pairs, separator) for template in fact.paraphrases),
    )


@public
def with_context(
    facts: Fact | Iterable[Fact], *, limit: int = CONTEXT_PAIRS, pool: Iterable[Fact] | None = None, separator: str = CONTEXT_SEPARATOR, seed: int = 0
) -> list[Fact]:
    """Every fact after some others of its relation, drawn for each of its templates.

    The others have different objects, and neither their subject nor their object has the fact's answer in it.

    Args:
        limit: how many others.
        pool: where the others are drawn from; the facts themselves when ``None``.
        separator: between the statements.
        seed: of the draws, which depend on it, the relation, the subject and the template only.

    Raises:
        DataError: no fact, a relation with too few other objects, or a limit below 1.

    Example:
        >>> capitals = [Fact(land, "The capital of {} is", city, "capital") for land, city in (("Peru", " Lima"), ("France", " Paris"))]
        >>> with_context(capitals, limit=1)[1].text
        'The capital of Peru is Lima.\\nThe capital of France is'
    """
    given = check_given(always_iterable(facts, Fact), "fact")
    by_relation: dict[str | None, dict[str, str]] = {}
    for other in given if pool is None else pool:
        by_relation.setdefault(other.relation, {}).setdefault(other.subject, other.target)
    if limit < 1:
        raise DataError(f"limit={limit} makes no context; pass at least 1 ({CONTEXT_PAIRS} is usual).")
    pairs = {relation: list(some.items()) for relation, some in by_relation.items()}
    return [shown_in_context(fact, pairs.get(fact.relation, []), limit, separator, seed) for fact in given]


def shown_in_context(fact: Fact, pairs: Sequence[Pair], limit: int, separator: str, seed: int) -> Fact:
    """The fact with pairs drawn for each of its templates.

    Raises:
        DataError: too few other objects.
    """

    def shown(template: str) -> str:
        drawn = draw_pairs(fact, pairs, limit, random.Random(f"{seed}/{fact.relation}/{fact.subject}/{template}"))
        return state(template, drawn, separator)

    return replace(fact, template=shown(fact.template), paraphrases=tuple(map(shown, fact.paraphrases)))


def state(template: str, pairs: Iterable[Pair], separator: str) -> str:
    """Pairs stated in a template, and then the template."""
    return "".join(template.replace("{}", subject) + target + separator for subject, target in pairs) + template


def draw_pairs(fact: Fact, pairs: Sequence[Pair], limit: int, draw: random.Random) -> list[Pair]:
    """Pairs of other subjects with different objects, the fact's answer in none of them.

    Raises:
        DataError: too few.
    """
    answer = re.compile(rf"(?<!\w){re.escape(fact.target.strip())}(?!\w)", re.IGNORECASE)
    drawn: dict[str, Pair] = {}
    for subject, target in _in_random_order(pairs, draw):
        if subject != fact.subject and not answer.search(f"{subject} {target}"):
            drawn.setdefault(target.strip().casefold(), (subject, target))
        if len(drawn) == limit:
            return list(drawn.values())
    raise DataError(
        f"relation {fact.relation!r} has {counted(len(drawn), 'different object')} beside that of {fact.subject!r}, fewer than {limit}; "
        "pass a pool= with more, or a smaller limit=."
    )


def _in_random_order(pairs: Sequence[Pair], draw: random.Random) -> Iterator[Pair]:
    """All of them, shuffled as far as they are asked for."""
    order = list(range(len(pairs)))
    for k in range(len(order)):
        other = draw.randrange(k, len(order))
        order[k], order[other] = order[other], order[k]
        yield pairs[order[k]]
