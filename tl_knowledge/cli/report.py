"""``tl-knowledge report``: one fact from trace to edit, as one page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from tl_knowledge.circuits import Circuit
from tl_knowledge.cli.arguments import template_argument
from tl_knowledge.cli.methods import METHOD_NAMES, method_argument, moments_argument
from tl_knowledge.cli.moments import corpus_argument
from tl_knowledge.cli.tables import terminal_table
from tl_knowledge.drawing import Table
from tl_knowledge.engine.batches import likeliest_next
from tl_knowledge.models.loading import load_model
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.report import FactReport, report_fact

__all__ = ["report_command"]


def report_command(
    prompt: Annotated[str, typer.Argument(help="The fact's text up to its object, as in 'The capital of France is'.")],
    subject: Annotated[str, typer.Option(help="The words of the prompt that are the subject.")],
    target: Annotated[str | None, typer.Option(help="The object, with its leading space; default the model's prediction.")] = None,
    edit_to: Annotated[str | None, typer.Option(help="Edit the fact to this object, and show what changes.")] = None,
    paraphrase: Annotated[list[str] | None, typer.Option(help="The fact in other words, {} in the subject's place; repeatable.")] = None,
    model: Annotated[str, typer.Option(help="'factlm', a Hugging Face id or a local directory.")] = "factlm",
    method: Annotated[str, typer.Option(help=", ".join(METHOD_NAMES) + ".")] = "rome",
    layer: Annotated[list[int] | None, typer.Option(help="Of the edit; repeatable; default the published ones of the model.")] = None,
    setting: Annotated[list[str] | None, typer.Option(help="name=value of the method, such as clamp=3; repeatable.")] = None,
    moments: Annotated[Path | None, typer.Option(help="A file of tl-knowledge moments; default collected from --corpus.")] = None,
    corpus: Annotated[Path | None, typer.Option(help="A text file, one text a line; default FactLM's own corpus.")] = None,
    limit: Annotated[int, typer.Option(help="Sites of a circuit.")] = 20,
    samples: Annotated[int, typer.Option(help="Noise samples.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    out: Annotated[Path, typer.Option(help="The page.")] = Path("report.html"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Write one page about one fact: traces, neurons, circuit, attention, and what an edit changes."""
    template, loaded = template_argument(prompt, subject), load_model(model)
    fact = Fact(subject, template, target or _predicted(loaded, prompt), paraphrases=tuple(paraphrase or ()))
    chosen, known = None, None
    if edit_to is not None:
        chosen = method_argument(loaded, method, layer or [], setting or [])
        known = moments_argument(loaded, [method], [chosen], moments, corpus_argument(corpus), progress=not as_json)
    made = report_fact(loaded, fact, edit_to=edit_to, method=chosen, moments=known, limit=limit, samples=samples, seed=seed, progress=not as_json)
    made.save(out)
    if as_json:
        typer.echo(json.dumps(_as_data(made, out), indent=2))
        return
    console = Console()
    console.print(f"[bold]{escape(prompt)}[/][green]{escape(fact.target)}[/]", highlight=False)
    circuits = _circuits(made).items()
    rows = [(n, str(len(c.nodes)), f"{c.total_effect:.3f}", f"{c.faithfulness:.0%}", f"{c.completeness:.0%}") for n, c in circuits]
    console.print(terminal_table(Table(("circuit", "sites", "total effect", "faithfulness", "completeness"), rows)))
    console.print(f"page written to {out}", highlight=False, soft_wrap=True)


def _predicted(model: HookedModel, text: str) -> str:
    ((token, _), *_) = likeliest_next(model, Prompt.from_text(model, text), [])
    return token


def _circuits(made: FactReport) -> dict[str, Circuit]:
    """Every circuit of the report by name."""
    found = dict(made.circuits)
    return found if made.edited is None else found | {"edit (log P)": made.edited.circuit}


def _as_data(made: FactReport, out: Path) -> dict[str, Any]:
    """What a program needs, as plain data."""
    circuits = {
        name: {
            "faithfulness": circuit.faithfulness,
            "completeness": circuit.completeness,
            "total_effect": circuit.total_effect,
            "nodes": circuit.node_table().to_dict("records"),
            "edges": circuit.to_dataframe().to_dict("records"),
        }
        for name, circuit in _circuits(made).items()
    }
    heads = [] if made.attention is None else made.attention.top(10).to_dict("records")
    return {"page": str(out), "target": made.fact.target, "circuits": circuits, "neurons": list(made.neurons.neurons), "heads": heads}
