"""Editing methods by name on a model, and their reports: what every command that scores edits does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tl_knowledge as tlk
from tl_knowledge.cli.arguments import corpus_argument, store_of
from tl_knowledge.cli.loading import model_and_asked
from tl_knowledge.cli.methods import moments_argument, named_methods
from tl_knowledge.cli.printing import frame_table, print_json, print_line, print_table, print_written, write_file
from tl_knowledge.errors import InputError
from tl_knowledge.wording import counted

__all__ = ["Editors", "editors_argument", "method_names", "page_parts", "show_scores"]

WIDEST = 5
BETTER = (
    "Means over cases. Better: which way a good edit has the score; unchanged: the nearer to the unedited model's. A dash or an empty cell: no "
    "case has the score; no interval beside a mean: one case has it, of which nobody knows how far another would differ."
)


@dataclass(frozen=True)
class Editors:
    """Methods that are ready to edit.

    Attributes:
        model: the loaded model.
        asked: what drivers are asked with: the model, or its name for workers.
        methods: by what was typed.
        moments: for those that need them.
        running: ``runner``, ``workers`` and ``progress`` of drivers.
    """

    model: tlk.HookedModel
    asked: Any
    methods: dict[str, tlk.editing.EditMethod]
    moments: tlk.KeyMoments | None
    running: dict[str, Any]

    def reports(self, cases: Sequence[tlk.EditCase], store: Path | None, **settings: Any) -> list[tlk.EditReport]:
        """Every method's report on some cases, in the order of the methods."""
        shared: dict[str, Any] = {"moments": self.moments} | settings | self.running
        return [tlk.evaluate(self.asked, cases, method, store=store_of(store, name), **shared) for name, method in self.methods.items()]


def method_names(given: Sequence[str] | None, settings: Sequence[str] | None) -> list[str]:
    """The methods that were typed, ROME where none was.

    Raises:
        InputError: ``--setting`` with several methods.
    """
    names = list(given or ["rome"])
    if settings and len(names) > 1:
        raise InputError(f"--setting belongs to one method, but {len(names)} were given; write settings beside the name, as in rome:clamp=3.")
    return names


def editors_argument(
    model: str,
    names: Sequence[str],
    *,
    layer: Sequence[int] | None,
    setting: Sequence[str] | None,
    moments: Path | None,
    corpus: str | None,
    runner: str,
    workers: int,
    progress: bool,
) -> Editors:
    """Load the model, make the methods, and collect or read the moments that they need.

    Raises:
        InputError, DataError: as `corpus_argument`, `named_methods` and `moments_argument`.
    """
    corpus_name = corpus_argument(corpus, model)
    loaded, asked = model_and_asked(model, runner)
    methods = named_methods(loaded, names, layer, setting)
    there = moments_argument(loaded, list(methods.values()), moments, corpus_name, progress=progress)
    return Editors(loaded, asked, methods, there, {"runner": runner, "workers": workers, "progress": progress})


def show_scores(
    scores: tlk.evaluation.ScoreTable,
    reports: Sequence[tlk.EditReport],
    columns: Sequence[str],
    *,
    title: str,
    figures: Callable[[], Sequence[Any]],
    out: Path | None,
    table: Path | None,
    as_json: bool,
    in_terminal: Sequence[str] = (),
) -> None:
    """Show methods' scores beside the unedited model's.

    Args:
        columns: which scores; CounterFact's when there are none.
        title: of the page.
        figures: what is drawn on the page; made only for one.
        out: the page.
        table: a file, written by its ending.
        as_json: print JSON instead of text.
        in_terminal: which scores fit there, where it is not all of them.
    """
    if table is not None:
        write_file(table, _written(scores, table.suffix, columns))
    if out is not None:
        write_file(out, tlk.drawing.html_page(title, page_parts(scores, columns, figures())))
    if as_json:
        print_json(_as_data(scores, reports))
        return
    print_line((counted(scores.cases, "case"), "bold"), f" on {scores.model}; percent, {scores.interval_words}")
    print_table(_as_text(scores, columns or in_terminal))
    if missing := scores.missing_intervals(*(columns or in_terminal)):
        print_line(missing)
    print_written(table, "table")
    print_written(out)


def page_parts(scores: tlk.evaluation.ScoreTable, columns: Sequence[str], figures: Iterable[Any]) -> list[Any]:
    """What stands on a page of scores: how many cases, the table, the figures."""
    intro = f"{counted(scores.cases, 'case')}, {scores.model}: means in percent; intervals: {scores.interval_words}."
    meaning = [tlk.drawing.heading("What the scores are"), tlk.drawing.note(BETTER), frame_table(scores.definitions(*columns))]
    missing = scores.missing_intervals(*columns)
    return [intro, _as_text(scores, columns), *([tlk.drawing.note(missing)] if missing else []), *figures, *meaning]


def _as_text(scores: tlk.evaluation.ScoreTable, columns: Sequence[str]) -> tlk.drawing.Table:
    """One row a method; one row a score where they would not stand beside each other."""
    frame = scores.summary(*columns)
    frame = frame.rename(columns={name: scores.column_words(name) for name in map(str, frame.columns[1:])})
    return frame_table(frame.set_index("model").T.rename_axis("score").reset_index() if len(columns) > WIDEST else frame)


def _as_data(scores: tlk.evaluation.ScoreTable, reports: Sequence[tlk.EditReport]) -> dict[str, Any]:
    """Everything a program needs, as plain data."""
    rows = {name: {key: vars(score) for key, score in row.items()} for name, row in scores.rows.items()}
    return {"cases": scores.cases, "interval": scores.interval, "scores": rows, "provenance": [report.provenance.to_dict() for report in reports]}


def _written(scores: tlk.evaluation.ScoreTable, suffix: str, columns: Sequence[str]) -> str:
    if suffix == ".csv":
        return scores.to_dataframe(*columns).to_csv(index=False, na_rep="NaN")
    return (scores.to_latex(*columns) if suffix == ".tex" else scores.to_markdown(*columns)) + "\n"
