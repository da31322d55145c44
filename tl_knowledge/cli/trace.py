"""``tl-knowledge trace``: trace one prompt, print a table, write a page or JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.console import Console
from rich.markup import escape

from tl_knowledge.cli.arguments import noise_argument, window_argument, words_argument
from tl_knowledge.cli.tables import terminal_table
from tl_knowledge.datasets import load_facts
from tl_knowledge.drawing import Table
from tl_knowledge.errors import InputError
from tl_knowledge.models.hook_names import Component
from tl_knowledge.models.loading import load_model
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.results.storage import write_text
from tl_knowledge.tracing import SUMMARY_HEADER, CausalTrace, summary_rows, trace, trace_page

__all__ = ["trace_command"]

DEMO_SUBJECT, DEMO_RELATION = "Paul McCartney", "P1303"
DEFAULT_COMPONENTS: tuple[Component, ...] = ("resid_post", "mlp_out", "attn_out")


def trace_command(
    prompt: Annotated[str | None, typer.Argument(help="The prompt; without one, a known fact of the bundled model is traced.")] = None,
    subject: Annotated[str | None, typer.Option(help="The subject, as it stands in the prompt.")] = None,
    target: Annotated[str | None, typer.Option(help="The answer, with its leading space; default the model's prediction.")] = None,
    model: Annotated[str, typer.Option(help="'factlm', a Hugging Face id or a local directory.")] = "factlm",
    corrupt: Annotated[list[str] | None, typer.Option(help="subject or relation; repeatable, default both.")] = None,
    component: Annotated[list[str] | None, typer.Option(help=f"{', '.join(get_args(Component))}; repeatable, default the first three.")] = None,
    sever: Annotated[list[str] | None, typer.Option(help="mlp_out or attn_out; repeatable.")] = None,
    window: Annotated[str, typer.Option(help="Layers restored together, or 'auto'.")] = "auto",
    samples: Annotated[int, typer.Option(help="Noise samples.")] = 10,
    noise: Annotated[str, typer.Option(help="Standard deviation: a number, or for example 3sd (of the embeddings).")] = "3sd",
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write an HTML page.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Trace where a model keeps a fact."""
    loaded = load_model(model)
    asked = _prompt(loaded, model, prompt, subject, target)
    traces = [
        trace(
            loaded,
            asked,
            noise_argument(noise),
            corrupt=span,
            component=part,  # pyright: ignore[reportArgumentType]  # trace() refuses unknown words with a list of the known
            window=window_argument(window),
            sever=words_argument(sever, ()),
            samples=samples,
            seed=seed,
            progress=not as_json,
        )
        for part in component or DEFAULT_COMPONENTS
        for span in corrupt or ("subject", "relation")
    ]
    if out is not None:
        write_text(out, trace_page(traces))
    if as_json:
        typer.echo(json.dumps(_as_data(asked, traces), indent=2))
    else:
        _print(asked, traces, out)


def _prompt(model: HookedModel, name: str, text: str | None, subject: str | None, target: str | None) -> Prompt:
    if text is not None:
        if subject is None:
            raise InputError(f"no subject was given for {text!r}; pass --subject with the words whose knowledge is traced.")
        return Prompt.from_text(model, text, subject=subject, target=target)
    if name != "factlm" or subject or target:
        raise InputError("no prompt was given; pass PROMPT with --subject (only the bundled model has a fact of its own to trace).")
    fact = next(f for f in load_facts("factlm") if f.subject == DEMO_SUBJECT and f.relation == DEMO_RELATION)
    return Prompt.from_fact(model, fact)


def _as_data(prompt: Prompt, traces: list[CausalTrace]) -> dict[str, Any]:
    """Everything a program needs, as plain data."""
    first = traces[0]
    return {
        "prompt": prompt.text,
        "tokens": list(prompt.labels),
        "target": first.target,
        "known": first.known,
        "clean_probability": first.clean_probability,
        "traces": [
            {
                "corrupted": t.corrupted.name,
                "component": t.component,
                "window": t.window,
                "severed": list(t.severed),
                "corrupted_probability": float(t.corrupted_probability.mean()),
                "total_effect": float(t.total_effect.mean()),
                "causal_state": list(t.causal_state),
                "top": t.top(10).to_dict(orient="records"),
            }
            for t in traces
        ],
        "provenance": first.provenance.to_dict(),
    }


def _print(prompt: Prompt, traces: list[CausalTrace], out: Path | None) -> None:
    first, console = traces[0], Console()
    known = "known" if first.known else "[yellow]not what the model predicts[/]"
    console.print(f"[bold]{escape(prompt.text)}[/][green]{escape(first.target)}[/]", highlight=False)
    samples = len(first.total_effect)
    console.print(f"clean probability {first.clean_probability:.1%} ({known}), model {escape(first.provenance.model)}, {samples} noise samples")
    console.print(terminal_table(Table(SUMMARY_HEADER, summary_rows(traces))))
    if out is not None:
        console.print(f"page written to {out}", highlight=False, soft_wrap=True)
