"""Token spans: the only place that finds them.

Spans come from the tokenizer's offset mapping, never from decoding tokens one by one: that is what survives characters
split over several byte tokens, repeated subjects, leading spaces and subjects next to punctuation.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from tl_knowledge.errors import PromptError, SubjectNotFoundError
from tl_knowledge.wording import counted

__all__ = ["CharRange", "Occurrence", "Span", "covering_tokens", "encode", "occurrences", "relation_span", "template_of"]

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


def relation_span(subject: tuple[int, ...], length: int, left_out: Collection[int] = ()) -> dict[str, Span]:
    """The relation's span, every token outside the subject but special ones; none where nothing is outside."""
    outside = tuple(p for p in range(length) if p not in subject and p not in left_out)
    return {"relation": Span("relation", outside)} if outside else {}


def occurrences(text: str, part: str, name: str, occurrence: Occurrence) -> list[CharRange]:
    """Character ranges of a part of the text: where it stands as whole words, or else anywhere ("is" in "This is" is the second one)."""
    starts: list[int] = []
    start = text.find(part) if part else -1
    while start >= 0:
        starts.append(start)
        start = text.find(part, start + len(part))
    if not starts:
        raise SubjectNotFoundError(f"{name} {part!r} does not occur in {text!r}; pass its exact text, or subject_span=(start, stop) in tokens.")
    starts = [start for start in starts if _is_whole(text, start, start + len(part))] or starts
    if occurrence != "all":
        try:
            starts = [starts[occurrence]]
        except IndexError:
            raise SubjectNotFoundError(
                f"{name} {part!r} occurs {counted(len(starts), 'time')} in {text!r}, so occurrence {occurrence} does "
                f"not exist; pass 'all' or a smaller one."
            ) from None
    return [(s, s + len(part)) for s in starts]


def _is_whole(text: str, start: int, stop: int) -> bool:
    """Whether no word goes on across either end."""
    before, after = text[max(0, start - 1) : start + 1], text[stop - 1 : stop + 1]
    return not (len(before) == 2 and before.isalnum()) and not (len(after) == 2 and after.isalnum())


def template_of(text: str, subject: str) -> str:
    """A text with ``{}`` in the subject's place.

    Raises:
        SubjectNotFoundError: the subject does not occur.
        PromptError: the text has a ``{}`` of its own.

    Example:
        >>> template_of("This is", "is"), template_of("The capital of France is", "France")
        ('This {}', 'The capital of {} is')
    """
    if "{}" in text:
        raise PromptError(f"the prompt {text!r} has '{{}}' in it, which stands for the subject in a fact; write it in another way.")
    template, end = "", 0
    for start, stop in occurrences(text, subject, "subject", "all"):
        template, end = f"{template}{text[end:start]}{{}}", stop
    return template + text[end:]


def covering_tokens(text: str, part: str, ranges: list[CharRange], offsets: list[CharRange], labels: tuple[str, ...]) -> tuple[int, ...]:
    """Tokens that hold the ranges' characters, refusing tokens that also hold others."""
    covered: set[int] = set()
    for start, stop in ranges:
        inside = {i for i, (a, b) in enumerate(offsets) if a < stop and b > start}
        spill = [i for i in inside if text[offsets[i][0] : start].strip() or text[stop : offsets[i][1]].strip()]
        if spill or not inside:
            raise SubjectNotFoundError(
                f"subject {part!r} does not align with the tokens {[labels[i] for i in sorted(inside)]} of {text!r}; pass subject_span=(start, stop)."
            )
        covered |= inside
    return tuple(sorted(covered))


def encode(tokenizer: Any, text: str, *, special: bool = False) -> tuple[list[int], list[CharRange], list[str]]:
    """Token ids of a text, their character ranges, and each as text; special tokens have an empty range.

    Args:
        special: let the tokenizer add its special tokens (``[CLS]``, ``[SEP]``).

    Raises:
        PromptError: a tokenizer without character offsets.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise PromptError(f"tokenizer {type(tokenizer).__name__} gives no character offsets; load a fast tokenizer, or use Prompt.from_tokens().")
    encoded = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
    ids, offsets = list(encoded["input_ids"]), [(int(a), int(b)) for a, b in encoded["offset_mapping"]]
    # Several byte tokens of one character share the character.
    labels = [text[a:b] or str(tokenizer.decode([token])) for token, (a, b) in zip(ids, offsets, strict=True)]
    return ids, offsets, labels
