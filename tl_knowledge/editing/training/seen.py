"""Which facts an editor was trained on, as digests: a small file that tells no fact, and still knows one again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Int64

from tl_knowledge.errors import InputError
from tl_knowledge.prompts.facts import EditCase, Fact

__all__ = ["fact_digest", "fact_digests", "refuse_seen", "unseen"]


def fact_digest(fact: Fact) -> int:
    """Of a fact's subject and relation (its template where it names no relation); the object does not count.

    Example:
        >>> fact = Fact("France", "The capital of {} is", " Paris", "P36")
        >>> fact_digest(fact) == fact_digest(fact.retarget(" Rome").rephrase("{}'s capital is"))
        True
    """
    text = f"{fact.subject.strip()}\n{fact.relation or fact.template}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)


def fact_digests(cases: Iterable[EditCase]) -> Int64[torch.Tensor, " fact"]:
    """Of all cases' facts, each once, ascending."""
    return torch.tensor(sorted({fact_digest(case.fact) for case in cases}), dtype=torch.int64)


def unseen(cases: Iterable[EditCase], seen: Int64[torch.Tensor, " fact"]) -> list[EditCase]:
    """The cases whose fact is not among some."""
    known = set(seen.tolist())
    return [case for case in cases if fact_digest(case.fact) not in known]


def refuse_seen(cases: Sequence[EditCase], seen: Int64[torch.Tensor, " fact"], what: str, remedy: str) -> None:
    """Refuse cases of facts that are among some.

    Raises:
        InputError: one is.
    """
    left = set(map(id, unseen(cases, seen)))
    there = [case for case in cases if id(case) not in left]
    if there:
        fact = there[0].fact
        asked = f" ({fact.relation})" if fact.relation else ""
        raise InputError(f"{len(there)} of {len(cases)} {what}, such as {fact.subject!r}{asked}; {remedy}.")
