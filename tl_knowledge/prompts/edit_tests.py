"""What should follow from an edit, or stay as it was: questions with their answers, asked before and after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tl_knowledge.door import public
from tl_knowledge.errors import InputError, PromptError, TargetError

__all__ = ["EditTest", "Query"]


@public
@dataclass(frozen=True)
class Query:
    """A prompt, and what counts as its answer.

    Attributes:
        text: the prompt.
        answers: all that should be said, each in any of its forms (its name and its aliases, with their leading space).

    Raises:
        PromptError: the text is empty.
        TargetError: no answer, or an empty one.

    Example:
        >>> Query("The capital of the United States is", ((" Washington", " Washington, D.C."),)).answers[0][1]
        ' Washington, D.C.'
    """

    text: str
    answers: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise PromptError(f"the query's text is {self.text!r}; pass a prompt with at least one character.")
        if not self.answers or not all(self.answers) or not all(form.strip() for forms in self.answers for form in forms):
            raise TargetError(f"the answers of {self.text!r} are {self.answers!r}; pass at least one, each with a form that is not empty.")


@public
@dataclass(frozen=True)
class EditTest:
    """Queries that say whether something follows from an edit, or has stayed.

    Attributes:
        axis: what is tested, for example ``"ripple_relation_specificity"``; the name of the score.
        queries: one of them has to be answered, or with ``every`` all.
        conditions: what the *unedited* model has to answer for the test to count.
        every: whether all queries have to be answered.

    Raises:
        InputError: no query.

    Example:
        >>> query = Query("The capital of France is", ((" Paris",),))
        >>> EditTest("kept", (query,), conditions=(query,)).passed({query: True}), EditTest("kept", (query,)).counts({})
        (True, True)
    """

    axis: str
    queries: tuple[Query, ...]
    conditions: tuple[Query, ...] = ()
    every: bool = False

    def __post_init__(self) -> None:
        if not self.queries:
            raise InputError(f"a test of {self.axis!r} asks nothing; pass at least one Query.")

    def passed(self, said: Mapping[Query, bool]) -> bool:
        """Whether the test is passed by a model that answers these queries so."""
        return (all if self.every else any)(said[query] for query in self.queries)

    def counts(self, said: Mapping[Query, bool]) -> bool:
        """Whether the unedited model meets the conditions."""
        return all(said[query] for query in self.conditions)
