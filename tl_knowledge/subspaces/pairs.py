"""Pairs of a base and a source: whose state is changed, and whose state is put there."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

from tl_knowledge.door import public
from tl_knowledge.errors import DataError, InputError, check_choice, check_given
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.wording import counted

__all__ = ["Pair", "Shared", "as_fact_pairs", "check_apart", "draw_pairs", "split_pairs"]

Pair: TypeAlias = tuple[Fact | Prompt, Fact | Prompt]
"""A base and a source. The interchanged run should say the source's target (`Fact.retarget` gives it another)."""

Shared: TypeAlias = Literal["relation", "subject"]
"""What base and source have in common: their relation, so that the other subject is put there, or their subject, so that the other relation is."""

VALIDATION, HELD_OUT = 0.2, 0.2


def as_fact_pairs(pairs: Pair | Iterable[Pair]) -> tuple[Pair, ...]:
    """One pair or several, as a tuple.

    Raises:
        DataError: none.
    """
    listed = tuple(pairs)
    one = len(listed) == 2 and all(isinstance(each, Fact | Prompt) for each in listed)
    return check_given([listed] if one else listed, "pair of a base and a source")  # pyright: ignore[reportReturnType, reportArgumentType]


@public
def draw_pairs(facts: Iterable[Fact], *, by: Shared = "relation", seed: int = 0) -> list[tuple[Fact, Fact]]:
    """Pair every fact with a source of another answer: each is a base once, and all are sources equally often, as far as that can be.

    Args:
        facts: of any relations; paired are those that share their relation, or their subject.
        by: which of the two a pair has in common.
        seed: of the draw.

    Raises:
        DataError: no fact has a partner.
        InputError: an unknown word.

    Example:
        >>> import tl_knowledge as tlk
        >>> base, source = tlk.subspaces.draw_pairs(tlk.datasets.of_relation(tlk.load_facts(), "P36"))[0]
        >>> base.relation == source.relation, base.subject == source.subject, base.target == source.target
        (True, False, False)
    """
    check_choice("by", by, Shared)
    given, draw = check_given(facts, "fact"), random.Random(seed)
    shared: dict[str, list[int]] = {}
    for i, fact in enumerate(given):
        shared.setdefault(str(fact.relation) if by == "relation" else fact.subject, []).append(i)
    used, pairs = [0] * len(given), list[tuple[Fact, Fact]]()
    for base in given:
        own = shared[str(base.relation) if by == "relation" else base.subject]
        fitting = [j for j in own if _differ(base, given[j], by)]
        if fitting:
            least = min(used[j] for j in fitting)
            chosen = draw.choice([j for j in fitting if used[j] == least])
            used[chosen] += 1
            pairs.append((base, given[chosen]))
    if not pairs:
        raise DataError(f"none of {len(given)} facts shares its {by} with one of another answer; pass more facts, or another by=.")
    return pairs


def _differ(base: Fact, source: Fact, by: Shared) -> bool:
    other = base.subject != source.subject if by == "relation" else base.relation != source.relation
    return other and base.target.strip() != source.target.strip()


@public
def split_pairs(
    facts: Iterable[Fact], *, by: Shared = "relation", seed: int = 0
) -> tuple[list[tuple[Fact, Fact]], list[tuple[Fact, Fact]], list[tuple[Fact, Fact]]]:
    """Pairs to learn from, pairs to stop by and pairs to score on (60, 20 and 20% of the subjects), none of which has a subject of another.

    Args:
        facts, by, seed: as in `draw_pairs`; the seed also decides which subject goes where.

    Raises:
        DataError: too few facts for three parts with a pair each.

    Example:
        >>> import tl_knowledge as tlk
        >>> train, validation, held_out = tlk.subspaces.split_pairs(tlk.datasets.of_relation(tlk.load_facts(), "P36"))
        >>> {base.subject for base, _ in train} & {source.subject for _, source in held_out}
        set()
    """
    given = check_given(facts, "fact")
    subjects = list(dict.fromkeys(fact.subject for fact in given))
    random.Random(f"{seed}/subjects").shuffle(subjects)
    first, second = (round(share * len(subjects)) for share in (1 - VALIDATION - HELD_OUT, 1 - HELD_OUT))
    parts = [set(some) for some in (subjects[:first], subjects[first:second], subjects[second:])]
    try:
        train, validation, held_out = (draw_pairs([fact for fact in given if fact.subject in part], by=by, seed=seed) for part in parts)
    except DataError as error:
        raise DataError(f"three parts with pairs each cannot be made of {counted(len(subjects), 'subject')}; pass more facts. ({error})") from error
    return train, validation, held_out


def check_apart(first: Sequence[tuple[Prompt, Prompt]], second: Sequence[tuple[Prompt, Prompt]]) -> None:
    """Refuse pairs that are trained on and judged by, whichever of the two prompts is the base.

    Two pairs may have one prompt in common: `split_pairs` makes parts that have not even a subject in common.

    Raises:
        InputError: there are such pairs.
    """
    trained = {frozenset(pair) for pair in first}
    both = sum(frozenset(pair) in trained for pair in second)
    if both:
        raise InputError(
            f"{both} of {len(second)} validation pairs are among those that are trained on, as they are or with base and source "
            "exchanged; take them out of one of the two, or see split_pairs()."
        )
