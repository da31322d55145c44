"""A metric from the words, the function and the other answers that a call names."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from more_itertools import always_iterable

from tl_knowledge.errors import ComponentError, InputError, TargetError, check_choice
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.targets import target_tokens
from tl_knowledge.runs.metric import Against, AnyMetric, Metric, MetricWord

__all__ = ["check_not_among", "other_tokens", "resolve_metric"]


def other_tokens(model: HookedModel, against: Against) -> tuple[int, ...]:
    """The first tokens of other answers, each once.

    Raises:
        TargetError: none, a text without tokens, or a token outside the vocabulary.
    """
    given = () if against is None else tuple(always_iterable(against))
    tokens = tuple(dict.fromkeys(target_tokens(model, each)[0] if isinstance(each, str) else int(each) for each in given))
    vocabulary = int(model.cfg.d_vocab)
    outside = [token for token in tokens if not 0 <= token < vocabulary]
    if outside:
        raise TargetError(f"against: token {outside[0]} is outside the model's vocabulary of {vocabulary}; pass a token id of this model, or text.")
    return tokens


def resolve_metric(model: AnyModel, metric: AnyMetric, against: Against, *, answer: Sequence[int] = (), multi_token: bool = False) -> Metric:
    """The metric that a call asks for.

    Args:
        model: for the tokens of other answers.
        answer: the tokens that are scored, where there is one prompt.
        multi_token: whether all tokens of an answer are scored.

    Raises:
        ComponentError: an unknown word.
        InputError: a class, ``against`` for another metric, or several tokens for one that reads one place.
        TargetError: no other answer, one of another model, or the answer itself.
    """
    if against is not None and metric != "logit_difference":
        raise InputError(f"against={against!r} is what a logit difference takes off; pass metric='logit_difference' with it, or leave it out.")
    measured = _made(model, metric) if isinstance(metric, Metric) else _asked(model, metric, against)
    if multi_token and not measured.whole_answer:
        raise InputError(f"metric={measured} reads one position, and multi_token=True scores several; pass 'probability' or 'log_probability'.")
    check_not_among(measured.against, answer)
    return measured


def _asked(model: AnyModel, metric: MetricWord | Callable[..., torch.Tensor], against: Against) -> Metric:
    """A metric from its word or function."""
    if isinstance(metric, type):
        raise InputError(f"metric={metric.__name__} is a class; pass a function of logits, or a word such as 'logit'.")
    if not isinstance(metric, str):
        return Metric.of_function(metric)
    check_choice("metric", metric, MetricWord, ComponentError)
    if metric != "logit_difference":
        return Metric(metric)
    held = as_model(model, masked=True, without_mlps=True, encoder_decoder=True)
    tokens = other_tokens(held, against)
    if not tokens:
        raise TargetError("metric='logit_difference' has no other answer; pass against=' Rome', token ids, or a list of them.")
    texts = ", ".join(repr(str(held.tokenizer.decode([token])) if held.tokenizer else token) for token in tokens)
    return Metric(f"logit_difference against {texts} [{', '.join(map(str, tokens))}]", tokens)


def _made(model: AnyModel, metric: Metric) -> Metric:
    """A metric that a result's settings have, or a caller made: its tokens may be those of another model."""
    if metric.kind == "function":
        return metric
    check_choice("metric", metric.kind, MetricWord, ComponentError)
    here = _asked(model, metric.kind, metric.against)  # pyright: ignore[reportArgumentType]
    if here != metric:  # the same numbers are other answers in another vocabulary
        raise TargetError(f"metric={metric} is {here} in this model; pass metric='logit_difference' and against= as text.")
    return metric


def check_not_among(against: Sequence[int], answer: Sequence[int]) -> None:
    """Refuse an answer that is measured against itself.

    Raises:
        TargetError: its first token is one of the others.
    """
    if answer and answer[0] in against:
        raise TargetError(f"the answer's token {answer[0]} is among those of against=, so that it would be measured against itself; pass others.")
