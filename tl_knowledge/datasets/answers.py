"""What a model says of facts: which it knows, which it answers with one token, and their paraphrases as prompts of this model."""

from __future__ import annotations

from collections.abc import Iterable

from more_itertools import always_iterable

from tl_knowledge.door import public
from tl_knowledge.engine.batches import predicted_tokens
from tl_knowledge.engine.progress import progress_bar
from tl_knowledge.errors import DataError, InputError
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.prompts.targets import is_one_token

__all__ = ["known_facts", "paraphrases", "single_token_facts"]


@public
def known_facts(model: AnyModel, facts: Fact | Iterable[Fact], *, progress: bool = True) -> list[Fact]:
    """Facts whose first target token is the model's own prediction (argmax), as in the published fact sets.

    Facts that cannot be tokenised with their subject, or do not fit the context, are not known.

    Raises:
        NumericalError: logits that are not finite.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> facts = [tlk.Fact("France", "The capital of {} is", " Paris"), tlk.Fact("France", "The capital of {} is", " Oslo")]
        >>> [fact.target for fact in known_facts(model, facts)]
        [' Paris']
    """
    model = as_model(model, masked=True, without_mlps=True, encoder_decoder=True)
    pairs: list[tuple[Fact, Prompt]] = []
    for fact in always_iterable(facts, Fact):
        try:
            pairs.append((fact, Prompt.from_fact(model, fact)))
        except InputError:
            continue
    with progress_bar(what="known facts", unit="fact", total=len(pairs), progress=progress) as bar:
        predicted = predicted_tokens(model, [prompt for _, prompt in pairs], bar=bar)
    return [fact for (fact, prompt), token in zip(pairs, predicted, strict=True) if token == prompt.target_token]


@public
def single_token_facts(model: AnyModel, facts: Fact | Iterable[Fact]) -> list[Fact]:
    """Facts whose target is one token of this model."""
    model = as_model(model, masked=True, without_mlps=True, encoder_decoder=True)
    return [fact for fact in always_iterable(facts, Fact) if is_one_token(model, fact.target)]


@public
def paraphrases(model: AnyModel, fact: Fact) -> list[Prompt]:
    """The fact's paraphrases as prompts.

    Raises:
        DataError: the fact has none.
    """
    model = as_model(model, masked=True, without_mlps=True, encoder_decoder=True)
    if not fact.paraphrases:
        raise DataError(f"fact {fact.text!r} has no paraphrases; make it with Fact(..., paraphrases=('... {{}} ...',)).")
    return [Prompt.from_fact(model, fact.rephrase(template)) for template in fact.paraphrases]
