"""I edited one fact. What else changed? Every question of a case, asked of the model before and after one edit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from more_itertools import always_iterable
from typing_extensions import override

from tl_knowledge.door import public
from tl_knowledge.drawing import slope_chart
from tl_knowledge.engine.batches import in_words, likeliest_next
from tl_knowledge.errors import InputError
from tl_knowledge.evaluation.costs import EditCosts
from tl_knowledge.evaluation.edit_tests import EditTestScores, TestReading
from tl_knowledge.evaluation.measures import EditMeasure
from tl_knowledge.evaluation.run_key import measure_name
from tl_knowledge.evaluation.table import MOVED
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.edit_tests import EditTest, Query
from tl_knowledge.prompts.facts import EditCase
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.results.provenance import Provenance, provenance_of
from tl_knowledge.results.result import TableResult
from tl_knowledge.results.statistics import share_interval
from tl_knowledge.runs.edits import AppliedEdit

__all__ = ["Consequences", "measure_consequences"]

_MOVES = {1: "newly said", 0: "", -1: "no longer said"}


@dataclass(frozen=True, eq=False)
class Consequences(TableResult):
    """What one edit moved: one row a question.

    Attributes:
        table: ``axis question wordings answer before after counts said_before said_after moved``: a question in one of its ``wordings`` (one that is
            answered, where there is one), what should be said, the likeliest tokens before and after; whether it counts (the unedited model meets its
            conditions); whether the answer is said before and after, in any wording; and ``moved``, the difference: -1, 0 or 1.
        scores: the measures that ask nothing (perplexities, ranks, ...), each before and after.
        fact: what was edited.
        target_new: its new object.
        method: which kind of edit it was.
        measures: their names.
        provenance: the model, the versions.
    """

    ranked_by: ClassVar[str] = "moved"
    either_sign: ClassVar[bool] = True
    table: pd.DataFrame
    scores: dict[str, tuple[float, float]]
    fact: str
    target_new: str
    method: str
    measures: tuple[str, ...]
    provenance: Provenance

    @override
    def headline(self) -> str:
        counted = self.table[self.table["counts"]]
        lost, won = ((counted["moved"] == sign).sum() for sign in (-1, 1))
        asked = f"{len(counted)} question{'s' * (len(counted) != 1)}"
        return f"{self.method}: {self.fact}{self.target_new}; of {asked}, {won} newly answered and {lost} no longer; {self.provenance.model}"

    @override
    def summary(self) -> pd.DataFrame:
        """One row a kind of question, then one a measure: ``moved questions unedited edited low high``.

        Of questions, the percent of those that count whose answer is said, and the ends of Wilson's 95% interval over them; of measures, their
        values.
        """
        rows: list[dict[str, Any]] = []
        for axis, group in self.table[self.table["counts"]].groupby("axis", sort=False):
            said, n = int(group["said_after"].sum()), len(group)
            low, high = share_interval(said, n)
            shares = {"unedited": 100 * float(group["said_before"].mean()), "edited": 100 * said / n, "low": 100 * low, "high": 100 * high}
            rows.append({"moved": str(axis), "questions": n} | shares)
        for name, (before, after) in self.scores.items():
            rows.append({"moved": name, "questions": 0, "unedited": before, "edited": after, "low": float("nan"), "high": float("nan")})
        return pd.DataFrame(rows)

    def questions(self) -> pd.DataFrame:
        """The questions that count, in words: ``kind question answer before after moved``."""
        counted = self.table[self.table["counts"]]
        asked = [f"{text} (in {n} wordings)" if n > 1 else text for text, n in zip(counted["question"], counted["wordings"], strict=True)]
        words = {"kind": [MOVED.get(axis, axis) for axis in counted["axis"]], "question": asked}
        moved = [_MOVES[sign] for sign in counted["moved"].tolist()]
        return pd.DataFrame(words | {name: counted[name].tolist() for name in ("answer", "before", "after")} | {"moved": moved})

    def plot(self) -> go.Figure:
        """A line a kind of question, from the unedited model (open) to the edited one (filled), with Wilson's interval over its questions."""
        frame = self.summary()
        shares = frame[frame["questions"] > 0]
        return slope_chart(
            [f"{MOVED.get(axis, axis)} (n = {n})" for axis, n in zip(shares["moved"], shares["questions"], strict=True)],
            shares["unedited"].tolist(),
            {self.method: list(zip(shares["edited"], shares["low"], shares["high"], strict=True))},
            title=f"What one edit moved: {self.fact}{self.target_new}",
            subtitle=f"{self.method}; open: unedited, filled: edited; n questions of one edit; {self.provenance.model}; 95% Wilson over questions",
            value_axis="questions answered so (percent)",
        )


