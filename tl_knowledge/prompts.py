"""Prompts as tokens with named spans: the only place that finds token spans.

Spans come from the tokenizer's offset mapping, never from decoding tokens one by one: that is what survives characters
split over several byte tokens, repeated subjects, leading spaces and subjects next to punctuation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from einops import repeat

from tl_knowledge.arrays import Tokens
from tl_knowledge.errors import PromptError, SubjectNotFoundError, TargetError
from tl_knowledge.facts import Fact
from tl_knowledge.model import HookedModel, context_length, model_device, prepends_bos

__all__ = ["Occurrence", "Prompt", "Span", "target_tokens"]

Occurrence: TypeAlias = int | Literal["all"]
CharRange: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class Span:
    """Named token positions of a prompt, in order; not necessarily adjacent.

    Example:
        >>> span = Span("subject", (1, 2, 3))
        >>> span.first, span.last, len(span)
        (1, 3, 3)
    """

    name: str
    positions: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.positions or list(self.positions) != sorted(set(self.positions)):
            raise PromptError(f"span {self.name!r} has positions {self.positions}; pass at least one, ascending, none twice.")

    @property
    def first(self) -> int:
        """First position."""
        return self.positions[0]

    @property
    def last(self) -> int:
        """Last position."""
        return self.positions[-1]

    def __iter__(self) -> Iterator[int]:
        return iter(self.positions)

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(frozen=True, eq=False)
class Prompt:
    """One tokenised prompt with its spans and, where known, the target that should follow.

    Attributes:
        tokens: ``[1 pos]``.
        labels: each token as text, for axes and tables.
        spans: ``subject``, ``relation`` (every prompt token outside the subject, without BOS), ``last``, and any more.
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
    def from_fact(cls, model: HookedModel, fact: Fact, *, prepend_bos: bool | None = None) -> Prompt:
        """Tokenise a fact; the subject is exactly where the template has ``{}``.

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
    def from_text(
        cls,
        model: HookedModel,
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
            subject: the subject's text.
            target: what should follow, with its leading space.
            subject_span: token positions ``(start, stop)`` instead of ``subject``, for tokens no text aligns with.
            occurrence: which occurrence when the subject is repeated; ``"all"`` takes every one, so that corrupting
                the subject leaves no copy of it; ``0`` is the first (the original programs'), ``-1`` the last.
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
        places = {name: _occurrences(text, part, name, occurrence) for name, part in wanted.items()}
        prompt = cls._tokenise(model, text, places, wanted, target, prepend_bos)
        return prompt if subject_span is None else prompt._with_subject(range(*subject_span))

    @classmethod
    def from_tokens(
        cls,
        tokens: Any,
        *,
        subject: Iterable[int] | None = None,
        target: int | Iterable[int] | None = None,
        labels: Iterable[str] | None = None,
        has_bos: bool = False,
    ) -> Prompt:
        """A prompt from token ids, for models without a tokenizer and for tests.

        Args:
            tokens: ids, ``[pos]`` or ``[1 pos]``.
            subject: the subject's positions, for example ``range(1, 4)``.
            target: the target's token id or ids.
            labels: texts of the tokens; the ids when not given.
            has_bos: whether the first token is BOS, which then belongs to no span.
        """
        ids = torch.as_tensor(tokens).reshape(1, -1)
        if ids.shape[1] == 0:
            raise PromptError("the prompt has no tokens; pass at least one.")
        answer = () if target is None else (target,) if isinstance(target, int) else tuple(target)
        names = tuple(labels) if labels is not None else tuple(str(int(t)) for t in ids[0])
        prompt = cls(ids, names, {"last": Span("last", (ids.shape[1] - 1,))}, answer, "", has_bos=has_bos)
        return prompt if subject is None else prompt._with_subject(subject)

    @property
    def subject(self) -> Span:
        """The subject's positions."""
        return self.span("subject")

    @property
    def relation(self) -> Span:
        """Every prompt token outside the subject, BOS excepted (paper 001's relation tokens)."""
        return self.span("relation")

    @property
    def last(self) -> Span:
        """The last position, which predicts the answer."""
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

    def _with_subject(self, positions: Iterable[int]) -> Prompt:
        inside = tuple(positions)
        outside_prompt = [p for p in inside if not 0 <= p < len(self)]
        if outside_prompt or not inside:
            raise SubjectNotFoundError(
                f"subject positions {inside} do not lie in the prompt of {len(self)} tokens {list(self.labels)}; "
                f"pass positions from 0 to {len(self) - 1}."
            )
        spans = {**self.spans, "subject": Span("subject", inside), **_relation(inside, len(self), self.has_bos)}
        return Prompt(self.tokens, self.labels, spans, self.answer, self.target, text=self.text, has_bos=self.has_bos)

    @classmethod
    def _tokenise(
        cls,
        model: HookedModel,
        text: str,
        places: Mapping[str, list[CharRange]],
        texts: Mapping[str, str],
        target: str | None,
        prepend_bos: bool | None,
    ) -> Prompt:
        if not text.strip():
            raise PromptError(f"the prompt is {text!r}; pass a prompt with at least one character.")
        ids, offsets = _ids_and_offsets(model, text)
        has_bos = prepends_bos(model) if prepend_bos is None else prepend_bos
        if has_bos:
            ids, offsets = [model.tokenizer.bos_token_id, *ids], [(0, 0), *offsets]
        if len(ids) > context_length(model):
            raise PromptError(f"prompt {text[:60]!r}... has {len(ids)} tokens; the model's context is {context_length(model)}: shorten it.")
        labels = tuple(_label(text, model, token, offset) for token, offset in zip(ids, offsets, strict=True))
        labels = ("BOS", *labels[1:]) if has_bos else labels
        spans = {"last": Span("last", (len(ids) - 1,))}
        for name, ranges in places.items():
            spans[name] = Span(name, _covering_tokens(text, texts[name], ranges, offsets, labels))
        if "subject" in spans:
            spans |= _relation(spans["subject"].positions, len(ids), has_bos)
        answer = () if target is None else target_tokens(model, target)
        tokens = torch.tensor([ids], device=model_device(model))
        return cls(tokens, labels, spans, answer, target or "", text=text, has_bos=has_bos)


