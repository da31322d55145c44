"""One fact from trace to edit: everything the package says of it, gathered, and written as one page."""

from __future__ import annotations

import torch
from tqdm.auto import tqdm

from tl_knowledge.arrays import Hooks
from tl_knowledge.attention import AttentionAnalysis, analyse_attention, direct_logit_attribution, logit_lens
from tl_knowledge.circuits import Circuit, from_edit, from_neurons, from_trace
from tl_knowledge.datasets import paraphrases
from tl_knowledge.editing import ROME, Edit, EditMethod, KeyMoments, edit_view, plan_edit
from tl_knowledge.engine.batches import likeliest_next
from tl_knowledge.errors import UnsupportedModelError
from tl_knowledge.metrics import answer_probability
from tl_knowledge.models.checks import check_model
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.neurons import attribute_neurons, neuron_view, select_neurons
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.report.findings import Continuations, EditedFact, NeuronFindings
from tl_knowledge.report.result import FactReport
from tl_knowledge.tracing import CausalTrace, trace

__all__ = ["report_fact"]

STEPS = 8


def report_fact(
    model: HookedModel,
    fact: Fact,
    *,
    edit_to: str | None = None,
    method: EditMethod | None = None,
    moments: KeyMoments | None = None,
    limit: int = 20,
    samples: int = 10,
    seed: int = 0,
    progress: bool = True,
) -> FactReport:
    """Trace a fact from both sides, find its neurons, its circuit and its heads, and, if asked, edit it and see what changed.

    The model is left as it was.

    Args:
        edit_to: the new object, with its leading space.
        method: how to edit; ROME at the model's published layer, which needs ``moments``.
        limit: sites of a circuit.
        samples, seed: of the noise.

    Raises:
        TLKnowledgeError: as the functions it calls.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> made = tlk.report_fact(model, tlk.load_facts("factlm")[0], samples=2, progress=False)
        >>> made.to_html().startswith("<!doctype html>")
        True
    """
    check_model(model)
    prompt = Prompt.from_fact(model, fact)
    with tqdm(total=STEPS, desc="report", unit="part", delay=2, disable=not progress) as bar:
        edit = None if edit_to is None else _plan(model, fact.retarget(edit_to), method, moments)
        bar.update()
        traces = {side: _traces(model, prompt, side, samples, seed) for side in ("subject", "relation")}
        bar.update(2)
        neurons = _neurons(model, fact, prompt, samples, seed)
        bar.update()
        circuits = {side: _circuit(model, prompt, found, limit) for side, found in traces.items()}
        bar.update()
        attention, missing = _attention(model, prompt, samples, seed)
        bar.update()
        direct, lens = direct_logit_attribution(model, prompt), logit_lens(model, prompt)
        bar.update()
        edited = None if edit is None else _edited(model, fact, edit, edit_to or "", limit, samples, seed)
        bar.update()
    return FactReport(fact, prompt, traces, neurons, circuits, attention, missing, direct, lens, edited)


def _traces(model: HookedModel, prompt: Prompt, side: str, samples: int, seed: int) -> tuple[CausalTrace, ...]:
    wanted = [("resid_post", None), ("mlp_out", None), ("attn_out", None), ("resid_post", "mlp_out"), ("resid_post", "attn_out")]
    return tuple(
        trace(model, prompt, corrupt=side, component=component, sever=severed, samples=samples, seed=seed, progress=False)  # pyright: ignore
        for component, severed in wanted
    )


def _circuit(model: HookedModel, prompt: Prompt, traces: tuple[CausalTrace, ...], limit: int) -> Circuit:
    modules = [found for found in traces if found.component in ("mlp_out", "attn_out") and not found.severed]
    return from_trace(model, prompt, modules, limit=limit)


def _attention(model: HookedModel, prompt: Prompt, samples: int, seed: int) -> tuple[AttentionAnalysis | None, str]:
    """The heads' analysis, or why this model has none; the rest of a report does not need it."""
    try:
        return analyse_attention(model, prompt, samples=samples, seed=seed), ""
    except UnsupportedModelError as error:
        return None, str(error)


def _neurons(model: HookedModel, fact: Fact, prompt: Prompt, samples: int, seed: int) -> NeuronFindings:
    prompts = paraphrases(model, fact) if fact.paraphrases else [prompt]
    neurons = select_neurons(attribute_neurons(model, prompts, at="subject", progress=False))
    done: dict[str, Hooks] = {"left alone": []}
    if not len(neurons):
        return NeuronFindings(neurons, len(prompts), {"left alone": _probability(model, prompt, [])}, None, None)
    place = prompt.subject.last
    control = neurons.random_control(seed)
    done |= {"suppressed": neurons.suppress(positions=place), "enhanced (x 2)": neurons.enhance(positions=place)}
    done |= {"random neurons suppressed": control.suppress(positions=place), "random neurons enhanced (x 2)": control.enhance(positions=place)}
    measured = {what: _probability(model, prompt, hooks) for what, hooks in done.items()}
    circuit = from_neurons(model, prompt, neurons, positions=[place], samples=samples, seed=seed)
    return NeuronFindings(neurons, len(prompts), measured, neuron_view(model, neurons, prompt), circuit)


def _probability(model: HookedModel, prompt: Prompt, hooks: Hooks) -> float:
    with torch.no_grad():
        logits: torch.Tensor = model.run_with_hooks(prompt.tokens, fwd_hooks=hooks)
    return float(answer_probability(logits[:, -1:], torch.tensor([[prompt.target_token]])))


def _plan(model: HookedModel, wanted: Fact, method: EditMethod | None, moments: KeyMoments | None) -> Edit:
    return plan_edit(model, wanted, method or ROME.for_model(model), moments=moments)


def _edited(model: HookedModel, fact: Fact, edit: Edit, edit_to: str, limit: int, samples: int, seed: int) -> EditedFact:
    wanted = fact.retarget(edit_to)
    asked = Prompt.from_fact(model, wanted)
    prompts = [asked, *(Prompt.from_fact(model, wanted.rephrase(template)) for template in fact.paraphrases[:4])]
    said = tuple(Continuations(p.text, likeliest_next(model, p, []), likeliest_next(model, p, edit.hooks())) for p in prompts)
    with edit.applied(model):
        after = _circuit(model, asked, _traces(model, asked, "subject", samples, seed), limit)
    return EditedFact(edit, edit.health(model), said, from_edit(model, edit, asked, limit=limit), after, edit_view(model, edit, asked))
