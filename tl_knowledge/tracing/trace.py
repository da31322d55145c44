"""Causal tracing of one prompt: where does the model keep what the answer needs?

1. *Clean run*: the probability ``P(o)`` of the answer ``o``.
2. *Corrupted run*: noise on the embeddings of the subject, of the relation, or of any span; ``P*(o)``.
3. *Corrupted-with-restoration runs*: the same noise, and one clean activation written back.

``IE = P*[restored](o) - P*(o)`` is the indirect effect of that activation, ``TE = P(o) - P*(o)`` the total effect
(ROME, section 2.1; paper 000, section 3.3; the relation's side: paper 001, section 3.3).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias

import torch
from tqdm.auto import tqdm

from tl_knowledge.errors import NumericalError
from tl_knowledge.model import Component, HookedModel, Module, check_layers, check_model, describe_model, has_units, layer_count, severable
from tl_knowledge.prompts import Prompt, Span
from tl_knowledge.provenance import Provenance
from tl_knowledge.rows import growing_rows_refusal
from tl_knowledge.tracing.arguments import (
    answer_label,
    check_prompt,
    check_words,
    choose_answer,
    corrupted_span,
    resolve_noise,
    sample_count,
    traced_positions,
    traced_units,
)
from tl_knowledge.tracing.corruption import Noise, PromptSwap
from tl_knowledge.tracing.engines import Experiment, loop_over_sites, sweep_sites
from tl_knowledge.tracing.result import CausalTrace
from tl_knowledge.tracing.sites import Semantics, Site, Window, plan_sites, resolve_window

__all__ = ["Engine", "trace"]

Engine: TypeAlias = Literal["rows", "loop"]
GIBIBYTE = 2.0**30


def trace(
    model: HookedModel,
    prompt: Prompt,
    noise: Noise | PromptSwap | float | str | None = None,
    *,
    corrupt: str | Span | Iterable[int] = "subject",
    component: Component = "resid_post",
    window: Window = "auto",
    sever: Module | Sequence[Module] | None = None,
    samples: int | None = None,
    engine: Engine = "rows",
    target: str | int | None = None,
    seed: int | None = None,
    multi_token: bool = False,
    layers: Sequence[int] | None = None,
    positions: Span | Iterable[int] | None = None,
    units: Sequence[int] | None = None,
    semantics: Semantics = "paper",
    memory_budget: float = GIBIBYTE,
    progress: bool = True,
) -> CausalTrace:
    """Trace where the information behind an answer enters, is kept and leaves.

    Args:
        noise: corruption settings, or the standard deviation of Gaussian noise as a number or a rule. Default ``"3sd"``:
            three standard deviations of the embedding matrix.
        corrupt: ``"subject"``, ``"relation"`` (paper 001), another span's name, a `Span`, or positions.
        component: what is restored: a state, a module's output, a head's ``z`` or a neuron's activation.
        window: layers restored together around each layer; ``"auto"`` is a fifth of the layers for modules, else 1.
        sever: modules pinned to the corrupted run at the restored position, in all layers (ROME, figure 3).
        samples: noise draws; 10, or 1 for a `PromptSwap`.
        engine: ``"rows"`` (one sweep with a growing batch) or ``"loop"`` (one forward a site); equal to rounding.
        target: text or token of the answer; default the prompt's target, else the clean run's prediction.
        seed: overrides the noise's.
        multi_token: score the product over all of the target's tokens instead of its first token.
        layers, positions, units: restrict the trace. Positions default to all, for neurons to the last corrupted one;
            units (heads, neurons) to all.
        semantics: ``"paper"``, or ``"rome_code"`` for the original program's noise stream and windows.
        memory_budget: bytes that the sweep's activations may take.
        progress: show a progress bar once the work has lasted two seconds.

    Returns:
        A `CausalTrace` with ``indirect_effect [sample layer pos]`` (``[sample layer pos unit]`` for heads and neurons).

    Raises:
        ModelError: a model that cannot be traced, or is in training mode with dropout.
        PromptError, ComponentError, CorruptionError, TargetError: an argument that does not fit.
        NumericalError: probabilities that are not finite.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> prompt = tlk.Prompt.from_fact(model, tlk.load_facts("factlm")[0])
        >>> result = tlk.trace(model, prompt, corrupt="subject", component="mlp_out")
        >>> tuple(result.indirect_effect.shape) == (10, 8, len(prompt))
        True
    """
    check_model(model)
    check_prompt(model, prompt)
    check_words(component, engine, semantics)
    span = corrupted_span(prompt, corrupt)
    settings = resolve_noise(model, prompt, noise, seed, semantics)
    answer, known = choose_answer(model, prompt, target, multi_token)
    experiment = Experiment(
        model=model,
        tokens=torch.cat([prompt.tokens.to(answer.device), answer[None, :-1]], dim=1),
        answer=answer,
        corrupted_positions=span.positions,
        noise=settings,
        samples=sample_count(samples, settings),
        component=component,
        severed=severable(sever or ()),
    )
    width = resolve_window(model, component, window, semantics)
    chosen_layers = check_layers(model, range(layer_count(model)) if layers is None else layers)
    chosen_positions = traced_positions(prompt, span, component, positions)
    chosen_units = traced_units(model, component, units)
    sites = plan_sites(
        model,
        component,
        layers=chosen_layers,
        positions=chosen_positions,
        units=chosen_units,
        window=width,
        semantics=semantics,
        first_corrupted=span.first,
        answer_positions=experiment.answer_positions,
    )
    probability, engine_used = _run(experiment, sites, engine, memory_budget, progress)
    corrupted = experiment.corrupted_probability
    shape = (len(corrupted), len(chosen_layers), len(prompt), len(chosen_units))
    effect = _scatter(sites, probability - corrupted, shape, chosen_layers, chosen_positions, chosen_units)
    choices = {"noise": repr(settings), "samples": len(corrupted), "semantics": semantics, "multi_token": multi_token, "prompt": prompt.text}
    return CausalTrace(
        indirect_effect=effect if has_units(component) else effect.squeeze(-1),
        total_effect=(experiment.clean_probability - corrupted).cpu(),
        clean_probability=experiment.clean_probability,
        corrupted_probability=corrupted.cpu(),
        component=component,
        window=width,
        severed=experiment.severed,
        layers=chosen_layers,
        units=chosen_units if has_units(component) else (),
        corrupted=span,
        spans=dict(prompt.spans),
        labels=prompt.labels,
        target=answer_label(model, prompt, answer),
        known=known,
        provenance=_provenance(model, prompt, getattr(settings, "seed", 0), engine_used, choices),
    )


def _provenance(model: HookedModel, prompt: Prompt, seed: int, engine: str, settings: dict[str, Any]) -> Provenance:
    return Provenance(**describe_model(model), prepends_bos=prompt.has_bos, seed=seed, engine=engine, settings=settings)


def _run(experiment: Experiment, sites: Sequence[Site], engine: Engine, memory_budget: float, progress: bool) -> tuple[torch.Tensor, str]:
    """Probabilities ``[site sample]`` and the engine that gave them."""
    refusal = growing_rows_refusal(experiment.model) if engine == "rows" else None
    with tqdm(total=len(sites), desc=f"trace {experiment.component}", unit="site", delay=2, disable=not progress) as bar:

        def advance(count: int) -> None:
            bar.update(count)

        if not sites:
            return torch.empty(0, experiment.samples), engine
        if engine == "loop" or refusal:
            found = loop_over_sites(experiment, sites, advance)
        else:
            found = sweep_sites(experiment, sites, memory_budget, advance)
    if not bool(found.isfinite().all()):
        raise NumericalError("restored runs gave probabilities that are not finite; load the model in float32, or lower the noise.")
    return found, f"loop (growing rows refused: {refusal})" if refusal else engine


def _scatter(
    sites: Sequence[Site],
    effect: torch.Tensor,
    shape: tuple[int, int, int, int],
    layers: Sequence[int],
    positions: Sequence[int],
    units: Sequence[int],
) -> torch.Tensor:
    """Effects ``[site sample]`` in their places of ``[sample layer pos unit]``: exact zeros where no run was needed."""
    table = torch.full(shape, float("nan"), dtype=effect.dtype)
    table[:, :, list(positions)] = 0.0
    if sites:
        layer_at = {layer: i for i, layer in enumerate(layers)}
        unit_at = {unit: i for i, unit in enumerate(units)}
        rows = torch.tensor([[layer_at[s.layer], s.pos, unit_at[s.unit] if s.unit is not None else 0] for s in sites])
        table[:, rows[:, 0], rows[:, 1], rows[:, 2]] = effect.T.cpu()
    return table
