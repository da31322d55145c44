"""context-ParaRel, ParaRel's form for autoregressive models (Wen and Bai, section 4.1): four other facts stand before each prompt.

Their program lists 21 relations for attribution, and P131 with them for the perturbation test; these 22 make the 2,153 facts and 17,042 prompts
that the paper reports.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from tl_knowledge.datasets.context import CONTEXT_PAIRS, Pair, shown_in_context, state
from tl_knowledge.datasets.pararel import relation_rows, split_pattern
from tl_knowledge.datasets.records import Row, Source
from tl_knowledge.door import public
from tl_knowledge.errors import DataError, InputError, check_choice
from tl_knowledge.prompts.facts import Fact

__all__ = ["CONTEXT_RELATIONS", "load_context_pararel"]

CONTEXT_RELATIONS = (
    "P39",
    "P264",
    "P108",
    "P131",
    "P176",
    "P30",
    "P178",
    "P138",
    "P47",
    "P27",
    "P364",
    "P495",
    "P449",
    "P20",
    "P36",
    "P19",
    "P740",
    "P279",
    "P159",
    "P106",
    "P101",
    "P937",
)
"""Wen and Bai's relations, in their order."""

MOST_FACTS, WEN_BAI_SEED = 100, 2022
END, OTHER_MARKS = ".", "?!;"

ContextVariant = Literal["ours", "wen_bai"]


@public
def load_context_pararel(
    source: Source,
    *,
    relations: Iterable[str] | None = None,
    limit: int = MOST_FACTS,
    variant: ContextVariant = "ours",
    seed: int = 0,
) -> list[Fact]:
    """Facts of ParaRel, four other facts of the relation before each prompt, in the prompt's own template and each on its own line.

    The other facts are drawn for each prompt. They have four different objects, and the fact's answer is none of them: it could be copied from the
    context. A statement ends in its pattern's own mark, or a full stop. A masked model is asked in the same form, ending in ``[MASK].``

    Args:
        source: as `load_pararel`.
        relations: which, by Wikidata's id, in what order; Wen and Bai's 22 when ``None``.
        limit: how many facts of a relation to take, from the first.
        variant: ``"wen_bai"`` draws as their program does, from one stream of random numbers for all relations, and lets the answer stand in
            another fact's *subject*. Ours does not, and a draw depends on the seed, the relation, the subject and the template only.
        seed: of the draws; their program's 2022 is 0 under ``"wen_bai"``, 2023 is 1.

    Raises:
        DataError: as `load_pararel`, or a relation of fewer objects than the context needs.
        InputError: an unknown variant, or a limit below 1.
    """
    check_choice("variant", variant, ContextVariant)
    if limit < 1:
        raise InputError(f"limit={limit} takes no fact; pass at least 1 ({MOST_FACTS} is usual).")
    facts: list[Fact] = []
    stream = random.Random(WEN_BAI_SEED + seed)
    for relation, patterns, pairs in relation_rows(source, CONTEXT_RELATIONS if relations is None else relations):
        statements = list(dict.fromkeys(_statements(patterns)))
        spoken = [(subject, " " + target) for subject, target in pairs]
        if statements and variant == "wen_bai":
            facts += _from_one_stream(relation, statements, spoken, limit, stream)
        elif statements:
            for subject, target in list(dict.fromkeys(spoken))[:limit]:
                facts.append(_in_context(Fact(subject, statements[0][0], target, relation), statements, spoken, seed))
    return facts


def _statements(patterns: Iterable[Row]) -> Iterator[tuple[str, str]]:
    """Usable templates, with the marks that end them."""
    for row in patterns:
        template, end = split_pattern(row)
        mark = end.strip(".,")
        if template and (not mark or mark in OTHER_MARKS):
            yield template, mark or END


def _in_context(fact: Fact, statements: Sequence[tuple[str, str]], pairs: Sequence[Pair], seed: int) -> Fact:
    """The fact, its templates each after its own draw."""
    shown = [
        shown_in_context(Fact(fact.subject, template, fact.target, fact.relation), pairs, CONTEXT_PAIRS, mark + "\n", seed).template
        for template, mark in statements
    ]
    return Fact(fact.subject, shown[0], fact.target, fact.relation, tuple(shown[1:]))


def _from_one_stream(relation: str, statements: Sequence[tuple[str, str]], pairs: Sequence[Pair], limit: int, stream: random.Random) -> list[Fact]:
    """Every template's prompts in turn, drawn as the program draws them: places of pairs, until four have other objects.

    Raises:
        DataError: too few different objects.
    """
    if len({target for _, target in pairs}) <= CONTEXT_PAIRS:
        raise DataError(f"relation {relation!r} has too few different objects for {CONTEXT_PAIRS} that are not the answer; leave it out.")
    asked = pairs[:limit]
    shown: list[list[str]] = [[] for _ in asked]
    for template, mark in statements:
        for i, (_, target) in enumerate(asked):
            drawn: dict[str, Pair] = {}
            while len(drawn) < CONTEXT_PAIRS:
                n = stream.randint(0, len(pairs) - 1)
                if n != i and pairs[n][1] != target:
                    drawn.setdefault(pairs[n][1], pairs[n])
            shown[i].append(state(template, drawn.values(), mark + "\n"))
    return [Fact(subject, first, target, relation, tuple(rest)) for (subject, target), (first, *rest) in zip(asked, shown, strict=True)]
