"""Prompts that should share their neurons: the wordings of one fact, the sentences of one determiner, the ends of one kind of sentence."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from more_itertools import always_iterable

from tl_knowledge.datasets import MARKS, paraphrases
from tl_knowledge.door import public
from tl_knowledge.errors import DataError, InputError, check_given
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel, is_masked
from tl_knowledge.prompts.facts import Fact, MinimalPair
from tl_knowledge.prompts.prompt import Prompt, mask_token
from tl_knowledge.prompts.targets import is_one_token
from tl_knowledge.wording import counted

__all__ = ["PromptGroup", "agreement_groups", "determiner", "fact_groups", "masked_word", "punctuation_groups"]

DETERMINERS = ("this", "that", "these", "those")


@public
@dataclass(frozen=True, eq=False)
class PromptGroup:
    """Prompts that should have neurons in common.

    Attributes:
        relation: what the group is one of: a relation, a BLiMP paradigm, punctuation.
        name: the group's own: a fact's subject, a determiner, a mark.
        prompts: each with a target; more than one, so that there is something to share.
    """

    relation: str
    name: str
    prompts: tuple[Prompt, ...]

    def __post_init__(self) -> None:
        if not self.prompts:
            raise DataError(f"group {self.name!r} of {self.relation!r} has no prompts; pass at least one, better several.")


@public
def fact_groups(model: AnyModel, facts: Fact | Iterable[Fact], *, own_wording: bool = True) -> list[PromptGroup]:
    """A group for each fact: its paraphrases, and its own wording unless that is kept for a measurement.

    Raises:
        DataError: no fact, or one without paraphrases.
    """
    model = as_model(model, masked=True, encoder_decoder=True)
    groups: list[PromptGroup] = []
    for fact in check_given(always_iterable(facts, Fact), "fact"):
        others = paraphrases(model, fact)
        own = [Prompt.from_fact(model, fact)] if own_wording else []
        groups.append(PromptGroup(fact.relation or "", fact.subject, (*own, *others)))
    return groups


@public
def agreement_groups(
    model: AnyModel, pairs: MinimalPair | Iterable[MinimalPair], *, by: Callable[[MinimalPair], str] | None = None, limit: int | None = None
) -> list[PromptGroup]:
    """Groups of minimal pairs of one paradigm (BLiMP): what precedes the word that makes the sentence good, with that word as the target.

    An autoregressive model predicts the word after the good sentence's prefix: the noun after its determiner, where the nouns differ
    (``determiner_noun_agreement_1``) and where the determiners do (``..._2``); paradigms without a prefix will not do. A masked model predicts the
    word itself, in any paradigm whose sentences differ in one word of one token; other pairs are left out.

    Args:
        by: what names a pair's group; the good word when ``None``. `determiner` puts all sentences with "these" together.
        limit: how many prompts of a group to take, from the first.

    Raises:
        DataError: no pair, or none of a form that the model can predict.
    """
    model = as_model(model, masked=True)
    _check_limit(limit)
    groups: dict[tuple[str, str], list[Prompt]] = {}
    given = check_given(always_iterable(pairs, MinimalPair), "minimal pair")
    for pair in given:
        prompt = masked_word(model, pair.good, pair.bad) if is_masked(model) else _prefix_prompt(model, pair)
        if prompt is not None:
            groups.setdefault((pair.paradigm, by(pair) if by else prompt.target.strip()), []).append(prompt)
    if not groups:
        raise DataError(
            f"none of {counted(len(given), 'pair')} makes a prompt: an autoregressive model needs paradigms with a "
            f"prefix (determiner_noun_agreement_1 and _2), "
            "a masked one sentences that differ in one word of one token."
        )
    return [PromptGroup(paradigm, name, tuple(prompts[:limit])) for (paradigm, name), prompts in groups.items()]


@public
def determiner(pair: MinimalPair) -> str:
    """The demonstrative of the good sentence: "this", "that", "these" or "those".

    Raises:
        InputError: it has none.
    """
    words = [word for word in pair.good.lower().rstrip(".").split() if word in DETERMINERS]
    if not words:
        raise InputError(f"sentence {pair.good!r} has no demonstrative; group its paradigm by another word.")
    return words[-1]


@public
def punctuation_groups(
    model: AnyModel, sentences: Iterable[str], *, marks: str | Sequence[str] = MARKS, limit: int = 200, seed: int = 0
) -> list[PromptGroup]:
    """Sentences cut off before their last mark, which the model is to predict (Wen and Bai, section 5.5): a group for each mark.

    Args:
        sentences: each ending in one of the marks, for example `load_punctuation`; others are left out.
        marks: which; those without a sentence make no group.
        limit: how many sentences of a mark to draw.
        seed: of the draw.

    Raises:
        DataError: no sentence ends in any of the marks.
    """
    model = as_model(model, masked=True)
    _check_limit(limit)
    by_mark: dict[str, list[str]] = {mark: [] for mark in marks}
    for sentence in sentences:
        text = sentence.strip()
        if text[-1:] in by_mark and len(text) > 1:
            by_mark[text[-1]].append(text)
    groups: list[PromptGroup] = []
    for mark, texts in by_mark.items():
        drawn = random.Random(f"{seed}/{mark}").sample(texts, min(limit, len(texts)))
        prompts = tuple(_before_mark(model, text, mark) for text in drawn)
        groups += [PromptGroup("punctuation", mark, prompts)] if prompts else []
    if not groups:
        raise DataError(f"no sentence ends in any of {' '.join(marks)}; pass whole sentences with their final mark.")
    return groups


def masked_word(model: HookedModel, sentence: str, other: str) -> Prompt | None:
    """The sentence with the word masked in which it differs from another; ``None`` where more differs, or the word is not one token."""
    words, others = sentence.split(), other.split()
    differing = [i for i, (a, b) in enumerate(zip(words, others, strict=False)) if a != b]
    if len(words) != len(others) or len(differing) != 1:
        return None
    word = words[differing[0]]
    bare = word.rstrip("".join(MARKS))
    if not is_one_token(model, bare):
        return None
    shown = [*words[: differing[0]], mask_token(model) + word[len(bare) :], *words[differing[0] + 1 :]]
    return Prompt.from_text(model, " ".join(shown), target=bare)


def _prefix_prompt(model: HookedModel, pair: MinimalPair) -> Prompt | None:
    return Prompt.from_text(model, pair.prefix, target=" " + pair.word_good) if pair.prefix else None


def _before_mark(model: HookedModel, text: str, mark: str) -> Prompt:
    before = text[: -len(mark)].rstrip()
    if is_masked(model):
        return Prompt.from_text(model, f"{before} {mask_token(model)}", target=mark)
    return Prompt.from_text(model, before, target=mark)


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise InputError(f"limit={limit} takes no prompt; pass at least 1, or None for all.")
