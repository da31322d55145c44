"""What there is of results, as parts of the page: words, tables, and the package's own figures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import plotly.graph_objects as go
from dash import dcc, html

from tl_knowledge.circuits import Circuit
from tl_knowledge.drawing import dark, head_of, without_head
from tl_knowledge.explore.arrows import arrows_at
from tl_knowledge.explore.comparison import Comparison
from tl_knowledge.explore.details import CellDetails, HeadDetails, NeuronDetails
from tl_knowledge.explore.keys import key_text
from tl_knowledge.explore.page.attributes import attributes
from tl_knowledge.explore.page.layout import COMPONENT_NAMES
from tl_knowledge.explore.predictions import Prediction
from tl_knowledge.explore.state import Cell, ExplorerState
from tl_knowledge.results.plain_text import printable
from tl_knowledge.tracing import CausalTrace
from tl_knowledge.wording import counted

__all__ = [
    "active_changes",
    "circuit_parts",
    "comparison_table",
    "figure_part",
    "prediction_bars",
    "prompt_mark",
    "site_parts",
    "token_buttons",
    "trace_map",
]

SIDE = 12  # pixels left and right of a figure
_CONFIG: Any = {"displayModeBar": False, "responsive": True, "typesetMath": False}


def token_buttons(labels: Sequence[str], state: ExplorerState, *, has_bos: bool) -> list[html.Button]:
    """The prompt's tokens, in the colours of their roles."""
    first = 1 if has_bos else 0
    of = prompt_mark(state.prompt)
    return [_token(pos, label, _role(state, pos), of) for pos, label in enumerate(labels) if pos >= first]


def prompt_mark(prompt: str) -> str:
    """A short name of a prompt, by which a click on a token says of which one it is."""
    return key_text((prompt,))


def _role(state: ExplorerState, pos: int) -> str:
    for role in ("subject", "relation"):
        span = getattr(state, role)
        if span is not None and span[0] <= pos < span[1]:
            return role
    return ""


def _token(pos: int, text: str, role: str, of: str) -> html.Button:
    shown = printable(text).replace("\n", "\\n")
    label = f"token {pos}: {shown}{', ' + role if role else ''}"
    said = attributes(data_pos=str(pos), data_of=of, aria_pressed="true" if role else "false", aria_label=label)
    return html.Button(shown or " ", className=role, type="button", title=f"token {pos}", **said)


def prediction_bars(prediction: Prediction) -> list[Any]:
    """The likeliest next tokens as bars, and where the answer stands."""
    bars: list[Any] = []
    for each in prediction.top:
        share = f"{each.probability:.1%}"
        bar = html.Div(html.Div(className="fill", style={"width": f"{100 * each.probability:.2f}%"}), className="track")
        bars += [html.Span(printable(each.text).replace("\n", "\\n"), className="name"), bar, html.Span(share, className="share")]
    bos = " The model puts BOS before the prompt." if prediction.has_bos else ""
    words = f"The bars are the probabilities of the {counted(len(prediction.top), 'likeliest next token')}.{bos}"
    asked = f"Answer {prediction.target!r}: {prediction.probability:.1%}, number {prediction.rank + 1} of all tokens." if prediction.given else ""
    parts: list[Any] = [html.H3("What comes next"), html.Div(bars, className="bars"), html.P(f"{asked} {words}", className="hint")]
    return [*parts, html.Div(prediction.hint, className="sentence-of-error")] if prediction.hint else parts


def figure_part(figure: go.Figure, name: Any, *, night: bool, words: str = "") -> html.Div:
    """A figure of this package in the width that there is, its title and subtitle as text above it, and a sentence under it."""
    (title, subtitle), layout = head_of(figure), without_head(figure)
    figure = dark(figure) if night else go.Figure(figure)
    margin = layout["margin"] | {"l": SIDE, "r": SIDE}  # the labels' room comes by itself
    figure.update_layout(title=None, width=None, height=None, autosize=True, margin=margin, paper_bgcolor="rgba(0,0,0,0)")
    figure.update_yaxes(automargin=True)
    figure.update_xaxes(automargin=True)
    graph = dcc.Graph(id=name, figure=figure, config=_CONFIG, style={"width": "100%", "height": f"{layout['height']}px"})
    heading = [html.H3(title), html.P(subtitle, className="hint")]
    return html.Div([*heading, graph, *([html.P(words, className="hint")] if words else [])])


@lru_cache(maxsize=64)
def trace_map(trace: CausalTrace, *, night: bool) -> html.Div:
    """The map of a component; its cells can be clicked."""
    return figure_part(trace.plot(), {"type": "map", "component": trace.component}, night=night, words=_most(trace))


