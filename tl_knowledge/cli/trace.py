"""``tl-knowledge trace``: trace one prompt, print a table, write a page or JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import tl_knowledge as tlk
from tl_knowledge.cli import options
from tl_knowledge.cli.arguments import noise_argument, subject_noise, window_argument, words_argument
from tl_knowledge.cli.loading import loads_model, model_argument
from tl_knowledge.cli.printing import print_json, print_line, print_table, print_written, write_file
from tl_knowledge.cli.words import MEMORY_BUDGET, SIDES
from tl_knowledge.errors import ComponentError, InputError
from tl_knowledge.models.bundled import is_bundled
from tl_knowledge.models.hook_names import COMPONENTS
from tl_knowledge.prompts.spans import occurrences
from tl_knowledge.wording import counted

__all__ = ["trace_command"]

DEMO_SUBJECT, DEMO_RELATION = "Paul McCartney", "P1303"
DEFAULT_COMPONENTS = COMPONENTS[:3]


@loads_model
def trace_command(
    prompt: Annotated[str | None, typer.Argument(help="The prompt; without one, a known fact of the bundled model is traced.")] = None,
    subject: Annotated[str | None, typer.Option(help="The subject, as it stands in the prompt.")] = None,
    target: Annotated[str | None, typer.Option(help="The answer, with its leading space; default the model's prediction.")] = None,
    model: options.Model = "factlm",
    corrupt: options.Corrupt = None,
    component: Annotated[list[str] | None, options.choice("component", COMPONENTS, "; repeatable, default the first three", ComponentError)] = None,
    sever: options.Sever = None,
    layer: options.Layers = None,
    window: options.Window = "auto",
    samples: options.Samples = 10,
    noise: options.Noise = "3sd",
    seed: options.Seed = 0,
    variant: options.Variant = "ours",
    metric: options.Metric = "probability",
    against: options.Against = None,
    memory_budget: options.MemoryBudget = MEMORY_BUDGET,
    progress: options.Progress = True,
    out: options.Page = None,
    as_json: options.AsJson = False,
) -> None:
    """Trace where a model keeps a fact."""
    shared: dict[str, Any] = {
        "noise": noise_argument(noise),
        "window": window_argument(window),
        "layers": layer or None,
        "samples": samples,
        "seed": seed,
        "variant": variant,
        "metric": metric,
        "against": against or None,
        "memory_budget": memory_budget,
        "progress": progress and not as_json,
    }
    _check_prompt(model, prompt, subject, target)
    loaded = model_argument(model)
    traced = _prompt(loaded, prompt, subject, target)
    parts, sides = words_argument(component, DEFAULT_COMPONENTS), words_argument(corrupt, SIDES)
    shared["noise"] = subject_noise(shared["noise"], loaded, [subject or DEMO_SUBJECT])
    if sever:
        pinned = words_argument(sever, ())
        traces = [tlk.trace(loaded, traced, corrupt=side, component=part, sever=pinned, **shared) for part in parts for side in sides]
    else:
        traces = tlk.tracing.trace_together(loaded, traced, corrupt=sides, components=parts, **shared)
    if out is not None:
        write_file(out, tlk.tracing.trace_page(traces))
    if as_json:
        print_json(_as_data(traced, traces))
    else:
        _print(traced, traces, out)


def _check_prompt(model: str, text: str | None, subject: str | None, target: str | None) -> None:
    """Refuse what needs no model to be refused."""
    if text is None:
        if not is_bundled(model) or subject or target:
            raise InputError("no prompt was given; pass PROMPT with --subject (only the bundled models have a fact of its own to trace).")
    elif subject is None:
        raise InputError(f"no subject was given for {text!r}; pass --subject with the words whose knowledge is traced.")
    else:
        occurrences(text, subject, "subject", "all")


def _prompt(model: tlk.HookedModel, text: str | None, subject: str | None, target: str | None) -> tlk.Prompt:
    if text is not None:
        return tlk.Prompt.from_text(model, text, subject=subject, target=target)
    fact = next(f for f in tlk.load_facts("factlm") if f.subject == DEMO_SUBJECT and f.relation == DEMO_RELATION)
    return tlk.Prompt.from_fact(model, fact)


def _as_data(prompt: tlk.Prompt, traces: list[tlk.CausalTrace]) -> dict[str, Any]:
    """Everything a program needs, as plain data."""
    first = traces[0]
    return {
        "prompt": prompt.text,
        "tokens": list(prompt.labels),
        "target": first.target,
        "known": first.known,
        "clean_probability": first.clean_probability,
        "metric": first.metric.name,
        "traces": [
            {
                "corrupt": trace.corrupted.name,
                "component": trace.component,
                "window": trace.window,
                "sever": list(trace.severed),
                "corrupted_probability": float(trace.corrupted_probability.mean()),
                "clean_score": trace.clean_score,
                "corrupted_score": float(trace.corrupted_score.mean()),
                "total_effect": float(trace.total_effect.mean()),
                "causal_state": list(trace.causal_state),
                "top": trace.top(10).to_dict(orient="records"),
            }
            for trace in traces
        ],
        "provenance": first.provenance.to_dict(),
    }


def _print(prompt: tlk.Prompt, traces: list[tlk.CausalTrace], out: Path | None) -> None:
    first = traces[0]
    known = "known" if first.known else ("not what the model predicts", "yellow")
    print_line((prompt.text, "bold"), (first.target, "green"))
    samples = len(first.total_effect)
    print_line(f"clean probability {first.clean_probability:.1%} (", known, f"), model {first.provenance.model}, {counted(samples, 'noise sample')}")
    if first.metric.remark:
        print_line(f"effects are in {first.metric.measured_in}")
    print_table(tlk.drawing.Table(tlk.tracing.SUMMARY_HEADER, tlk.tracing.summary_rows(traces)))
    print_written(out)
