"""What follows from an edit and what stays: the tests of edit cases, asked before and after (RippleEdits, MQuAKE, KnowEdit, the subject's facts)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tl_knowledge.datasets import HOP_AXES, PORTABILITY_AXES, RIPPLE_AXES
from tl_knowledge.door import public
from tl_knowledge.errors import InputError, check_given
from tl_knowledge.evaluation.generation import continued
from tl_knowledge.evaluation.scores import read_answers
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.edit_tests import EditTest, Query
from tl_knowledge.prompts.facts import EditCase, Fact
from tl_knowledge.prompts.prompt import Prompt, check_fits
from tl_knowledge.prompts.targets import target_tokens

__all__ = ["EditTestScores", "TestReading", "multi_hop_scores", "portability_scores", "read_queries", "ripple_scores", "subject_facts"]

SUBJECT_KEPT = "subject_kept"


@dataclass(frozen=True)
class TestReading:
    """A case's tests, and which of their queries and conditions the model answers.

    Attributes:
        said: whether each query is answered.
    """

    __test__ = False  # pytest: no test
    tests: tuple[EditTest, ...]
    said: Mapping[Query, bool]


@public
@dataclass(frozen=True)
class EditTestScores:
    """Of a case's tests, the share that is passed, one score an axis; NaN where no test of the axis counts.

    A test counts where the *unedited* model answers its conditions, so that nothing is asked of an edit that the model never knew. Scores of the
    unedited model are over the same tests.

    Attributes:
        axes: the tests' axes, which are the scores' names.
        overall: one more score, of all tests together; ``""`` has none.
        length: of the model's greedy continuation in tokens, in which all of a query's answers must occur, each in one of its forms (as RippleEdits'
            program reads it). ``None``: an answer has to come next, every token of it the argmax; of several answers one, as only one can.
        tests: of a case; its own ``tests`` by default.

    Raises:
        InputError: no axis, or a length below 1.

    Example:
        >>> import tl_knowledge as tlk
        >>> known = {"facts": tlk.load_facts(), "relations": tlk.datasets.load_relations()}
        >>> case = tlk.datasets.with_ripples(tlk.load_edit_cases(limit=39), **known)[38]
        >>> measure = tlk.evaluation.ripple_scores()
        >>> reading = measure.read(tlk.load_model("factlm"), case)
        >>> measure.scores(reading, reading)["ripple_relation_specificity"]
        100.0
    """

    axes: tuple[str, ...]
    overall: str = ""
    length: int | None = None
    tests: Callable[[EditCase], Sequence[EditTest]] = field(default=lambda case: case.tests, repr=False)

    def __post_init__(self) -> None:
        if not self.axes:
            raise InputError("there is no axis to score; pass the tests' axes, for example ('single_hop', 'multi_hop').")
        if self.length is not None and self.length < 1:
            raise InputError(f"length={self.length} writes nothing; pass at least 1, or None to read what comes next.")

    @property
    def name(self) -> str:
        """What the measure goes by."""
        return self.overall or self.axes[0]

    def of_case(self, case: EditCase) -> tuple[EditTest, ...]:
        """The case's tests on these axes."""
        return tuple(test for test in self.tests(case) if test.axis in self.axes)

    def read(self, model: HookedModel, case: EditCase) -> TestReading:
        """Which queries and conditions the model answers now."""
        tests = self.of_case(case)
        queries = list(dict.fromkeys(query for test in tests for query in (*test.queries, *test.conditions)))
        return TestReading(tests, dict(zip(queries, read_queries(model, queries, length=self.length), strict=True)))

    def scores(self, before: TestReading, after: TestReading) -> dict[str, float]:
        """The share of tests that are passed, by axis and of all."""
        passed: dict[str, list[bool]] = {axis: [] for axis in self.axes}
        for test in after.tests:
            if test.counts(before.said):
                passed[test.axis].append(test.passed(after.said))
        every = {self.overall: [each for of_axis in passed.values() for each in of_axis]} if self.overall else {}
        return {name: 100 * float(np.mean(each)) if each else float("nan") for name, each in (every | passed).items()}


