"""``tl-knowledge edit``: change one fact, and see what the model says before and after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import tl_knowledge as tlk
from tl_knowledge.cli import options
from tl_knowledge.cli.arguments import corpus_argument, template_argument
from tl_knowledge.cli.loading import loads_model, model_argument
from tl_knowledge.cli.methods import method_argument, moments_argument, settings_argument
from tl_knowledge.cli.printing import print_json, print_line, print_table, print_written

__all__ = ["edit_command"]


@loads_model
def edit_command(
    prompt: options.EditedPrompt,
    subject: Annotated[str, typer.Option(help="The words of the prompt that are the subject.")],
    target: Annotated[str, typer.Option(help="The new object, with its leading space.")],
    text: Annotated[list[str] | None, typer.Option(help="Other texts to continue before and after; repeatable.")] = None,
    model: options.Model = "factlm",
    method: options.Method = "rome",
    layer: options.EditLayers = None,
    setting: options.Settings = None,
    moments: options.Moments = None,
    corpus: options.Corpus = None,
    save: Annotated[Path | None, typer.Option(help="Write the edit (.safetensors).", callback=options.writable)] = None,
    progress: options.Progress = True,
    as_json: options.AsJson = False,
) -> None:
    """Change one fact; nothing is written but with --save."""
    fact, values = tlk.Fact(subject, template_argument(prompt, subject), target), settings_argument(setting)
    corpus_name = corpus_argument(corpus, model)
    bar = progress and not as_json
    loaded = model_argument(model)
    settings = method_argument(loaded, method, layer, values)
    known = moments_argument(loaded, [settings], moments, corpus_name, progress=bar)
    edit = tlk.plan_edit(loaded, fact, settings, moments=known, progress=bar)
    if save is not None:
        edit.save(save)
    health = edit.health(loaded, () if corpus_name is None else tlk.datasets.corpus_texts(corpus_name))
    rows = _continuations(loaded, edit, [prompt, *(text or [])])
    if as_json:
        print_json({"texts": rows, "health": _health_data(health), "provenance": edit.provenance.to_dict()})
        return
    from tl_knowledge.engine.batches import in_words

    cells = [(row["text"], in_words(row["before"]), in_words(row["after"])) for row in rows]
    print_table(tlk.drawing.Table(("text", "before", "after"), cells))
    print_line(f"{method}: {health}")
    print_written(save, "edit")


def _continuations(model: tlk.HookedModel, edit: tlk.editing.PlannedEdit, texts: Sequence[str]) -> list[dict[str, Any]]:
    """The likeliest next tokens of every text, before and after the edit."""
    from tl_knowledge.engine.batches import likeliest_next

    prompts = [tlk.Prompt.from_text(model, text) for text in texts]
    before = [likeliest_next(model, prompt, []) for prompt in prompts]
    with edit.applied(model):
        after = [likeliest_next(model, prompt, []) for prompt in prompts]
    return [{"text": prompt.text, "before": old, "after": new} for prompt, old, new in zip(prompts, before, after, strict=True)]


def _health_data(health: tlk.editing.EditHealth) -> dict[str, Any]:
    """An edit's health as plain data."""
    layers = health.to_dataframe().to_dict(orient="records")
    perplexity = {"perplexity": health.perplexity_before, "perplexity_after": health.perplexity_after}
    return {"layers": layers, **perplexity, "disabling": health.disabling}
