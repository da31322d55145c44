"""Causal tracing of one prompt: where does the model keep what the answer needs?

1. *Clean run*: the probability ``P(o)`` of the answer ``o``.
2. *Corrupted run*: noise on the embeddings of the subject, of the relation, or of any span; ``P*(o)``.
3. *Corrupted-with-restoration runs*: the same noise, and one clean activation written back.

``IE = P*[restored](o) - P*(o)`` is the indirect effect of that activation, ``TE = P(o) - P*(o)`` the total effect
(ROME, section 2.1; paper 000, section 3.3; the relation's side: paper 001, section 3.3).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from tqdm.auto import tqdm

from tl_knowledge.engine.rows import MEMORY_BUDGET
from tl_knowledge.models.checks import check_layers, check_model
from tl_knowledge.models.description import describe_model
from tl_knowledge.models.hook_names import Component, Module, has_units, severable
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.prompt import Prompt, check_fits
from tl_knowledge.prompts.spans import Span
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.runs.arguments import (
    Engine,
    answer_label,
    check_words,
    choose_answer,
    corrupted_span,
    resolve_noise,
    sample_count,
    traced_positions,
    traced_units,
)
from tl_knowledge.runs.corruption import Noise, PromptSwap
from tl_knowledge.runs.experiment import CorruptedRun, Experiment, answered
from tl_knowledge.runs.windows import TraceVariant, Window, resolve_window
from tl_knowledge.tracing.engines import exact_probability
from tl_knowledge.tracing.result import CausalTrace
from tl_knowledge.tracing.screen import ScreenCheck, screened_probability
from tl_knowledge.tracing.sites import Grid, Site

__all__ = ["trace"]


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
    verify: int = 20,
    target: str | int | None = None,
    seed: int | None = None,
    multi_token: bool = False,
    layers: Sequence[int] | None = None,
    positions: Span | Iterable[int] | None = None,
    units: Sequence[int] | None = None,
    variant: TraceVariant = "ours",
    memory_budget: float = MEMORY_BUDGET,
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
        engine: ``"rows"`` (one sweep with a growing batch) or ``"loop"`` (one forward a site), equal to rounding; or
            ``"screen"``: first-order estimates of all effects from one forward and one backward.
        verify: how many of the screen's largest effects are traced exactly and replace their estimates.
        target: text or token of the answer; default the prompt's target, else the clean run's prediction.
        seed: overrides the noise's.
        multi_token: score the product over all of the target's tokens instead of its first token.
        layers, positions, units: restrict the trace. Positions default to all, for neurons to the last corrupted one;
            units (heads, neurons) to all.
        variant: ``"ours"``, or ``"meng2022_code"`` for the original program's noise stream and windows.
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
    check_fits(model, prompt)
    check_words(component, engine, variant)
    span = corrupted_span(prompt, corrupt)
    settings = resolve_noise(model, prompt, noise, seed, variant)
    severed = severable(sever or ())
    experiment = Experiment(
        model=model,
        prompts=(answered(prompt, choose_answer(model, prompt, target, multi_token)),),
        runs=(CorruptedRun(0, span.positions, settings),),
        samples=sample_count(samples, settings),
    )
    grid = Grid(
        component=component,
        window=resolve_window(model, component, window, variant),
        variant=variant,
        severed=severed,
        layers=check_layers(model, layers),
        positions=traced_positions(prompt, span, component, positions),
        units=traced_units(model, component, units),
    )
    sites = grid.sites(experiment, run=0)
    probability, used, check = _run(experiment, sites, engine, verify, memory_budget, progress)
    corrupted = experiment.corrupted_probability(0)
    answer = experiment.prompts[0].answer
    choices: dict[str, Any] = {"noise": repr(settings), "samples": len(corrupted), "variant": variant, "multi_token": multi_token}
    choices |= {"prompt": prompt.text, "answer": answer.tolist()}
    return CausalTrace(
        indirect_effect=grid.arrange(sites, probability - corrupted, len(prompt)),
        total_effect=(experiment.clean_probability(0) - corrupted).cpu(),
        clean_probability=experiment.clean_probability(0),
        corrupted_probability=corrupted.cpu(),
        component=component,
        window=grid.window,
        severed=severed,
        layers=grid.layers,
        units=grid.units if has_units(component) else (),
        corrupted=span,
        spans=dict(prompt.spans),
        labels=prompt.labels,
        target=answer_label(model, prompt, answer),
        known=int(experiment.base.predicted[0]) == int(answer[0]),
        provenance=_provenance(model, prompt, getattr(settings, "seed", 0), used, choices),
        screen=check,
    )


def _provenance(model: HookedModel, prompt: Prompt, seed: int, engine: str, settings: dict[str, Any]) -> Provenance:
    return Provenance(**describe_model(model), prepends_bos=prompt.has_bos, seed=seed, engine=engine, settings=settings)


def _run(
    experiment: Experiment, sites: Sequence[Site], engine: Engine, verify: int, memory_budget: float, progress: bool
) -> tuple[torch.Tensor, str, ScreenCheck | None]:
    """Probabilities ``[site sample]``, the engine that gave them, and the screen's check."""
    with tqdm(total=verify if engine == "screen" else len(sites), desc="trace", unit="site", delay=2, disable=not progress) as bar:

        def advance(count: int) -> None:
            bar.update(count)

        if engine == "screen":
            return screened_probability(experiment, sites, verify, memory_budget, advance)
        return *exact_probability(experiment, sites, engine, memory_budget, advance), None
