"""One evaluation at work: edits batches of cases, and reads the model before and after."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

from more_itertools import chunked

from tl_knowledge.engine.progress import progress_bar
from tl_knowledge.evaluation.costs import EditCosts, Spent
from tl_knowledge.evaluation.generation import TextMeasure
from tl_knowledge.evaluation.measures import EditMeasure
from tl_knowledge.evaluation.report import EDITED_TEXTS, UNEDITED_TEXTS, EvaluationSettings
from tl_knowledge.evaluation.scores import Reading, case_scores, read_candidates
from tl_knowledge.models.ledger import has_written_edits, unedited_fingerprint
from tl_knowledge.models.protocol import HookedModel, prepends_bos
from tl_knowledge.prompts.facts import EditCase
from tl_knowledge.results.kept import kept_in
from tl_knowledge.runs.edits import AppliedEdit, EditPlanner
from tl_knowledge.runs.key_moments import KeyMoments

__all__ = ["EvaluationRun", "Measured"]

Measured: TypeAlias = tuple[int, list[dict[str, Any]]]
"""A number of edits, and the rows of their cases."""

Same: TypeAlias = dict[int, Any]
"""Readings by the place of their measure, of measures that read the same of every case."""

_base: WeakKeyDictionary[object, dict[tuple[str, bool, EditCase], Reading]] = WeakKeyDictionary()


@dataclass(frozen=True)
class EvaluationRun:
    """One evaluation: edits batches of cases, and reads the model before and after.

    Attributes:
        keep: the folder for what is optimised for edits that stay, so that a run that was killed need not do it again.
        keep_as: what its files' names begin with.
    """

    model: HookedModel
    method: EditPlanner[AppliedEdit]
    moments: KeyMoments | None
    settings: EvaluationSettings
    measures: tuple[EditMeasure, ...]
    progress: bool
    keep: Path | None = None
    keep_as: str = ""

    def rows(self, cases: Sequence[EditCase], first: int) -> list[dict[str, Any]]:
        """One row a case: its scores, and the unedited model's.

        Args:
            first: the number of the first case in the whole run.
        """
        base = self._unedited(cases)
        return self._rows(cases, first, base, self._after(cases))

    def checkpoints(self, cases: Sequence[EditCase], sizes: Sequence[int], wanted: Sequence[int]) -> Generator[Measured]:
        """The rows of the first so many cases with just these in the model, for one size after the other, in one pass of edits.

        A size that ends within a batch has this last, smaller batch taken back before the next size goes on, so that every size has the very
        edits that it would have by itself.

        Args:
            sizes: ascending.
            wanted: the sizes to measure.
        """
        base = self._unedited(cases[: max(wanted, default=0)])
        full = self.settings.batch_size
        with self._taken_back() as write:
            done, spent = 0, list[Spent]()
            for size in self._bar(sizes, "edits in the model"):
                if not any(other >= size for other in wanted):
                    return
                while done + full <= size:
                    spent += write(cases[done : done + full], done)
                    done += full
                with self._taken_back() as write_rest:
                    if size in wanted:
                        rest = write_rest(cases[done:size], done) if size > done else []
                        pairs = list(zip(cases[:size], spent + rest, strict=True))
                        same: Same = {}
                        after = [self._read(case, same, own) for case, own in self._bar(pairs, "measure")]
                        yield size, self._rows(cases[:size], 0, base[:size], after)

    def _unedited(self, cases: Sequence[EditCase]) -> list[list[Any]]:
        same: Same = {}
        return [self._read(case, same) for case in self._bar(cases, "unedited model")]

    def _rows(self, cases: Sequence[EditCase], first: int, base: Sequence[Sequence[Any]], after: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
        return [
            {"case_id": case.case_id or str(first + i), "subject": case.fact.subject, "relation": case.fact.relation, "target_new": case.target_new}
            | self._scores(base[i], after[i])
            | {f"base_{name}": value for name, value in self._scores(base[i], base[i]).items()}
            | self._texts(base[i], after[i])
            for i, case in enumerate(cases)
        ]

    def _after(self, cases: Sequence[EditCase]) -> list[list[Any]]:
        """What every measure reads of each case once it is edited."""
        batches = list(chunked(cases, self.settings.batch_size))
        if self.settings.protocol == "single":
            readings: list[list[Any]] = []
            for batch in self._bar(batches, "edit and measure"):
                with ExitStack() as stack:
                    spent, same = Spent(len(batch)), dict[int, Any]()
                    with spent.counted():
                        edit = self._plan(batch)
                        stack.enter_context(edit.applied(self.model))
                    spent.keeps(edit)
                    readings += [self._read(case, same, spent) for case in batch]
            return readings
        with self._taken_back() as write:
            all_spent = [own for number, batch in enumerate(self._bar(batches, "edit")) for own in write(batch, number * self.settings.batch_size)]
            same = dict[int, Any]()
            return [self._read(case, same, own) for case, own in self._bar(list(zip(cases, all_spent, strict=True)), "measure")]

    @contextmanager
    def _taken_back(self) -> Generator[Callable[[Sequence[EditCase], int], list[Spent]]]:
        """A function that plans and writes the edit of some cases, the first of them with its number, and says for each what was spent.

        All it wrote is taken back at the end, the last first.
        """
        written: list[AppliedEdit] = []

        def write(cases: Sequence[EditCase], first: int) -> list[Spent]:
            spent = Spent(len(cases))
            with spent.counted():
                edit = self._plan(cases, first)
                edit.write_into(self.model)
                written.append(edit)
            spent.keeps(edit)
            return [spent] * len(cases)

        try:
            yield write
        finally:
            for edit in reversed(written):
                edit.revert(self.model)

    def _plan(self, cases: Sequence[EditCase], first: int | None = None) -> AppliedEdit:
        """The edit of some cases.

        Args:
            first: the number of the first of them, where what is optimised for them is kept.
        """
        with kept_in(None if first is None else self.keep, f"{self.keep_as}{first}-{len(cases)}"):
            return self.method.plan(self.model, [fact for case in cases for fact in case.writes], self.moments)

    def _read(self, case: EditCase, same: Same, spent: Spent | None = None) -> list[Any]:
        """What every measure reads now, the candidates first.

        Args:
            same: what has been read of the model as it is now that is the same of every case; it grows.
            spent: on the case's edit; ``None`` on the unedited model.
        """
        for number, measure in enumerate(self.measures):
            if getattr(measure, "same_of_every_case", False) and number not in same:
                same[number] = measure.read(self.model, case)
        candidates = _base_reading(self.model, case) if spent is None else read_candidates(self.model, case)
        return [candidates, *(same[n] if n in same else self._read_measure(measure, case, spent) for n, measure in enumerate(self.measures))]

    def _read_measure(self, measure: EditMeasure, case: EditCase, spent: Spent | None) -> Any:
        return spent if isinstance(measure, EditCosts) and spent is not None else measure.read(self.model, case)

    def _scores(self, before: Sequence[Any], after: Sequence[Any]) -> dict[str, float]:
        scores = case_scores(before[0], after[0])
        for measure, old, new in zip(self.measures, before[1:], after[1:], strict=True):
            scores |= measure.scores(old, new)
        return scores

    def _texts(self, before: Sequence[Any], after: Sequence[Any]) -> dict[str, list[str]]:
        """What was generated, of the measures that generate: two columns of lists."""
        of_text = [(measure, i) for i, measure in enumerate(self.measures, start=1) if isinstance(measure, TextMeasure)]
        if not of_text:
            return {}
        readings = {UNEDITED_TEXTS: before, EDITED_TEXTS: after}
        return {name: [text for measure, i in of_text for text in measure.texts(reading[i])] for name, reading in readings.items()}

    def _bar(self, items: Sequence[Any], what: str) -> Iterable[Any]:
        return progress_bar(items, what=what, unit="case", progress=self.progress, leave=False)


def _base_reading(model: HookedModel, case: EditCase) -> Reading:
    """The candidates on the model as it is, read once for all methods; a model with edits written into it is read anew."""
    if has_written_edits(model):
        return read_candidates(model, case)
    readings, key = _base.setdefault(model, {}), (unedited_fingerprint(model), prepends_bos(model), case)
    if key not in readings:
        readings[key] = read_candidates(model, case)
    return readings[key]