def _most(trace: CausalTrace) -> str:
    """Where most comes back, in a sentence."""
    best = trace.top(1).to_dict("records")
    if not best or not float(best[0]["effect"]) > 0:
        return "Restoring one of them brings nothing back, at no token and no layer."
    pos, layer, effect = int(best[0]["pos"]), int(best[0]["layer"]), float(best[0]["effect"])
    total = float(trace.total_effect.mean())
    lost = f" of the {total:.3f} that the corruption takes away" if total > 0 else ", although the corruption takes nothing away"
    where = f"token {pos} ({_shown(trace.labels[pos])}), layer {layer}"
    return f"Most comes back at {where}: {effect:.3f} ({trace.metric.measured_in}){lost}. Click a cell to look into it."


def _shown(label: str) -> str:
    return repr(printable(label))


def site_parts(details: CellDetails, state: ExplorerState, *, night: bool) -> list[Any]:
    """What lies behind a cell."""
    component, layer, pos = details.cell
    where = f"{COMPONENT_NAMES[component]}, layer {layer}, token {pos} ({_shown(details.labels[pos])})"
    parts: list[Any] = [html.H3(where[0].upper() + where[1:])]
    if isinstance(details, HeadDetails):
        return [*parts, *_heads(details, state, night=night)]
    if isinstance(details, NeuronDetails):
        return [*parts, *_neurons(details, state, night=night)]
    says, probability, rank = details.says
    words = f"Read through the unembedding, this state says {_shown(says)}; the answer has {probability:.1%} there and is number {rank + 1}."
    return [
        *parts,
        html.P(words),
        _site_figure(details, "Each cell: the answer's probability if the model stopped there.", night=night),
    ]


@lru_cache(maxsize=32)
def _site_figure(details: CellDetails, words: str, *, night: bool) -> html.Div:
    """Drawn once, however often its heads or neurons are switched off and on."""
    return figure_part(details.plot(), "site-figure", night=night, words=words)


def _heads(details: HeadDetails, state: ExplorerState, *, night: bool) -> list[Any]:
    units = [(layer, head) for layer, head, _ in details.units]
    rows = [_unit_row("knocked_out", layer, head, effect, "", state) for layer, head, effect in details.units]
    parts: list[Any] = [
        _site_figure(details, "The longest bar is the head through which most comes back at this token.", night=night),
        _unit_table("head", rows, words=False),
        _all_button("knocked_out", units, state, "heads of this layer"),
    ]
    if details.pattern is None:
        return [*parts, html.P(details.missing, className="hint")]
    return [*parts, _attention_figure(details, night=night)]


@lru_cache(maxsize=32)
def _attention_figure(details: HeadDetails, *, night: bool) -> html.Div:
    attention = details.plot_attention()
    assert attention is not None
    return figure_part(attention, "attention-figure", night=night, words="Read along a row: from where that token takes what it needs.")


def _neurons(details: NeuronDetails, state: ExplorerState, *, night: bool) -> list[Any]:
    said = _words_of(details)
    units = [(layer, neuron) for layer, neuron, _ in details.units]
    rows = [_unit_row("suppressed", layer, neuron, effect, said.get((layer, neuron), ""), state) for layer, neuron, effect in details.units]
    parts: list[Any] = [
        _site_figure(details, "The longest bars are the neurons through which most comes back at this token.", night=night),
        _unit_table("neuron", rows, words=bool(said)),
        _all_button("suppressed", units, state, "neurons shown"),
    ]
    return [*parts, html.P(details.missing, className="hint")] if details.missing else parts


def _words_of(details: NeuronDetails) -> dict[tuple[int, int], str]:
    """What each neuron makes likelier, by layer and neuron."""
    rows = [] if details.words is None else details.words.summary().to_dict("records")
    return {(int(row["layer"]), int(row["neuron"])): printable(str(row["promotes"])) for row in rows}


def _unit_row(kind: str, layer: int, unit: int, effect: float, words: str, state: ExplorerState) -> html.Tr:
    off = (layer, unit) in getattr(state, kind)
    verb = {"suppressed": "suppress", "knocked_out": "knock out"}[kind]
    name = {"type": "unit", "kind": kind, "layer": layer, "unit": unit}
    button = html.Button("switch on again" if off else verb, id=name, **attributes(aria_pressed=str(off).lower()))
    cells = [html.Td(str(unit)), html.Td(f"{effect:.4f}", className="number")]
    return html.Tr([*cells, *([html.Td(html.Span(words, className="words"))] if words else []), html.Td(button)])


