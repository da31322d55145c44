"""One self-contained HTML page for the traces of one prompt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from more_itertools import chunked

from tl_knowledge.door import public
from tl_knowledge.drawing import PagePart, Table, heading, html_page, marked_prompt, provenance_footer
from tl_knowledge.errors import InputError, check_given
from tl_knowledge.models.hook_names import unit_word
from tl_knowledge.runs.metric import PROBABILITY
from tl_knowledge.tracing.comparison import check_one_metric, compare
from tl_knowledge.tracing.result import CausalTrace
from tl_knowledge.wording import counted

__all__ = ["SUMMARY_HEADER", "summary_rows", "trace_page"]

SUMMARY_HEADER = ("corrupted", "restored", "total effect", "largest at last subject token", "largest anywhere")

_HOW_TO_READ = """Noise on the embeddings of the corrupted tokens (bold, with an asterisk) makes the model lose the answer. Each cell
then restores one clean activation, at that token and layer, and shows {}. A cell in full colour is a site
through which the information passes: early and at the corrupted tokens, where it is looked up; late and at the last token, where it is read
out.
A cell of the background's own colour has no effect; a brown one takes from the answer; a crossed one was not measured.
Cells left of and above the corrupted tokens are exactly zero, because nothing differs there."""


@public
def summary_rows(traces: Sequence[CausalTrace]) -> list[tuple[str, ...]]:
    """One row of text a trace, under `SUMMARY_HEADER`.

    Raises:
        DataError: no trace.
        ComponentError: traces of different metrics.
    """
    return [
        (
            trace.corrupted.name,
            trace._restored(),
            f"{float(trace.total_effect.mean()):.3f}",
            _best(trace, [trace.spans["subject"].last] if "subject" in trace.spans else [], with_token=False),
            _best(trace, range(len(trace.labels)), with_token=True),
        )
        for trace in _of_one_metric(traces)
    ]


def _of_one_metric(traces: Sequence[CausalTrace]) -> tuple[CausalTrace, ...]:
    given = check_given(traces, "trace")
    check_one_metric(given)
    return given


def _what_comes_back(trace: CausalTrace) -> str:
    if trace.metric == PROBABILITY:
        return "how much of the answer's probability comes back"
    return f"by how much {trace.metric.of_answer(trace.target)} rises"


def _best(trace: CausalTrace, positions: Iterable[int], *, with_token: bool) -> str:
    """The largest effect at some positions, its share of the total effect, and where."""
    sites = trace.top(trace.mean_effect.numel()).query("pos in @wanted", local_dict={"wanted": list(positions)})
    if sites.empty:
        return "-"
    best = sites.iloc[0]
    unit = f" {unit_word(trace.component)} {best[unit_word(trace.component)]}" if trace.units else ""
    token = f" {best['token'].strip()!r}" if with_token else ""
    return f"{best['effect']:.3f} ({best['share']:.0%}){token} layer {best['layer']}{unit}"


@public
def trace_page(traces: Sequence[CausalTrace], *, columns: int = 2) -> str:
    """Prompt, table, heat maps, how to read them, and provenance; opens offline.

    Args:
        traces: traces of one prompt.
        columns: heat maps in a row.

    Raises:
        DataError: no trace.
        InputError: less than one column.
        ComponentError: traces of different metrics.
    """
    if columns < 1:
        raise InputError(f"columns={columns} leaves no place for a heat map; pass at least 1.")
    first = _of_one_metric(traces)[0]
    return html_page(
        "Causal trace",
        [
            marked_prompt(first.labels, first.spans, first.target),
            f"The clean run of {first.provenance.model} {'predicts it' if first.known else 'does not predict it'}: "
            f"P({first.target.strip()!r}) = {first.clean_probability:.1%}. {counted(first.settings.samples, 'noise sample')}.",
            *([] if first.metric == PROBABILITY else [f"Effects are measured in {first.metric} ({first.metric.measured_in})."]),
            Table(SUMMARY_HEADER, summary_rows(traces)),
            heading("Where restoring helps"),
            _HOW_TO_READ.format(_what_comes_back(first)),
            *_figures(traces, columns),
            provenance_footer(first.provenance),
        ],
    )


def _figures(traces: Sequence[CausalTrace], columns: int) -> list[PagePart]:
    """Bars of neurons, then heat maps of everything else, some beside each other."""
    figures: list[PagePart] = [trace.plot() for trace in traces if trace.component == "neuron"]
    maps = [trace for trace in traces if trace.component != "neuron"]
    for row in chunked(maps, columns):
        figures.append(compare(*row).plot() if len(row) > 1 else row[0].plot())
    return figures
