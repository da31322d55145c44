"""Which facts of a set to use: what the model knows, what one token answers, one relation."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from tl_knowledge.engine.batches import answer_logits
from tl_knowledge.errors import DataError, InputError
from tl_knowledge.models.checks import check_model
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt, is_one_token

__all__ = ["known_facts", "of_relation", "predicted_tokens", "sample_facts", "single_token_facts"]


def known_facts(model: HookedModel, facts: Iterable[Fact]) -> list[Fact]:
    """Facts whose first target token is the model's own prediction (argmax), as in the papers' fact sets.

    Facts that cannot be tokenised with their subject, or do not fit the context, are not known.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> facts = [tlk.Fact("France", "The capital of {} is", " Paris"), tlk.Fact("France", "The capital of {} is", " Oslo")]
        >>> [fact.target for fact in known_facts(model, facts)]
        [' Paris']
    """
    pairs: list[tuple[Fact, Prompt]] = []
    for fact in facts:
        try:
            pairs.append((fact, Prompt.from_fact(model, fact)))
        except InputError:
            continue
    predicted = predicted_tokens(model, [prompt for _, prompt in pairs])
    return [fact for (fact, prompt), token in zip(pairs, predicted, strict=True) if token == prompt.target_token]


def single_token_facts(model: HookedModel, facts: Iterable[Fact]) -> list[Fact]:
    """Facts whose target is one token of this model."""
    return [fact for fact in facts if is_one_token(model, fact.target)]


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


def sample_facts(facts: Sequence[Fact], limit: int, *, seed: int = 0) -> list[Fact]:
    """A random sample of facts, in their order; all of them when there are no more.

    Raises:
        DataError: fewer than one.

    Example:
        >>> facts = [Fact(name, "{} is", " here") for name in "abcdef"]
        >>> len(sample_facts(facts, 3)), sample_facts(facts, 9) == facts
        (3, True)
    """
    if limit < 1:
        raise DataError(f"a sample of {limit} facts is empty; pass at least 1.")
    chosen = set(random.Random(seed).sample(range(len(facts)), min(limit, len(facts))))
    return [fact for index, fact in enumerate(facts) if index in chosen]


def predicted_tokens(model: HookedModel, prompts: Sequence[Prompt]) -> list[int]:
    """The most probable token where each prompt is answered, many prompts a forward."""
    check_model(model, masked=True)
    found: dict[int, int] = {}
    for group, logits in answer_logits(model, prompts):
        found |= dict(zip(group, logits.argmax(-1).tolist(), strict=True))
    return [found[i] for i in range(len(prompts))]
