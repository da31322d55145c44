"""Prompts as tokens with named spans, and the target that should follow.

A masked model (BERT) answers at its mask, an encoder with a decoder (T5) with its decoder: see `tl_knowledge.prompts.asked`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from einops import repeat

from tl_knowledge.arrays import Tokens
from tl_knowledge.door import converts, public
from tl_knowledge.errors import PromptError, SubjectNotFoundError, TargetError
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel, answered_from, context_length, is_encoder_decoder, is_masked, model_device
from tl_knowledge.prompts.asked import ask, mask_token
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.spans import CharRange, Occurrence, Span, covering_tokens, occurrences, relation_span
from tl_knowledge.prompts.targets import target_tokens, warn_of_missing_space
from tl_knowledge.wording import counted

__all__ = ["Occurrence", "Prompt", "Span", "check_fits", "mask_token"]


@dataclass(frozen=True, eq=False)
class Prompt:
    """One tokenised prompt with its spans and, where known, the target that should follow.

    Attributes:
        tokens: ``[1 pos]``.
        labels: each token as text, for axes and tables.
        spans: ``subject``, ``relation`` (every prompt token outside the subject, without BOS and other special tokens), ``last`` (the position
            that predicts the answer: the last one, or a masked model's mask), and any more. An encoder with a decoder has both one after the
            other in one row of tokens.
        answer: the target's tokens; empty when no target is known.
        target: the target's text, ``""`` when unknown.
        text: what was tokenised, ``""`` for prompts made from tokens.
    """

    tokens: Tokens
    labels: tuple[str, ...]
    spans: Mapping[str, Span]
    answer: tuple[int, ...] = ()
    target: str = ""
    text: str = field(default="", kw_only=True)
    has_bos: bool = field(default=False, kw_only=True)

    @classmethod
    @public
    def from_fact(cls, model: AnyModel, fact: Fact, *, prepend_bos: bool | None = None) -> Prompt:
        """Tokenise a fact; the subject is exactly where the template has ``{}``.

        Args:
            model: the model whose tokenizer is used, or its name.
            prepend_bos: ``None`` does as the model does.

        Raises:
            SubjectNotFoundError: the subject's characters do not fall on token boundaries.
            PromptError: longer than the model's context.
            TargetError: the target has no tokens.
        """
        places: list[CharRange] = []
        before = ""
        for i, piece in enumerate(fact.template.split("{}")):
            if i:
                places.append((len(before), len(before) + len(fact.subject)))
                before += fact.subject
            before += piece
        return cls._tokenise(model, before, {"subject": places}, {"subject": fact.subject}, fact.target, prepend_bos)

    @classmethod
    @public
    def from_text(
        cls,
        model: AnyModel,
        text: str,
        *,
        subject: str | None = None,
        target: str | None = None,
        subject_span: tuple[int, int] | None = None,
        occurrence: Occurrence = "all",
        spans: Mapping[str, str] | None = None,
        prepend_bos: bool | None = None,
    ) -> Prompt:
        """Tokenise a text and find the subject, and any further spans, in it.

        Args:
            model: the model whose tokenizer is used, or its name.
            subject: the subject's text.
            target: what should follow, with its leading space.
            subject_span: token positions ``(start, stop)`` instead of ``subject``, for tokens no text aligns with.
            occurrence: which occurrence when the subject is repeated; ``"all"`` takes every one, so that corrupting
                the subject leaves no copy of it; ``0`` is the first (as in Meng et al.'s program), ``-1`` the last.
            spans: further spans by name and text.
            prepend_bos: ``None`` does as the model does.

        Raises:
            SubjectNotFoundError, PromptError, TargetError: as `from_fact`, and a text that does not occur.

        Example:
            >>> from tl_knowledge import load_model
            >>> prompt = Prompt.from_text(load_model("factlm"), "The capital of France is", subject="France")
            >>> prompt.labels[prompt.subject.last]
            ' France'
        """
        wanted = {**({"subject": subject} if subject is not None else {}), **(spans or {})}
        places = {name: occurrences(text, part, name, occurrence) for name, part in wanted.items()}
        prompt = cls._tokenise(model, text, places, wanted, target, prepend_bos)
        return prompt if subject_span is None else prompt._with_subject(range(*subject_span))

    @classmethod
    @public
    def from_tokens(
        cls,
        tokens: Any,
        *,
        subject: Iterable[int] | None = None,
        target: int | Iterable[int] | None = None,
        labels: Iterable[str] | None = None,
        last: int | None = None,
        has_bos: bool = False,
    ) -> Prompt:
        """A prompt from token ids, for models without a tokenizer and for tests.

        Args:
            tokens: ids, ``[pos]`` or ``[1 pos]``.
            subject: the subject's positions, for example ``range(1, 4)``.
            target: the target's token id or ids.
            labels: texts of the tokens; the ids when not given.
            last: the position that predicts the answer, for a masked model's mask; the last one when ``None``.
            has_bos: whether the first token is BOS, which then belongs to no span.
        """
        ids = torch.as_tensor(tokens).reshape(1, -1)
        if ids.shape[1] == 0:
            raise PromptError("the prompt has no tokens; pass at least one.")
        answer = () if target is None else (target,) if isinstance(target, int) else tuple(target)
        names = tuple(labels) if labels is not None else tuple(str(int(t)) for t in ids[0])
        position = ids.shape[1] - 1 if last is None else last
        if not 0 <= position < ids.shape[1]:
            raise PromptError(
                f"position {position} does not lie in the prompt of {counted(ids.shape[1], 'token')}; pass one from 0 to {ids.shape[1] - 1}."
            )
        prompt = cls(ids, names, {"last": Span("last", (position,))}, answer, "", has_bos=has_bos)
        return prompt if subject is None else prompt._with_subject(subject)

    @property
    def subject(self) -> Span:
        """The subject's positions."""
        return self.span("subject")

    @property
    def relation(self) -> Span:
        """Every prompt token outside the subject, BOS excepted (the relation tokens of Wei et al. 2024)."""
        return self.span("relation")

    @property
    def last(self) -> Span:
        """The position that predicts the answer: the last one, or a masked model's mask."""
        return self.span("last")

    @property
    def target_token(self) -> int:
        """First token of the target.

        Raises:
            TargetError: the prompt has no target.
        """
        if not self.answer:
            raise TargetError(f"prompt {self.text or self.labels!r} has no target; pass target= when making it.")
        return self.answer[0]

    def span(self, name: str) -> Span:
        """A span by name.

        Raises:
            PromptError: no such span.
        """
        if name not in self.spans:
            raise PromptError(f"prompt {self.text or self.labels!r} has no span {name!r}; it has {', '.join(map(repr, self.spans))}.")
        return self.spans[name]

    def batch(self, rows: int) -> Tokens:
        """The tokens repeated: ``[rows pos]``."""
        return repeat(self.tokens, "1 pos -> row pos", row=rows)

    def __len__(self) -> int:
        return self.tokens.shape[1]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Prompt) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    @property
    def _value(self) -> tuple[object, ...]:
        """What two prompts must share to be the same."""
        tokens, spans = tuple(self.tokens[0].tolist()), tuple(sorted((name, span.positions) for name, span in self.spans.items()))
        return tokens, self.labels, spans, self.answer, self.target, self.text, self.has_bos

    def _with_subject(self, positions: Iterable[int]) -> Prompt:
        inside = tuple(positions)
        outside_prompt = [p for p in inside if not 0 <= p < len(self)]
        if outside_prompt or not inside:
            raise SubjectNotFoundError(
                f"subject positions {inside} do not lie in the prompt of {counted(len(self), 'token')} {list(self.labels)}; "
                f"pass positions from 0 to {len(self) - 1}."
            )
        left_out = {*range(int(self.has_bos)), *self.spans.get("special", ())}
        spans = {**self.spans, "subject": Span("subject", inside), **relation_span(inside, len(self), left_out)}
        return Prompt(self.tokens, self.labels, spans, self.answer, self.target, text=self.text, has_bos=self.has_bos)

    @classmethod
    def _tokenise(
        cls,
        model: AnyModel,
        text: str,
        places: Mapping[str, list[CharRange]],
        texts: Mapping[str, str],
        target: str | None,
        prepend_bos: bool | None,
    ) -> Prompt:
        if not text.strip():
            raise PromptError(f"the prompt is {text!r}; pass a prompt with at least one character.")
        model = _loaded(model)
        asked = ask(model, text, prepend_bos)
        labels = tuple(asked.labels)
        spans = {"last": Span("last", (asked.last,))}
        if asked.special and not asked.has_bos:
            spans["special"] = Span("special", asked.special)
        for name, ranges in places.items():
            spans[name] = Span(name, covering_tokens(asked.text, texts[name], ranges, asked.offsets, labels))
        if "subject" in spans:
            spans |= relation_span(spans["subject"].positions, len(asked.ids), asked.special)
        answer = () if target is None else target_tokens(model, target)
        if target is not None and not is_masked(model) and not is_encoder_decoder(model):
            warn_of_missing_space(model, text, target)
        tokens = torch.tensor([asked.ids], device=model_device(model))
        prompt = cls(tokens, labels, spans, answer, target or "", text=asked.text, has_bos=asked.has_bos)
        check_fits(model, prompt)
        return prompt


converts(Fact, Prompt, Prompt.from_fact)


def _loaded(model: AnyModel) -> HookedModel:
    """A model by its name; one that is there already is not checked again for every prompt."""
    return as_model(model, masked=True, encoder_decoder=True) if isinstance(model, str | os.PathLike) else model


def check_fits(model: HookedModel, prompt: Prompt, *, multi_token: bool = False) -> None:
    """Refuse a prompt that the model cannot read, or a target it cannot say.

    Args:
        multi_token: whether the target's tokens before its last are appended to the prompt.

    Raises:
        PromptError: longer than the context, a token outside the vocabulary, or tokens without a decoder's part for an encoder with a decoder.
        TargetError: a target token outside the vocabulary, or several for a masked model.
    """
    vocabulary, appended = int(model.cfg.d_vocab), max(0, len(prompt.answer) - 1) if multi_token else 0
    if len(prompt) + appended > context_length(model):
        raise PromptError(
            f"prompt {prompt.text[:60]!r} has {counted(len(prompt) + appended, 'token')}{' with its target' if appended else ''}; "
            f"the model's context is {context_length(model)}: shorten it."
        )
    outside = [token for token in prompt.tokens[0].tolist() if not 0 <= token < vocabulary]
    if outside:
        raise PromptError(f"token {outside[0]} is outside the model's vocabulary of {vocabulary}; was the prompt made with another tokenizer?")
    answered_from(model, prompt.tokens)
    unknown = [token for token in prompt.answer if not 0 <= token < vocabulary]
    if unknown:
        raise TargetError(f"target token {unknown[0]} is outside the model's vocabulary of {vocabulary}; pass a token id of this model.")
    if len(prompt.answer) > 1 and is_masked(model):
        raise TargetError(
            f"target {prompt.target!r} has {counted(len(prompt.answer), 'token')}; one mask predicts one token: pass a target of one token."
        )
