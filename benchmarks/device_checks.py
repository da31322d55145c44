"""What `gpu.py` runs: every engine on one model, as a few named arrays of numbers that can be compared between machines and precisions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch

import tl_knowledge as tlk
from tl_knowledge.editing.optimise.contexts import context_templates
from tl_knowledge.editing.optimise.fact_rows import rows_of
from tl_knowledge.editing.optimise.values import optimise_values
from tl_knowledge.models.weights import output_hook

Numbers = Mapping[str, np.ndarray]
COMPONENTS = ("resid_post", "mlp_out", "attn_out")
NOISE = 0.15  # a number, not a rule: the same corruption in every precision
LAYER = 2  # edited
ONE_PASS = {torch.float32: 1e-3, torch.bfloat16: 0.15}
OPTIMISED = {torch.float32: 2e-2, torch.bfloat16: 0.4}  # ROME after five steps is on its way still: 0.21 on a CPU, 0.32 on an H100
THRESHOLDED = {torch.float32: 2e-2, torch.bfloat16: 0.5}


@dataclass(frozen=True, eq=False)
class Work:
    """One model and what every engine is asked about it.

    Attributes:
        model: on its device, in its precision.
        size: how many facts, samples, steps and tokens; 1 is the smallest that runs everything.
    """

    model: tlk.HookedModel
    size: int

    @cached_property
    def cases(self) -> list[tlk.EditCase]:
        cases = tlk.load_edit_cases()[: 2 * self.size]
        return [replace(case, generation=tuple(fact.text for fact in self.known[:2])) for case in cases]

    @cached_property
    def facts(self) -> list[tlk.Fact]:
        return [case.rewrite for case in self.cases]

    @cached_property
    def known(self) -> list[tlk.Fact]:
        return list(tlk.load_facts()[: 2 * self.size])

    @cached_property
    def prompt(self) -> tlk.Prompt:
        return tlk.Prompt.from_fact(self.model, self.known[0])

    @cached_property
    def samples(self) -> int:
        return 2 * self.size

    @cached_property
    def values(self) -> tlk.editing.ValueSettings:
        return tlk.editing.ValueSettings(steps=5 * self.size, stop_below=0.0)

    @cached_property
    def moments(self) -> tlk.KeyMoments:
        tokens = 10 * int(self.model.blocks[0].mlp.W_out.shape[0])
        return tlk.collect_key_moments(self.model, _texts(tokens), layers=[1, LAYER], tokens=tokens, progress=False)

    def answers(self, edit: tlk.Edit, facts: Iterable[tlk.Fact]) -> Numbers:
        """Log-probabilities of an edit's new objects, before and after: what an edit is for, in any precision."""
        prompts = [tlk.Prompt.from_fact(self.model, fact) for fact in facts]

        def read() -> np.ndarray:
            with torch.no_grad():
                logits = [self.model(prompt.tokens)[0, -1].float().log_softmax(-1)[prompt.target_token] for prompt in prompts]
            return torch.stack(logits).cpu().double().numpy()

        before = read()
        with edit.applied(self.model):
            return {"before": before, "after": read()}


Run = Callable[[Work], Numbers]


@dataclass(frozen=True)
class Engine:
    """One engine.

    Attributes:
        run: gives its numbers.
        tolerance: by precision, the largest difference that passes, as a share of the largest number.
    """

    run: Run
    tolerance: Mapping[torch.dtype, float] = field(default_factory=lambda: ONE_PASS)


def difference(reference: Numbers, other: Numbers) -> float:
    """The largest difference of two engines' numbers, as a share of the largest number of its array; infinite where they do not fit."""
    if list(reference) != list(other) or any(np.shape(reference[name]) != np.shape(other[name]) for name in reference):
        return float("inf")
    worst = 0.0
    for name, expected in reference.items():
        gap, there = np.abs(other[name] - expected), np.isfinite(expected)
        if (np.isfinite(other[name]) != there).any():
            return float("inf")
        worst = max(worst, float(gap[there].max(initial=0.0)) / max(float(np.abs(expected[there]).max(initial=0.0)), 1e-12))
    return worst


