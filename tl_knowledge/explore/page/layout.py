"""What stands on the page before anything is asked: a card for each thing to do, in the order in which one does it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dash import dcc, html

from tl_knowledge.explore.methods import MethodOffer, first_that_works
from tl_knowledge.explore.page.attributes import attributes
from tl_knowledge.explore.session import ExplorerSession
from tl_knowledge.explore.state import COMPONENTS, METRICS
from tl_knowledge.wording import counted

__all__ = ["COMPONENT_NAMES", "page_layout"]

COMPONENT_NAMES = {"resid_post": "residual stream", "mlp_out": "MLP output", "attn_out": "attention output"}


def page_layout(session: ExplorerSession) -> html.Div:
    """The page of one model."""
    stores = [dcc.Store(id=name) for name in ("tab", "beat", "marked", "jobs", "pending", "drawn", "past", "again", "pace")]
    left = [_prompt(), _change(session.methods), _keep()]
    right = [_maps(), _site(), _compare()]
    return html.Div(
        [
            dcc.Location(id="address", refresh=False),
            dcc.Download(id="download"),
            *stores,
            html.Div(id="silence", role="alert"),
            html.Header(
                [
                    html.H1("tl_knowledge explorer"),
                    html.Span([html.B(session.name), f", {counted(session.layers, 'layer')} of {counted(session.heads, 'head')}"]),
                    html.Span([html.Span("ready", id="doing"), html.Span(id="waiting")], id="pulse", role="status"),
                ]
            ),
            html.Main([html.Div(left, className="column"), html.Div(right, className="column")]),
        ]
    )


def _part(name: str, title: str, *children: Any) -> html.Section:
    return html.Section([html.H2(title), *children], id=f"part-{name}")


def _error(name: str) -> html.Div:
    return html.Div(id=f"error-{name}", className="sentence-of-error", role="alert")


def _hint(*words: Any) -> html.P:
    return html.P(list(words), className="hint")


def _field(label: str, name: str, field: Any, look: str = "grow") -> html.Div:
    return html.Div([html.Label(label, htmlFor=name, className="label"), field], className=look)


def _choices(kind: Any, name: str, label: str, options: dict[str, str], value: Any) -> html.Div:
    chosen = kind(id=name, options=options, value=value, className="choices", inline=True)
    return html.Div([html.Span(label, className="label", id=f"{name}-label"), chosen], role="group", **attributes(aria_labelledby=f"{name}-label"))


def _prompt() -> html.Section:
    swatches = [html.Span([html.I(className=f"swatch {role}"), role], style={"marginRight": "14px"}) for role in ("subject", "relation")]
    return _part(
        "prompt",
        "1. Ask",
        _error("link"),
        html.Label("Prompt: the beginning of a sentence", htmlFor="prompt", className="label"),
        dcc.Textarea(id="prompt", value="", placeholder="The capital of France is", spellCheck=False),
        html.Div(
            [
                _field("Answer to look for, with its leading space (empty: the model's own)", "target", _text("target", " Paris")),
                html.Button("Read", id="read", className="main"),
            ],
            className="row",
        ),
        _error("predict"),
        html.Div(
            [
                _choices(dcc.RadioItems, "role", "A click on tokens marks the", {"subject": "subject", "relation": "relation"}, "subject"),
                html.Div(id="tokens", role="group", **attributes(aria_label="tokens of the prompt")),
                _hint(
                    *swatches,
                    "Click a token, or drag over several; with Shift the marks reach from the last click to here. "
                    "Keyboard: arrows, Enter, Shift+Enter. The same click again takes the mark off.",
                ),
            ],
            id="marking",
            hidden=True,
        ),
        html.Div(id="prediction"),
    )


def _text(name: str, placeholder: str) -> dcc.Input:
    return dcc.Input(id=name, type="text", value="", placeholder=placeholder, autoComplete="off")


def _number(name: str, value: int, low: int, high: int) -> dcc.Input:
    return dcc.Input(id=name, type="number", value=value, min=low, max=high, step=1)


def _maps() -> html.Section:
    return _part(
        "maps",
        "2. Trace: where does it pass?",
        html.Div(
            [
                _choices(dcc.RadioItems, "corrupt", "Corrupt the", {"subject": "subject", "relation": "relation"}, "subject"),
                _choices(dcc.Checklist, "components", "Restore one at a time", COMPONENT_NAMES, list(COMPONENTS)),
            ],
            className="row",
        ),
        html.Div(
            [
                _field("Layers restored together", "window", _text("window", "auto"), "small"),
                _field("Noise samples", "samples", _number("samples", 10, 1, 200), "small"),
                _field("Seed", "seed", _number("seed", 0, 0, 2**31 - 1), "small"),
                _field("Effects measured in", "metric", dcc.Dropdown(id="metric", options=list(METRICS), value="probability", clearable=False)),
                html.Button("Trace", id="trace", className="main"),
                html.Button("Cancel", id="cancel", disabled=True),
            ],
            className="row",
        ),
        html.P(id="progress", className="hint"),
        html.P(id="unchanged", className="hint"),
        _error("trace"),
        html.Div(id="maps"),
    )


def _site() -> html.Section:
    which = {name: COMPONENT_NAMES[name] for name in COMPONENTS}
    return _part(
        "site",
        "3. Look into a cell",
        _hint("Click a cell of a map, or name it here."),
        html.Div(
            [
                _field("Component", "cell-component", dcc.Dropdown(id="cell-component", options=which, value="mlp_out", clearable=False)),
                _field("Layer", "cell-layer", _number("cell-layer", 0, 0, 10_000), "small"),
                _field("Token", "cell-token", dcc.Dropdown(id="cell-token", options=[], clearable=False)),
                html.Button("Look", id="look"),
            ],
            className="row",
        ),
        _error("cell"),
        html.Div(id="site"),
        html.Div(
            [
                html.H3("Circuit of this prompt"),
                _hint("Which sites hand the answer on to which others; a few seconds on a small model, minutes on a large one."),
                html.Button("Find the circuit", id="find-circuit"),
                _error("circuit"),
                html.Div(id="circuit"),
            ]
        ),
    )


def _change(methods: Sequence[MethodOffer]) -> html.Section:
    return _part(
        "change",
        "4. Change it",
        html.Div(id="active"),
        html.Div(html.Button("Undo the last step", id="undo", disabled=True), className="row"),
        html.H3("Edit the marked fact"),
        html.P(id="edited-fact", className="hint"),
        html.Div(
            [
                _field(
                    "Method",
                    "method",
                    dcc.Dropdown(id="method", options=list(map(_offered, methods)), value=first_that_works(methods), clearable=False),
                ),
                _field("Layers", "layers", _text("layers", "its own"), "small"),
                _field("New answer, with its leading space", "target-new", _text("target-new", " London")),
                html.Button("Edit", id="edit", className="main"),
            ],
            className="row",
        ),
        _error("edit"),
        html.Label("Your own further prompts, one a line", htmlFor="further", className="label"),
        dcc.Textarea(id="further", value="", placeholder="France's capital city is\nThe capital of Italy is", spellCheck=False),
        html.Div(html.Button("Compare on these", id="compare"), className="row"),
        _error("further"),
    )


def _offered(offer: MethodOffer) -> dict[str, Any]:
    """A method in the list; what cannot be used here says why."""
    notes = [", ".join(f"layer {layer}" for layer in offer.layers)] if offer.layers else []
    notes += ["needs layers"] if offer.asks_layers else []
    notes += ["collects key moments first"] if offer.needs_moments else []
    notes += ["changes what the model reads"] if offer.changes_reading else []
    words = offer.refusal or "; ".join(notes)
    return {"label": f"{offer.title} ({words})" if words else offer.title, "value": offer.name, "disabled": bool(offer.refusal)}


def _compare() -> html.Section:
    return _part(
        "compare",
        "5. Before and after",
        _hint("The model itself is never changed: what is switched off or edited here acts in this tab only."),
        _error("compare"),
        html.Div(id="compared"),
    )


def _keep() -> html.Section:
    return _part(
        "keep",
        "6. Keep it",
        html.Div(
            [
                html.Button("Copy the link", id="copy-link", **attributes(data_copies="address")),
                html.Button("Copy as Python", id="copy-code", **attributes(data_copies="code")),
                html.Button("Download the page", id="save-page"),
                html.Button("Download the data", id="save-data"),
            ],
            className="row",
        ),
        _hint("The address of this page is the link: it opens with the same prompt, marks, maps, circuit and changes, wherever the explorer runs."),
        _error("keep"),
        html.Details([html.Summary("The same in Python"), html.Pre(id="code")]),
    )
