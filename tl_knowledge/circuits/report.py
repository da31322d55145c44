"""One fact from trace to edit: everything the package says of it, gathered, and written as one page."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm.auto import tqdm

from tl_knowledge.arrays import Hooks
from tl_knowledge.batches import likeliest_next
from tl_knowledge.circuits.build import from_edit, from_neurons, from_trace
from tl_knowledge.circuits.circuit import Circuit
from tl_knowledge.circuits.direct import DirectAttribution, attribute_directly
from tl_knowledge.circuits.heads import AttentionAnalysis, analyse_attention
from tl_knowledge.circuits.lens import LogitLens, logit_lens
from tl_knowledge.circuits.report_page import report_page
from tl_knowledge.circuits.views import edit_view
from tl_knowledge.datasets import paraphrases
from tl_knowledge.drawing import HtmlView, ViewPage
from tl_knowledge.editing import ROME, Edit, EditHealth, EditMethod, KeyMoments, plan_edit
from tl_knowledge.errors import UnsupportedModelError
from tl_knowledge.facts import Fact
from tl_knowledge.metrics import answer_probability
from tl_knowledge.model import HookedModel, check_model
from tl_knowledge.neurons import NeuronSet, attribute_neurons, neuron_view, select_neurons
from tl_knowledge.prompts import Prompt
from tl_knowledge.storage import write_text
from tl_knowledge.tracing import CausalTrace, trace

__all__ = ["Continuations", "EditedFact", "NeuronFindings", "Report", "report"]

STEPS = 8


@dataclass(frozen=True)
class Continuations:
    """What a prompt is continued with, before and after an edit: the likeliest tokens with their probabilities."""

    text: str
    before: tuple[tuple[str, float], ...]
    after: tuple[tuple[str, float], ...]


@dataclass(frozen=True, eq=False)
class NeuronFindings:
    """A fact's neurons at the subject's last token, and what scaling them does.

    Attributes:
        probability: of the answer, by what was done to the neurons.
        view: their activations; ``None`` for an empty set.
        circuit: how what they write reaches the answer; ``None`` for an empty set.
    """

    neurons: NeuronSet
    prompts: int
    probability: dict[str, float]
    view: HtmlView | None
    circuit: Circuit | None


@dataclass(frozen=True, eq=False)
class EditedFact:
    """An edit of the fact and what it does.

    Attributes:
        circuit: through what it acts.
        after: the subject's circuit of the new answer in the edited model.
    """

    edit: Edit
    health: EditHealth
    continuations: tuple[Continuations, ...]
    circuit: Circuit
    after: Circuit
    views: ViewPage


@dataclass(frozen=True, eq=False)
class Report:
    """Everything about one fact.

    Attributes:
        traces: by corrupted side: states, the two modules, and states with each module severed.
        circuits: by corrupted side.
        attention: ``None`` where the model hides its heads (no patterns, or a norm behind their sum); ``attention_missing`` says why.
        edited: ``None`` where no edit was asked for.
    """

    fact: Fact
    prompt: Prompt
    traces: dict[str, tuple[CausalTrace, ...]]
    neurons: NeuronFindings
    circuits: dict[str, Circuit]
    attention: AttentionAnalysis | None
    attention_missing: str
    direct: DirectAttribution
    lens: LogitLens
    edited: EditedFact | None

    def to_html(self) -> str:
        """One self-contained page; opens offline."""
        return report_page(self)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page; returns the path."""
        return write_text(path, self.to_html())


def report(
    model: HookedModel,
    fact: Fact,
    *,
    edit_to: str | None = None,
    method: EditMethod | None = None,
    moments: KeyMoments | None = None,
    top: int = 20,
    samples: int = 10,
    seed: int = 0,
    progress: bool = True,
) -> Report:
    """Trace a fact from both sides, find its neurons, its circuit and its heads, and, if asked, edit it and see what changed.

    The model is left as it was.

    Args:
        edit_to: the new object, with its leading space.
        method: how to edit; ROME at the model's published layer, which needs ``moments``.
        top: sites of a circuit.
        samples, seed: of the noise.

    Raises:
        TLKnowledgeError: as the functions it calls.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> made = tlk.report(model, tlk.load_facts("factlm")[0], samples=2, progress=False)
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
        circuits = {side: _circuit(model, prompt, found, top) for side, found in traces.items()}
        bar.update()
        attention, missing = _attention(model, prompt, samples, seed)
        bar.update()
        direct, lens = attribute_directly(model, prompt), logit_lens(model, prompt)
        bar.update()
        edited = None if edit is None else _edited(model, fact, edit, edit_to or "", top, samples, seed)
        bar.update()
    return Report(fact, prompt, traces, neurons, circuits, attention, missing, direct, lens, edited)


def _traces(model: HookedModel, prompt: Prompt, side: str, samples: int, seed: int) -> tuple[CausalTrace, ...]:
    wanted = [("resid_post", None), ("mlp_out", None), ("attn_out", None), ("resid_post", "mlp_out"), ("resid_post", "attn_out")]
    return tuple(
        trace(model, prompt, corrupt=side, component=component, sever=severed, samples=samples, seed=seed, progress=False)  # pyright: ignore
        for component, severed in wanted
    )


def _circuit(model: HookedModel, prompt: Prompt, traces: tuple[CausalTrace, ...], top: int) -> Circuit:
    modules = [found for found in traces if found.component in ("mlp_out", "attn_out") and not found.severed]
    return from_trace(model, prompt, modules, top=top)


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
    done |= {"suppressed": neurons.suppress(pos=place), "enhanced (x 2)": neurons.enhance(pos=place)}
    done |= {"random neurons suppressed": control.suppress(pos=place), "random neurons enhanced (x 2)": control.enhance(pos=place)}
    measured = {what: _probability(model, prompt, hooks) for what, hooks in done.items()}
    circuit = from_neurons(model, prompt, neurons, at=[place], samples=samples, seed=seed)
    return NeuronFindings(neurons, len(prompts), measured, neuron_view(model, neurons, prompt), circuit)


def _probability(model: HookedModel, prompt: Prompt, hooks: Hooks) -> float:
    with torch.no_grad():
        logits: torch.Tensor = model.run_with_hooks(prompt.tokens, fwd_hooks=hooks)
    return float(answer_probability(logits[:, -1:], torch.tensor([[prompt.target_token]])))


def _plan(model: HookedModel, wanted: Fact, method: EditMethod | None, moments: KeyMoments | None) -> Edit:
    return plan_edit(model, wanted, method or ROME.for_model(model), moments=moments)


def _edited(model: HookedModel, fact: Fact, edit: Edit, edit_to: str, top: int, samples: int, seed: int) -> EditedFact:
    wanted = fact.retarget(edit_to)
    asked = Prompt.from_fact(model, wanted)
    prompts = [asked, *(Prompt.from_fact(model, wanted.rephrase(template)) for template in fact.paraphrases[:4])]
    said = tuple(Continuations(p.text, likeliest_next(model, p, []), likeliest_next(model, p, edit.hooks())) for p in prompts)
    with edit.applied(model):
        after = _circuit(model, asked, _traces(model, asked, "subject", samples, seed), top)
    return EditedFact(edit, edit.health(model), said, from_edit(model, edit, asked, top=top), after, edit_view(model, edit, asked))