@public
def measure_consequences(model: AnyModel, case: EditCase, edit: AppliedEdit, *, measures: EditMeasure | Sequence[EditMeasure] = ()) -> Consequences:
    """Ask everything that a case knows of, before and after one edit; the model is left as it was.

    Asked are what the edit writes (``reliability``), its paraphrases (``generality``), its neighbours (``NA``), the case's tests, and the tests of
    measures such as `subject_facts`. Other measures give their scores. One edit says nothing about the next: for means over edits with intervals
    use `evaluate`.

    Args:
        case: of the edit, for example one of `tl_knowledge.datasets.with_ripples`.
        edit: what ``plan_edit(model, case.rewrite, method)`` returns.
        measures: for example ``[subject_facts(facts), ExtractionAttacks()]``.

    Raises:
        InputError: a measure of what planning costs, which is over when there is an edit; or an edit of other facts, where it notes which those are.
        ModelStateError: the edit is in the model already, or was planned for other weights.

    Example:
        >>> import tl_knowledge as tlk
        >>> model, case = tlk.load_model("factlm"), tlk.load_edit_cases()[0]
        >>> edit = tlk.plan_edit(model, case.rewrite, tlk.FineTune.for_model(model), progress=False)
        >>> moved = tlk.evaluation.measure_consequences(model, case, edit, measures=tlk.evaluation.subject_facts(tlk.load_facts()))
        >>> moved.table.groupby("axis", sort=False)["said_before"].sum().to_dict()
        {'reliability': 0, 'generality': 0, 'NA': 5, 'subject_kept': 1}
        >>> moved.table["moved"].tolist()[:3]
        [1, 1, 1]
    """
    model, given = as_model(model), tuple(always_iterable(measures, EditMeasure))
    if any(isinstance(measure, EditCosts) for measure in given):
        raise InputError("EditCosts counts what planning an edit costs, and this one is planned; pass it to evaluate(measures=...).")
    _check_about(case, edit)
    check_not_written = getattr(edit, "check_not_written", None)
    if check_not_written is not None:
        check_not_written(model)
    asked = _asked(case, given)
    others = [measure for measure in given if not isinstance(measure, EditTestScores)]
    before = _read(model, case, asked, others)
    with edit.applied(model):
        after = _read(model, case, asked, others)
    scores: dict[str, tuple[float, float]] = {}
    for measure, old, new in zip(others, before.others, after.others, strict=True):
        unedited, edited = measure.scores(old, old), measure.scores(old, new)
        scores |= {name: (float(unedited[name]), float(value)) for name, value in edited.items() if np.isfinite((unedited[name], value)).all()}
    return Consequences(
        pd.DataFrame(list(_rows(before, after))),
        scores,
        case.fact.text,
        case.target_new,
        str(getattr(edit, "method", type(edit).__name__)),
        tuple(map(measure_name, given)),
        provenance_of(model, engine="teacher forcing"),
    )


def _check_about(case: EditCase, edit: AppliedEdit) -> None:
    """Refuse an edit whose notes name every fact that it writes, and not the case's; those of gradient methods name none or only subjects.

    Raises:
        InputError: it is of other facts.
    """
    notes, wanted = getattr(edit, "notes", ()), case.rewrite
    if not notes or not all("subject" in note for note in notes):
        return
    subject, target = wanted.subject, wanted.target.strip()
    if not any(note["subject"] == subject and str(note.get("target", target)).strip() == target for note in notes):
        first = notes[0]
        about = f"{first['subject']!r}" + (f" to {first['target']!r}" if "target" in first else "") + (" and others" if len(notes) > 1 else "")
        raise InputError(
            f"the case edits {subject!r} to {wanted.target!r}, but this edit is of {about}; pass the case that it was planned for, or "
            "plan_edit(model, case.writes, method)."
        )


@dataclass(frozen=True)
class _Reading:
    """A model's answers: to the tests of each `EditTestScores`, what it says after every query, and the other measures' readings."""

    answered: list[TestReading]
    likeliest: dict[Query, str]
    others: list[Any]


def _asked(case: EditCase, measures: Sequence[EditMeasure]) -> list[EditTestScores]:
    """What reads a case's tests: its own and what it writes, and the measures' own, each test once."""
    own = [measure for measure in measures if isinstance(measure, EditTestScores)]
    taken = {test for measure in own for test in measure.of_case(case)}
    rest = tuple(test for test in dict.fromkeys((*_of_the_edit(case), *case.tests)) if test not in taken)
    return [EditTestScores(tuple(dict.fromkeys(test.axis for test in rest)), tests=lambda _: rest), *own]


def _of_the_edit(case: EditCase) -> Iterator[EditTest]:
    """What the edit writes, in its words and in others, and the neighbours as they were."""
    for fact in case.writes:
        yield EditTest("reliability", (Query(fact.text, ((fact.target,),)),))
    for fact in case.paraphrases:
        yield EditTest("generality", (Query(fact.text, ((case.target_new,),)),))
    for near in case.neighbourhood:
        yield EditTest("NA", (Query(near.text, ((near.target,),)),))


def _read(model: HookedModel, case: EditCase, asked: Sequence[EditTestScores], others: Sequence[EditMeasure]) -> _Reading:
    answered = [measure.read(model, case) for measure in asked]
    queries = dict.fromkeys(query for reading in answered for test in reading.tests for query in test.queries)
    likeliest = {query: in_words(likeliest_next(model, Prompt.from_text(model, query.text), [])) for query in queries}
    return _Reading(answered, likeliest, [measure.read(model, case) for measure in others])


def _telling(test: EditTest, *readings: TestReading) -> Query:
    """The query that decides a test: one that is answered, or of tests that ask for all of them one that is not; the first where none does."""
    return next((query for reading in readings for query in test.queries if reading.said[query] is not test.every), test.queries[0])


def _rows(before: _Reading, after: _Reading) -> Iterator[dict[str, Any]]:
    """One row a test, each once."""
    seen = set[EditTest]()
    for old, new in zip(before.answered, after.answered, strict=True):
        for test in old.tests:
            if test in seen:
                continue
            seen.add(test)
            shown = _telling(test, new, old)
            said_before, said_after = test.passed(old.said), test.passed(new.said)
            yield {
                "axis": test.axis,
                "question": shown.text,
                "wordings": len(test.queries),
                "answer": ", ".join(forms[0].strip() for forms in shown.answers),
                "before": before.likeliest[shown],
                "after": after.likeliest[shown],
                "counts": test.counts(old.said),
                "said_before": said_before,
                "said_after": said_after,
                "moved": int(said_after) - int(said_before),
            }
