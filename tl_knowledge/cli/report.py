"""``tl-knowledge report``: one fact from trace to edit, as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import tl_knowledge as tlk
from tl_knowledge import report as reports
from tl_knowledge.cli import options
from tl_knowledge.cli.arguments import corpus_argument, template_argument
from tl_knowledge.cli.loading import loads_model, model_argument
from tl_knowledge.cli.measures import measures_argument, with_relation
from tl_knowledge.cli.methods import method_argument, moments_argument, settings_argument
from tl_knowledge.cli.printing import print_json, print_line, print_table, print_written
from tl_knowledge.errors import InputError

__all__ = ["report_command"]

HEADER = ("circuit", "sites", "total effect", "faithfulness", "completeness")


@loads_model
def report_command(
    prompt: options.EditedPrompt,
    subject: Annotated[str, typer.Option(help="The words of the prompt that are the subject.")],
    target: Annotated[str | None, typer.Option(help="The object, with its leading space; default the model's prediction.")] = None,
    edit_to: Annotated[str | None, typer.Option(help="Edit the fact to this object, and show what changes.")] = None,
    paraphrase: Annotated[list[str] | None, typer.Option(help="The fact in other words, {} in the subject's place; repeatable.")] = None,
    model: options.Model = "factlm",
    method: options.Method = "rome",
    layer: options.EditLayers = None,
    setting: options.Settings = None,
    moments: options.Moments = None,
    corpus: options.Corpus = None,
    measures: options.Measures = None,
    limit: Annotated[int, typer.Option(min=1, help="Sites of a circuit, at most.")] = 20,
    samples: options.Samples = 10,
    seed: options.Seed = 0,
    progress: options.Progress = True,
    out: Annotated[Path, typer.Option(help="The page.", callback=options.writable)] = Path("report.html"),
    as_json: options.AsJson = False,
) -> None:
    """Write one page about one fact, from its trace to its edit.

    It has traces, neurons, circuits, attention, and what an edit changes.
    """
    template, values, corpus_name = template_argument(prompt, subject), settings_argument(setting), corpus_argument(corpus, model)
    if edit_to is None and (layer or setting or moments or corpus or measures):
        raise InputError(
            "--layer, --setting, --moments, --corpus and --measures belong to an edit; pass --edit-to with the new object, or drop them."
        )
    shared: dict[str, Any] = {"limit": limit, "samples": samples, "seed": seed, "progress": progress and not as_json}
    loaded = model_argument(model)
    fact: Any = tlk.Fact(subject, template, target or _predicted(loaded, prompt), paraphrases=tuple(paraphrase or ()))
    if edit_to is not None:
        if measures:
            fact, shared["measures"] = _case(fact, edit_to, measures)
        settings = method_argument(loaded, method, layer, values)
        shared |= {"edit_to": edit_to, "method": settings}
        shared["moments"] = moments_argument(loaded, [settings], moments, corpus_name, progress=shared["progress"])
    report = tlk.report_fact(loaded, fact, **shared)
    report.save_html(out)
    if as_json:
        print_json(_as_data(report, out))
        return
    print_line((prompt, "bold"), (report.fact.target, "green"))
    circuits = _circuits(report).items()
    rows = [(n, str(len(c.nodes)), f"{c.total_effect:.3f}", f"{c.faithfulness:.0%}", f"{c.completeness:.0%}") for n, c in circuits]
    print_table(tlk.drawing.Table(HEADER, rows))
    print_written(out)


def _case(fact: tlk.Fact, edit_to: str, measures: list[str]) -> tuple[tlk.EditCase, list[Any]]:
    """The edit with the questions that FactLM's facts have for it, and what else is read."""
    known = with_relation(fact)
    paraphrases = tuple(known.rephrase(template) for template in known.paraphrases)
    asked = measures_argument(measures, [tlk.EditCase(known, edit_to, paraphrases, ())], "factlm", None)
    return asked.cases[0], asked.measures


def _predicted(model: tlk.HookedModel, text: str) -> str:
    from tl_knowledge.engine.batches import likeliest_next

    ((token, _), *_) = likeliest_next(model, tlk.Prompt.from_text(model, text), [])
    return token


def _circuits(report: reports.FactReport) -> dict[str, tlk.circuits.Circuit]:
    """Every circuit of the report by name."""
    circuits = dict(report.circuits)
    return circuits if report.edited is None else circuits | {"edit (log P)": report.edited.circuit}


def _as_data(report: reports.FactReport, out: Path) -> dict[str, Any]:
    """What a program needs, as plain data."""
    circuits = {
        name: {
            "faithfulness": circuit.faithfulness,
            "completeness": circuit.completeness,
            "total_effect": circuit.total_effect,
            "nodes": circuit.node_table().to_dict("records"),
            "edges": circuit.to_dataframe().to_dict("records"),
        }
        for name, circuit in _circuits(report).items()
    }
    heads = [] if report.attention is None else report.attention.top(10).to_dict("records")
    return {"page": str(out), "target": report.fact.target, "circuits": circuits, "neurons": list(report.neurons.neurons), "heads": heads}