def read_queries(model: HookedModel, queries: Iterable[Query], *, length: int | None = None) -> list[bool]:
    """Whether the model answers each query.

    Args:
        queries: prompts with their answers.
        length: as in `EditTestScores`.

    Raises:
        PromptError: a query that does not fit the model's context.
        TargetError: an answer that the tokenizer does not know.

    Example:
        >>> import tl_knowledge as tlk
        >>> model, queries = tlk.load_model("factlm"), [Query("The capital of France is", ((answer,),)) for answer in (" Paris", " Oslo")]
        >>> read_queries(model, queries), read_queries(model, queries, length=3)
        ([True, False], [True, False])
    """
    given = list(queries)
    prompts = [Prompt.from_text(model, query.text) for query in given]
    for prompt in prompts:
        check_fits(model, prompt)
    if length is not None:
        texts = continued(model, prompts, length)
        return [all(any(form.strip() in text for form in forms) for forms in query.answers) for query, text in zip(given, texts, strict=True)]
    asked = [(i, form) for i, query in enumerate(given) for forms in query.answers for form in forms]
    answers = read_answers(model, [(prompts[i], target_tokens(model, form)) for i, form in asked])
    said = {i for (i, _), answer in zip(asked, answers, strict=True) if answer.exact}
    return [i in said for i in range(len(given))]


@public
def subject_facts(facts: Iterable[Fact]) -> EditTestScores:
    """``subject_kept``: of the subject's other facts that the model says before the edit, the share that it still says.

    Other facts are those of other relations than the edit writes.

    Args:
        facts: what is known, for example ``load_facts("factlm")``.

    Raises:
        DataError: no fact.

    Example:
        >>> france = [Fact("France", "The capital of {} is", " Paris", "P36"), Fact("France", "The official language of {} is", " French", "P37")]
        >>> [test.queries[0].text for test in subject_facts(france).of_case(EditCase(france[0], " Rome", (), ()))]
        ['The official language of France is']
    """
    by_subject: dict[str, list[Fact]] = {}
    for fact in check_given(facts, "fact", "pass what is known, for example load_facts('factlm')"):
        by_subject.setdefault(fact.subject, []).append(fact)

    def tests(case: EditCase) -> list[EditTest]:
        written = {(fact.subject, fact.relation) for fact in case.writes} | {(case.fact.subject, case.fact.relation)}
        others = [fact for fact in by_subject.get(case.fact.subject, ()) if (fact.subject, fact.relation) not in written]
        queries = [Query(fact.text, ((fact.target,),)) for fact in others]
        return [EditTest(SUBJECT_KEPT, (query,), (query,)) for query in queries]

    return EditTestScores((SUBJECT_KEPT,), tests=tests)


@public
def ripple_scores(*, length: int | None = None) -> EditTestScores:
    """Logical neighbours of an edit along the six axes of RippleEdits (Cohen et al. 2024), and ``ripple``, all of their tests together.

    The cases bring the tests: `tl_knowledge.datasets.load_ripple_edits`, or `tl_knowledge.datasets.with_ripples` for any fact set. Tests are averaged
    within a case first, then over the cases that have one that counts, as in the published program. It leaves out edits that failed, which count
    here; ``report.table`` has them as rows with a ``reliability`` below 100.

    Args:
        length: as in `EditTestScores`. The published program looks in a text of as many tokens as the prompt has *characters* and 30 more, prompt
            included.

    Example:
        >>> ripple_scores().axes[0]
        'ripple_logical_generalization'
    """
    return EditTestScores(tuple(f"ripple_{axis}" for axis in RIPPLE_AXES), "ripple", length)


@public
def multi_hop_scores(*, length: int | None = None) -> EditTestScores:
    """MQuAKE's scores (Zhong et al. 2023): ``single_hop``, ``multi_hop`` and, for what has not moved, ``multi_hop_old``.

    ``single_hop``: the model says every fact of the new chain. ``multi_hop``: it answers one of the questions about its end (three wordings in the
    data set). ``multi_hop_old``: it still gives one of them the answer of the chain before the edit.

    The cases bring the tests: `tl_knowledge.datasets.load_mquake`, or `tl_knowledge.datasets.chained_edit_cases` for any fact set.

    Args:
        length: as in `EditTestScores`.

    Example:
        >>> multi_hop_scores().axes
        ('single_hop', 'multi_hop', 'multi_hop_old')
    """
    return EditTestScores(HOP_AXES, "", length)


@public
def portability_scores(*, length: int | None = None) -> EditTestScores:
    """Portability as KnowEdit has it (Zhang et al. 2024): ``portability`` and its kinds, by the tests of ``load_zsre(target="alternative")``.

    A prompt counts as answered when every token of the answer is the argmax; EasyEdit's program takes the mean share of such tokens.

    Args:
        length: as in `EditTestScores`.

    Example:
        >>> portability_scores().axes
        ('portability_reasoning', 'portability_logical_generalization', 'portability_subject_aliasing')
    """
    return EditTestScores(tuple(f"portability_{axis}" for axis in PORTABILITY_AXES), "portability", length)
