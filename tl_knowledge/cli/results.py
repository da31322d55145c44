"""How a command shows a result that is one table: printed, as a page, as CSV and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tl_knowledge as tlk
from tl_knowledge.cli.printing import frame_table, print_json, print_line, print_table, print_written, write_file

if TYPE_CHECKING:
    import pandas as pd

    from tl_knowledge.results.result import TableResult

__all__ = ["show_result"]


def show_result(
    result: TableResult,
    summary: pd.DataFrame,
    *,
    title: str,
    figures: Callable[[], Sequence[Any]],
    out: Path | None,
    table: Path | None,
    as_json: bool,
    form: str = ".3f",
    notes: Sequence[str] = (),
    scores: Sequence[str] = (),
) -> None:
    """Show a result.

    Args:
        summary: its few rows, for terminal and page.
        title: of the page.
        figures: what is drawn on the page, and whatever else stands there; made only for a page.
        out: the page.
        table: the CSV file.
        as_json: print JSON instead of text.
        form: of the summary's numbers.
        notes: what a reader must know of this run.
        scores: of edits that are shown; a page says what they are.
    """
    made: Any = result
    if table is not None:
        write_file(table, result.to_dataframe().to_csv(index=False, na_rep="NaN"))
    if out is not None:
        parts = [made.headline(), frame_table(summary, form), *map(tlk.drawing.note, notes), *figures(), *_definitions(scores)]
        write_file(out, tlk.drawing.html_page(title, [*parts, tlk.drawing.provenance_footer(made.provenance)]))
    if as_json:
        rows = {"rows": result.to_dataframe().to_dict(orient="records"), "summary": summary.to_dict(orient="records")}
        print_json(rows | {"notes": list(notes), "provenance": made.provenance.to_dict()})
        return
    print_line((made.headline(), "bold"))
    print_table(frame_table(summary, form))
    for line in notes:
        print_line(f"- {line}")
    print_written(table, "table")
    print_written(out)


def _definitions(scores: Sequence[str]) -> list[Any]:
    return [tlk.drawing.heading("What the scores are"), frame_table(tlk.evaluation.score_definitions(scores))] if scores else []
