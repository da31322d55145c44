"""What is on the screen as files: a page that opens anywhere, and the numbers. Only what was computed already is written."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from tl_knowledge.circuits import Circuit
from tl_knowledge.drawing import PagePart, Table, heading, html_page, marked_prompt, markup, note, provenance_footer
from tl_knowledge.engine.batches import in_words
from tl_knowledge.errors import InputError
from tl_knowledge.explore.arrows import arrows_at
from tl_knowledge.explore.code import state_code
from tl_knowledge.explore.comparison import Comparison
from tl_knowledge.explore.details import CellDetails, HeadDetails, NeuronDetails
from tl_knowledge.explore.links import to_query
from tl_knowledge.explore.predictions import Prediction
from tl_knowledge.explore.session import ExplorerSession
from tl_knowledge.explore.state import ExplorerState
from tl_knowledge.results.plain_text import strict_json
from tl_knowledge.results.result import Result
from tl_knowledge.tracing import COMPONENT_WORDS, CausalTrace

__all__ = ["UNCHANGED", "changes_in_words", "export_data", "export_page", "plain_cells"]

SHOWN = 5
UNCHANGED = "The next tokens, the maps, the cell and the circuit are the unchanged model's: only Before and after has what is changed."
FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20", "\t", "\r", "\n")
"""What a cell begins with that spreadsheets compute."""


def changes_in_words(state: ExplorerState) -> tuple[str, ...]:
    """Everything that a tab has changed, a sentence each.

    Example:
        >>> changes_in_words(ExplorerState("Rome", suppressed=((1, 3),), knocked_out=((5, 2),)))
        ('neuron 3 of layer 1 suppressed', 'head 2 of layer 5 knocked out')
    """
    neurons = (f"neuron {unit} of layer {layer} suppressed" for layer, unit in state.suppressed)
    heads = (f"head {unit} of layer {layer} knocked out" for layer, unit in state.knocked_out)
    edits = (f"{edit.template.replace('{}', edit.subject)} → {edit.target_new.strip()} ({edit.method})" for edit in state.edits)
    return (*neurons, *heads, *edits)


def export_page(session: ExplorerSession, tab: str, state: ExplorerState) -> str:
    """A self-contained page of what was computed for a tab; every text of the tab stands in it as text.

    Raises:
        InputError: nothing was computed yet.
    """
    known = _known(session, tab, state)
    parts: list[PagePart] = []
    parts += _prediction(known["prediction"], state) if "prediction" in known else []
    parts += _comparisons(known["comparisons"], state) if "comparisons" in known else []
    parts += _traces([known[part] for part in state.components if part in known])
    parts += _cell(known["cell"]) if "cell" in known else []
    parts += _circuit(known["circuit"], state) if "circuit" in known else []
    parts += [note(words) for words in _missing(known, state)]
    parts += [heading("The same in Python"), markup(_WRAPPED, text=state_code(state, session.name, options=session.options))]
    parts += [note("What stands after # in the explorer's address:"), markup(_WRAPPED, text=to_query(state))]
    footer = next((result.provenance for result in known.values() if isinstance(result, CausalTrace | Circuit)), None)
    return html_page(state.prompt, parts if footer is None else [*parts, provenance_footer(footer)])


def export_data(session: ExplorerSession, tab: str, state: ExplorerState) -> bytes:
    """A zip file of what was computed for a tab: the state, the program, tables, and every result as its own ``save`` writes it.

    Raises:
        InputError: nothing was computed yet.
    """
    known = _known(session, tab, state)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive, tempfile.TemporaryDirectory() as folder:
        archive.writestr("state.json", strict_json({"model": session.name, "link": to_query(state), **asdict(state)}))
        archive.writestr("program.py", state_code(state, session.name, options=session.options))
        archive.writestr("READ_ME.txt", "\n".join([_READ_ME, *_missing(known, state)]))
        for name, values in (("prediction", known.get("prediction")), ("comparisons", known.get("comparisons"))):
            if values is not None:
                archive.writestr(f"{name}.json", strict_json([asdict(each) for each in values] if isinstance(values, tuple) else asdict(values)))
        for name, result in _results(known):
            archive.writestr(f"{name}.csv", plain_cells(result.to_dataframe()).to_csv(index=False))
            path = result.save(Path(folder) / name)
            archive.write(path, path.name)
    return packed.getvalue()


_READ_ME = """state.json        what the tab showed; "link" stands after # in the explorer's address
program.py        computes the same numbers
prediction.json   the next tokens
comparisons.json  before and after
*.csv             tables; a text that a spreadsheet would compute has an apostrophe before it
*.safetensors     results in full: tlk.CausalTrace.load(...) and so on
*.parquet         the same of results that are one table
"""


def _known(session: ExplorerSession, tab: str, state: ExplorerState) -> dict[str, Any]:
    known = session.known(tab, state)
    if not known:
        raise InputError("nothing was computed for this prompt yet, so there is nothing to keep; read or trace the prompt first.")
    return known


def _missing(known: dict[str, Any], state: ExplorerState) -> list[str]:
    """What belongs to the tab and is not there, in a sentence; a tab without a mark has no maps."""
    marked = state.subject is not None or state.relation is not None
    wanted = {part: f"the map of {COMPONENT_WORDS[part]}" for part in state.components if marked}
    wanted |= {"cell": "what is behind the clicked cell"} if wanted and state.cell is not None else {}
    wanted |= {"circuit": "the circuit"} if wanted and state.circuit else {}
    wanted |= {"comparisons": "before and after"} if state.edits or state.suppressed or state.knocked_out or state.further else {}
    missing = [words for name, words in ({"prediction": "the next tokens"} | wanted).items() if name not in known]
    return [f"Not there when this was saved, as it was not finished, failed or was cancelled: {', '.join(missing)}."] if missing else []


def _results(known: dict[str, Any]) -> Iterator[tuple[str, Result]]:
    """Everything that is a result of its own, by the name of its file."""
    for name, value in known.items():
        if isinstance(value, Result):
            yield name, value
        elif isinstance(value, HeadDetails):
            yield "cell_heads", value.heads
        elif isinstance(value, NeuronDetails):
            yield "cell_neurons", value.neurons
            yield from [] if value.words is None else [("cell_words", value.words)]
        elif name == "cell":
            yield "cell_lens", value.lens


def plain_cells(table: pd.DataFrame) -> pd.DataFrame:
    """A table whose texts no spreadsheet computes: an apostrophe stands before those that it would."""
    return table.map(lambda value: f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value)


def _prediction(prediction: Prediction, state: ExplorerState) -> list[PagePart]:
    spans = {name: range(*span) for name, span in (("subject", state.subject), ("relation", state.relation)) if span is not None}
    rows = [(repr(each.text), f"{each.probability:.2%}") for each in prediction.top]
    return [
        marked_prompt(prediction.labels, spans, prediction.target),
        f"P({prediction.target.strip()!r}) = {prediction.probability:.2%}; {_rank(prediction.rank)}.",
        Table(("next token", "probability"), rows),
    ]


def _rank(rank: int) -> str:
    return "the prediction" if rank == 0 else f"{rank} token{' is' if rank == 1 else 's are'} likelier"


def _comparisons(comparisons: Sequence[Comparison], state: ExplorerState) -> list[PagePart]:
    changes = changes_in_words(state)
    if not changes:
        return []
    rows = [(each.text, in_words(_top(each.before)), in_words(_top(each.after)), "; ".join(_moved(each))) for each in comparisons]
    said = markup("<ul>{% for change in changes %}<li>{{ change }}</li>{% endfor %}</ul>", changes=changes)
    read = [markup(_WRAPPED, text=each.read) for each in comparisons if each.read]
    return [heading("Before and after"), said, Table(("prompt", "before", "after", "answers"), rows), *read, note(UNCHANGED)]


def _top(prediction: Prediction) -> list[tuple[str, float]]:
    return [(each.text, each.probability) for each in prediction.top[:SHOWN]]


def _moved(comparison: Comparison) -> Iterator[str]:
    return (f"{each.answer.strip()}: {each.before:.1%} → {each.after:.1%}" for each in comparison.answers)


def _traces(traces: Sequence[CausalTrace]) -> list[PagePart]:
    if not traces:
        return []
    what = "Each cell restores one clean activation in the corrupted run: strongly coloured cells are sites through which the information passes."
    return [heading("Where the information is"), what, *(trace.plot() for trace in traces)]


def _cell(cell: CellDetails) -> list[PagePart]:
    _, layer, pos = cell.cell
    parts: list[PagePart] = [heading(f"Layer {layer} at {cell.labels[pos].strip()!r}"), cell.plot()]
    if isinstance(cell, HeadDetails):
        attention = cell.plot_attention()
        return [*parts, "Each head, restored alone at that token.", *([cell.missing] if attention is None else [attention, _READ_ROWS])]
    if isinstance(cell, NeuronDetails):
        return [*parts, f"Each neuron, restored alone at that token: {_MEASURED}", *([cell.missing] if cell.words is None else [cell.words.plot()])]
    return [*parts, "What the model would say of the answer if it stopped at a layer."]


_WRAPPED = "<pre style='white-space: pre-wrap; overflow-wrap: anywhere'><code>{{ text }}</code></pre>"
_READ_ROWS = "Along a row: the share of its attention that a token gives to each token before it."
_MEASURED = "the largest effects are measured, the others estimated to first order."


def _circuit(circuit: Circuit, state: ExplorerState) -> list[PagePart]:
    parts: list[PagePart] = [heading("The circuit"), f"{circuit.headline()}. Arrows are as wide as what they carry.", circuit.plot()]
    arrows = () if state.cell is None else arrows_at(circuit, state.cell)
    rows = [("hears" if arrow.into else "passes on to", arrow.other, f"{arrow.weight:+.3f}", f"{arrow.need:+.3f}") for arrow in arrows]
    return [*parts, heading("The clicked site in it", 3), Table(("", "site", "carries", "lost when cut"), rows)] if rows else parts
