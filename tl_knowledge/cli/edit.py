"""``tl-knowledge edit``: change one fact, and see what the model says before and after."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tl_knowledge.cli.arguments import template_argument
from tl_knowledge.cli.methods import METHOD_NAMES, method_argument, moments_argument
from tl_knowledge.cli.moments import corpus_argument
from tl_knowledge.cli.tables import terminal_table
from tl_knowledge.drawing import Table
from tl_knowledge.editing import plan_edit
from tl_knowledge.engine.batches import in_words, likeliest_next
from tl_knowledge.models.loading import load_model
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt

__all__ = ["edit_command"]


def edit_command(
    prompt: Annotated[str, typer.Argument(help="The fact's text up to its object, as in 'The capital of France is'.")],
    subject: Annotated[str, typer.Option(help="The words of the prompt that are the subject.")],
    target: Annotated[str, typer.Option(help="The new object, with its leading space.")],
    text: Annotated[list[str] | None, typer.Option(help="Other texts to continue before and after; repeatable.")] = None,
    model: Annotated[str, typer.Option(help="'factlm', a Hugging Face id or a local directory.")] = "factlm",
    method: Annotated[str, typer.Option(help=", ".join(METHOD_NAMES) + ".")] = "rome",
    layer: Annotated[list[int] | None, typer.Option(help="Repeatable; default the published ones of the model.")] = None,
    setting: Annotated[list[str] | None, typer.Option(help="name=value of the method, such as clamp=3; repeatable.")] = None,
    moments: Annotated[Path | None, typer.Option(help="A file of tl-knowledge moments; default collected from --corpus.")] = None,
    corpus: Annotated[Path | None, typer.Option(help="A text file, one text a line; default FactLM's own corpus.")] = None,
    save: Annotated[Path | None, typer.Option(help="Write the edit (.safetensors).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Change one fact; nothing is written but with --save."""
    template, loaded = template_argument(prompt, subject), load_model(model)
    fact, texts = Fact(subject, template, target), corpus_argument(corpus)
    chosen = method_argument(loaded, method, layer or [], setting or [])
    known = moments_argument(loaded, [method], [chosen], moments, texts, progress=not as_json)
    edit = plan_edit(loaded, fact, chosen, moments=known)
    if save is not None:
        edit.save(save)
    health = edit.health(loaded, texts)
    rows = [
        (each, likeliest_next(loaded, Prompt.from_text(loaded, each), []), likeliest_next(loaded, Prompt.from_text(loaded, each), edit.hooks()))
        for each in (prompt, *(text or []))
    ]
    if as_json:
        said = [{"text": each, "before": before, "after": after} for each, before, after in rows]
        sizes: dict[str, Any] = {"layers": health.to_dataframe().to_dict(orient="records"), "perplexity": health.perplexity_before}
        changed = sizes | {"perplexity_after": health.perplexity_after, "disabling": health.disabling}
        typer.echo(json.dumps({"texts": said, "health": changed, "provenance": edit.provenance.to_dict()}, indent=2))
        return
    console = Console()
    console.print(terminal_table(Table(("text", "before", "after"), [(each, in_words(before), in_words(after)) for each, before, after in rows])))
    console.print(f"{method}: {health}", highlight=False, soft_wrap=True)
    if save is not None:
        console.print(f"edit written to {save}", highlight=False, soft_wrap=True)