def _unit_table(unit: str, rows: list[html.Tr], *, words: bool) -> html.Div:
    header = [html.Th(unit), html.Th("effect", className="number"), *([html.Th("makes likelier")] if words else []), html.Th("")]
    return html.Div(html.Table([html.Thead(html.Tr(header)), html.Tbody(rows)]), className="table")


def _all_button(kind: str, units: list[tuple[int, int]], state: ExplorerState, what: str) -> html.Button:
    off = bool(units) and set(units) <= set(getattr(state, kind))
    verb = {"suppressed": "Suppress", "knocked_out": "Knock out"}[kind]
    name = {"type": "units", "kind": kind, "units": ",".join(f"{layer}.{unit}" for layer, unit in units)}
    return html.Button(f"Switch the {len(units)} {what} on again" if off else f"{verb} the {len(units)} {what}", id=name)


def active_changes(state: ExplorerState) -> list[Any]:
    """Chips of what is changed in this tab."""
    named = [("edits", [f"{edit.method}: {edit.template.replace('{}', edit.subject)} → {edit.target_new!r}" for edit in state.edits])]
    named.append(("suppressed", [f"neuron {unit} of layer {layer} suppressed" for layer, unit in state.suppressed]))
    named.append(("knocked_out", [f"head {unit} of layer {layer} knocked out" for layer, unit in state.knocked_out]))
    chips = [_chip(kind, number, words) for kind, each in named for number, words in enumerate(each)]
    return [html.Div(chips, className="chips")] if chips else [html.P("Nothing is changed in this tab.", className="hint")]


def _chip(kind: str, number: int, words: str) -> html.Span:
    button = html.Button(
        "\N{MULTIPLICATION SIGN}",
        id={"type": "drop", "kind": kind, "number": number},
        title="take this off",
        **attributes(aria_label=f"take off: {words}"),
    )
    return html.Span([html.Span(printable(words)), button], className="chip")


def comparison_table(compared: Sequence[Comparison]) -> list[Any]:
    """Every prompt before and after, side by side."""
    words = "Probabilities of each answer's first token, without and with all that is changed in this tab; beside them the likeliest five tokens."
    return [*map(_comparison, compared), html.P(words, className="hint")]


def _comparison(each: Comparison) -> html.Div:
    header = [html.Th("answer"), html.Th("before", className="number"), html.Th("after", className="number")]
    rows = [html.Tr([html.Td(_shown(change.answer)), *(_share(value) for value in (change.before, change.after))]) for change in each.answers]
    table = html.Table([html.Thead(html.Tr(header)), html.Tbody(rows)])
    says = [html.Div([html.B(f"says {when}"), *_says(said)]) for when, said in (("before", each.before), ("after", each.after))]
    read = [html.Div(printable(each.read), className="words hint read")] if each.read else []
    asked = html.Div(printable(each.text), className="words asked")
    return html.Div([asked, html.Div([table, *says], className="beside"), *read], className="comparison")


def _share(value: float) -> html.Td:
    return html.Td(f"{value:.1%}", className="number")


def _says(prediction: Prediction) -> list[Any]:
    return [html.Div(f"{printable(each.text)} {each.probability:.1%}", className="words") for each in prediction.top[:5]]


def circuit_parts(circuit: Circuit, cell: Cell | None, *, night: bool) -> list[Any]:
    """The circuit of a prompt, and what the clicked site hears and passes on in it."""
    words = (
        f"{counted(len(circuit.nodes), 'site')}; together they explain {circuit.faithfulness:.0%} of the effect. "
        "An arrow is what one site hands on to another: the thicker, the more."
    )
    parts: list[Any] = [_circuit_figure(circuit, words, night=night)]
    arrows = () if cell is None else arrows_at(circuit, cell)
    if not arrows:
        return parts
    header = [html.Th(""), html.Th("site"), html.Th("carries", className="number"), html.Th("lost when cut", className="number")]
    rows = [
        html.Tr([html.Td("hears" if arrow.into else "passes on to"), html.Td(arrow.other), *_numbers(arrow.weight, arrow.need)]) for arrow in arrows
    ]
    return [*parts, html.H3("The clicked site in it"), html.Div(html.Table([html.Thead(html.Tr(header)), html.Tbody(rows)]), className="table")]


def _numbers(*values: float) -> list[html.Td]:
    return [html.Td(f"{value:+.3f}", className="number") for value in values]


@lru_cache(maxsize=16)
def _circuit_figure(circuit: Circuit, words: str, *, night: bool) -> html.Div:
    return figure_part(circuit.plot(), "circuit-figure", night=night, words=words)