def _texts(tokens: int) -> Iterable[str]:
    """The bundled corpus, again and again for a model that needs more tokens than it has."""
    corpus = list(tlk.load_corpus())
    for _ in range(1 + tokens // 5000):
        yield from corpus


def _tensors(**values: torch.Tensor) -> Numbers:
    return {name: value.detach().cpu().double().numpy() for name, value in values.items()}


def _columns(table: pd.DataFrame, *names: str) -> Numbers:
    return {name: table[name].to_numpy(dtype=float) for name in names}


def _trace(engine: str, component: str) -> Run:
    def run(work: Work) -> Numbers:
        traced = tlk.trace(work.model, work.prompt, NOISE, component=component, engine=engine, samples=work.samples, progress=False)
        return _tensors(total=traced.total_effect, effect=traced.mean_effect)

    return run


def _trace_facts(work: Work) -> Numbers:
    average = tlk.trace_facts(work.model, work.known, NOISE, samples=work.samples, known_only=False, progress=False)
    return {f"{trace.index} {trace.corrupt} {trace.component}": trace.effect for trace in average.traces}


def _attribution(work: Work) -> Numbers:
    prompts = [tlk.Prompt.from_fact(work.model, fact) for fact in work.known]
    return _tensors(scores=tlk.attribute_neurons(work.model, prompts, steps=5 * work.size, progress=False).scores)


def _values(work: Work) -> Numbers:
    rows = [rows_of(work.model, fact, context_templates(work.model, ()), "subject") for fact in work.facts]
    found = optimise_values(work.model, rows, LAYER, output_hook(work.model, LAYER), work.values)
    return {"first loss": np.array([value.losses[0] for value in found]), "change": np.array([float(value.delta.norm()) for value in found])}


def _edit(method: Callable[[Work], Any], facts: slice = slice(None)) -> Run:
    def run(work: Work) -> Numbers:
        edited = work.facts[facts]
        return work.answers(tlk.plan_edit(work.model, edited, method(work), moments=work.moments, progress=False), edited)

    return run


def _moments(work: Work) -> Numbers:
    own = tlk.collect_key_moments(work.model, tlk.load_corpus(), layers=[0, LAYER], tokens=500 * work.size, progress=False)
    return _tensors(**{f"layer {layer}": moment for layer, moment in own.moments.items()})


def _evaluate(work: Work) -> Numbers:
    table = tlk.evaluate(work.model, work.cases, tlk.FineTune(LAYER, steps=5), progress=False).table
    return _columns(table, "base_EM", "EM")


def _circuit(work: Work) -> Numbers:
    traced = tlk.trace(work.model, work.prompt, NOISE, component="mlp_out", window=1, samples=work.samples, progress=False)
    # One site: of two that are needed equally, one rounding may choose the other.
    circuit = tlk.circuits.from_trace(work.model, work.prompt, traced, limit=1, progress=False)
    return {"edges": circuit.to_dataframe().select_dtypes("number").to_numpy(dtype=float)}


def _knockout(work: Work) -> Numbers:
    return {"change": np.asarray(tlk.measure_attention_knockout(work.model, work.known, progress=False).change, dtype=float)}


def _heads(work: Work) -> Numbers:
    table = tlk.analyse_attention(work.model, work.prompt, NOISE, samples=work.samples, progress=False).table
    return _columns(table, "subject_from_last", "moved_subject", "effect_subject", "knockout", "direct")


def _direct(work: Work) -> Numbers:
    return _columns(tlk.direct_logit_attribution(work.model, work.prompt, progress=False).table, "direct")


def _lens(work: Work) -> Numbers:
    return _columns(tlk.logit_lens(work.model, work.prompt).table, "probability")


def _relation_map(work: Work) -> Numbers:
    facts = tlk.datasets.of_relation(tlk.load_facts(), "P1303")[: 2 + work.size]
    relation = tlk.relations.estimate_relation(work.model, facts, layer=LAYER, beta=1.0, rank=8, progress=False)
    return _tensors(weight=relation.weight, bias=relation.bias)


def _relation_vector(work: Work) -> Numbers:
    facts = tlk.datasets.of_relation(tlk.load_facts(), "P1303")[: 2 + work.size]
    return _tensors(writes=tlk.relations.estimate_relation_vector(work.model, facts, templates="{}", k=3, progress=False).writes)


def _neuron_effects(work: Work) -> Numbers:
    facts = list({fact.relation: fact for fact in tlk.load_facts() if fact.paraphrases}.values())[: 2 * work.size]
    table = tlk.neurons.measure_neuron_effects(work.model, facts, steps=5 * work.size, unrelated=1, controls=1, progress=False).table
    return _columns(table, "clean", "own")


def _perturbation(work: Work) -> Numbers:
    return _columns(tlk.tracing.perturb_embeddings(work.model, work.known, NOISE, samples=work.samples, progress=False).table, "clean", "perturbed")


def _generation(work: Work) -> Numbers:
    """Mean log-probability of the texts that are generated greedily: of two equal tokens, another machine may take the other."""
    texts = tlk.evaluation.GenerationScores(length=20 * work.size, top_k=1).read(work.model, work.cases[0]).texts
    means: list[float] = []
    for text in texts:
        tokens = tlk.Prompt.from_text(work.model, text).tokens
        with torch.no_grad():
            log_p = work.model(tokens)[0, :-1].float().log_softmax(-1)
        means.append(float(log_p.gather(1, tokens[0, 1:, None]).mean()))
    return {"log p": np.array([np.mean(means)])}


ENGINES: dict[str, Engine] = {
    **{f"trace, {engine}, {component}": Engine(_trace(engine, component)) for component in COMPONENTS for engine in ("rows", "loop")},
    "trace_facts": Engine(_trace_facts),
    "attribution": Engine(_attribution),
    "key moments": Engine(_moments),
    "values": Engine(_values, OPTIMISED),
    "ROME": Engine(_edit(lambda work: tlk.ROME(LAYER, value=work.values), slice(1)), OPTIMISED),
    "MEMIT": Engine(_edit(lambda work: tlk.MEMIT((1, LAYER), value=work.values)), OPTIMISED),
    "EMMET": Engine(_edit(lambda work: tlk.EMMET(LAYER, value=work.values)), OPTIMISED),
    "AlphaEdit": Engine(_edit(lambda work: tlk.AlphaEdit((1, LAYER), value=work.values)), OPTIMISED),
    "fine-tuning": Engine(_edit(lambda work: tlk.FineTune(LAYER, steps=5 * work.size, stop_below=0.0)), OPTIMISED),
    "evaluate": Engine(_evaluate, OPTIMISED),
    "circuit": Engine(_circuit),
    "attention knockout": Engine(_knockout),
    "analyse_attention": Engine(_heads),
    "direct logit attribution": Engine(_direct),
    "logit lens": Engine(_lens),
    "relation map": Engine(_relation_map),
    "relation vector": Engine(_relation_vector),
    "neuron effects": Engine(_neuron_effects, THRESHOLDED),
    "perturbation": Engine(_perturbation),
    "generation": Engine(_generation),
}