def target_tokens(model: HookedModel, target: str) -> tuple[int, ...]:
    """Tokens of a target's text.

    Raises:
        TargetError: no tokens.
    """
    ids = model.tokenizer(target, add_special_tokens=False)["input_ids"] if target else []
    if not ids:
        raise TargetError(f"target {target!r} has no tokens; pass the object's text, usually with its leading space, as in ' Seattle'.")
    return tuple(ids)


def _relation(subject: tuple[int, ...], length: int, has_bos: bool) -> dict[str, Span]:
    outside = tuple(p for p in range(int(has_bos), length) if p not in subject)
    return {"relation": Span("relation", outside)} if outside else {}


def _occurrences(text: str, part: str, name: str, occurrence: Occurrence) -> list[CharRange]:
    """Character ranges of a part of the text."""
    starts: list[int] = []
    start = text.find(part) if part else -1
    while start >= 0:
        starts.append(start)
        start = text.find(part, start + len(part))
    if not starts:
        raise SubjectNotFoundError(f"{name} {part!r} does not occur in {text!r}; pass its exact text, or subject_span=(start, stop) in tokens.")
    if occurrence != "all":
        try:
            starts = [starts[occurrence]]
        except IndexError:
            raise SubjectNotFoundError(
                f"{name} {part!r} occurs {len(starts)} time(s) in {text!r}, so occurrence {occurrence} does not exist; pass 'all' or a smaller one."
            ) from None
    return [(s, s + len(part)) for s in starts]


def _ids_and_offsets(model: HookedModel, text: str) -> tuple[list[int], list[CharRange]]:
    if not getattr(model.tokenizer, "is_fast", False):
        raise PromptError(
            f"tokenizer {type(model.tokenizer).__name__} gives no character offsets; load a fast tokenizer, or use Prompt.from_tokens()."
        )
    encoded = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return list(encoded["input_ids"]), [(int(a), int(b)) for a, b in encoded["offset_mapping"]]


def _covering_tokens(text: str, part: str, ranges: list[CharRange], offsets: list[CharRange], labels: tuple[str, ...]) -> tuple[int, ...]:
    """Tokens that hold the ranges' characters, refusing tokens that also hold others."""
    found: set[int] = set()
    for start, stop in ranges:
        inside = {i for i, (a, b) in enumerate(offsets) if a < stop and b > start}
        spill = [i for i in inside if text[offsets[i][0] : start].strip() or text[stop : offsets[i][1]].strip()]
        if spill or not inside:
            raise SubjectNotFoundError(
                f"subject {part!r} does not align with the tokens {[labels[i] for i in sorted(inside)]} of {text!r}; pass subject_span=(start, stop)."
            )
        found |= inside
    return tuple(sorted(found))


def _label(text: str, model: HookedModel, token: int, offset: CharRange) -> str:
    """A token as text; several byte tokens of one character share the character."""
    piece = text[offset[0] : offset[1]]
    return piece if piece else str(model.tokenizer.decode([token]))
