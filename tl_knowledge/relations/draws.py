"""Which of a relation's facts its map or vector is estimated from, and which it is tried on."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import torch

from tl_knowledge.datasets import known_facts
from tl_knowledge.engine.batches import predicted_tokens
from tl_knowledge.errors import DataError, InputError
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.relations.settings import EXAMPLES
from tl_knowledge.relations.states import ask, of_one_relation
from tl_knowledge.wording import counted

__all__ = ["check_counts", "draw_facts", "generator_of"]


def check_counts(examples: int, limit: int | None) -> None:
    """Refuse too few facts.

    Raises:
        InputError: fewer than 2 examples, or a limit below 1.
    """
    if examples < 2:
        raise InputError(f"examples={examples} leaves nothing to choose by: no fact is left out; pass at least 2 ({EXAMPLES} is usual).")
    if limit is not None and limit < 1:
        raise InputError(f"limit={limit} leaves no fact to try; pass at least 1.")


def generator_of(seed: int, *what: object) -> torch.Generator:
    """Torch's draws for one thing of one seed, the same in every process: neighbouring seeds and other names share none."""
    named = random.Random("/".join(map(str, (seed, *what))))  # a text is hashed by SHA-512 here
    return torch.Generator().manual_seed(named.getrandbits(63))


def draw_facts(
    model: HookedModel, facts: Sequence[Fact], examples: int, separator: str, seed: int, known_only: bool
) -> tuple[tuple[Fact, ...], list[Fact]]:
    """The facts of a map or vector, and those it is tried on, all in the relation's most common template and in a random order.

    Raises:
        DataError: too few.
    """
    template = Counter(fact.template for fact in facts).most_common(1)[0][0]
    once = list({fact.subject: fact.rephrase(template) for fact in facts}.values())
    order = random.Random(f"{seed}/{facts[0].relation}")
    known = known_facts(model, once, progress=False) if known_only else once
    if len(known) <= examples:
        there_are = "the model knows" if known_only else "there are"
        raise DataError(
            f"{there_are} {len(known)} of {counted(len(once), 'fact')}, none beside {counted(examples, 'example')}; "
            f"pass more facts, or fewer examples=."
        )
    drawn = of_one_relation(order.sample(known, examples))
    held = {fact.subject for fact in drawn}
    others = [fact for fact in once if fact.subject not in held]
    rest = _answered(model, order.sample(others, len(others)), drawn, separator, known_only)
    if not rest:
        raise DataError(
            f"after {counted(examples, 'example')} the model knows none of the other {counted(len(others), 'fact')}; "
            f"pass other facts, or known_only=False."
        )
    return drawn, rest


def _answered(model: HookedModel, facts: Sequence[Fact], examples: Sequence[Fact], separator: str, known_only: bool) -> list[Fact]:
    """Facts that fit the context after the examples, and whose target the model says there.

    Raises:
        InputError: none can be asked.
    """
    asked = list[tuple[Fact, Prompt]]()
    refusal: InputError | None = None
    for fact in facts:
        try:
            asked.append((fact, ask(model, fact, examples, separator)))
        except InputError as error:
            refusal = error
    if refusal is not None and not asked:
        raise refusal
    if not known_only or not asked:
        return [fact for fact, _ in asked]
    says = predicted_tokens(model, [prompt for _, prompt in asked])
    return [fact for (fact, prompt), token in zip(asked, says, strict=True) if token == prompt.target_token]
