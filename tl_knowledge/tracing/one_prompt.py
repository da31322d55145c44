"""Causal tracing of one prompt: where does the model keep what the answer needs?

1. *Clean run*: the probability ``P(o)`` of the answer ``o``.
2. *Corrupted run*: noise on the embeddings of the subject, of the relation, or of any span; ``P*(o)``.
3. *Corrupted-with-restoration runs*: the same noise, and one clean activation written back.

``IE = P*[restored](o) - P*(o)`` is the indirect effect of that activation, ``TE = P(o) - P*(o)`` the total effect
(Meng et al. 2022, section 2.1; Wen and Bai, section 3.3; the relation's side: Wei et al. 2024, section 3.3). ``metric`` puts another number in the
probability's place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from tl_knowledge.door import public
from tl_knowledge.engine.acting import check_sites
from tl_knowledge.engine.progress import progress_bar
from tl_knowledge.engine.rows import MEMORY_BUDGET
from tl_knowledge.models.hook_names import Component, Module, severable
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.prompts.prompt import Prompt, check_fits
from tl_knowledge.prompts.spans import Span
from tl_knowledge.runs.arguments import Engine, check_words
from tl_knowledge.runs.corruption import Noise, PromptSwap
from tl_knowledge.runs.experiment import Experiment
from tl_knowledge.runs.metric import Against, AnyMetric
from tl_knowledge.runs.several import each_prompt
from tl_knowledge.runs.windows import TraceVariant, Window
from tl_knowledge.tracing.asked import PromptTraces
from tl_knowledge.tracing.engines import exact_scores
from tl_knowledge.tracing.result import CausalTrace
from tl_knowledge.tracing.screen import ScreenCheck, screened_scores
from tl_knowledge.tracing.sites import Site

__all__ = ["trace"]


@each_prompt
@public
def trace(
    model: AnyModel,
    prompt: Prompt,
    noise: Noise | PromptSwap | float | str | None = None,
    *,
    corrupt: str | Span | int | Iterable[int] = "subject",
    component: Component = "resid_post",
    window: Window = "auto",
    sever: Module | Sequence[Module] | None = (),
    samples: int = 10,
    engine: Engine = "rows",
    verify: int = 20,
    target: str | int | None = None,
    seed: int = 0,
    multi_token: bool = False,
    metric: AnyMetric = "probability",
    against: Against = None,
    layers: int | Iterable[int] | None = None,
    positions: int | Span | Iterable[int] | None = None,
    units: int | Iterable[int] | None = None,
    variant: TraceVariant = "ours",
    memory_budget: float = MEMORY_BUDGET,
    progress: bool = True,
) -> CausalTrace:
    """Trace where the information behind an answer enters, is kept and leaves.

    Args:
        noise: corruption settings, or the standard deviation of Gaussian noise as a number or a rule. Default ``"3sd"``:
            three standard deviations of the embedding matrix.
        model: a model, or its name or directory.
        prompt: a prompt, or a list of prompts, which gives a list of traces.
        corrupt: ``"subject"``, ``"relation"`` (Wei et al. 2024), another span's name, a `Span`, or positions.
        component: what is restored: a state (``"resid_post"``, ``"resid_pre"``), a module's output, a head's ``z``, ``q``, ``k``, ``v``, pattern or
            scores (the last two at the position that attends), what an MLP reads, or a neuron's activation.
        window: layers restored together around each layer; ``"auto"`` is a fifth of the layers for modules, else 1.
        sever: modules, or parts of them such as ``"pattern"``, pinned to the corrupted run at the restored position, in all layers (Meng et
            al. 2022, figure 3).
        samples: noise draws; a `PromptSwap` draws nothing and has one.
        engine: ``"rows"`` (one sweep with a growing batch) or ``"loop"`` (one forward a site), equal to rounding; or
            ``"screen"``: first-order estimates of all effects from one forward and one backward.
        verify: how many of the screen's largest effects are traced exactly and replace their estimates.
        target: text or token of the answer; default the prompt's target, else the clean run's prediction.
        seed: of noise that has no seed of its own.
        multi_token: score the product over all of the target's tokens instead of its first token.
        metric: what effects are measured in: ``"probability"``, ``"log_probability"``, ``"logit"``, ``"logit_difference"``, ``"kl"``, ``"rank"``,
            or a function ``logits [row d_vocab] -> [row]``. Of all of them more is better: ``"kl"`` and ``"rank"`` count with a minus, so that
            an effect above 0 always is one towards the clean answer.
        against: the other answer or answers of a logit difference: texts (their first tokens) or tokens.
        layers, positions, units: restrict the trace. Positions default to all, for neurons to the last corrupted one;
            units (heads, neurons) to all.
        variant: ``"ours"``, or ``"meng2022_code"`` for the noise stream and windows of Meng et al.'s program.
        memory_budget: bytes that the sweep's activations may take.
        progress: show a progress bar once the work has lasted two seconds.

    Returns:
        A `CausalTrace` with ``indirect_effect [sample layer pos]`` (``[sample layer pos unit]`` for heads and neurons).

    Raises:
        ModelError: a model that cannot be traced, or is in training mode with dropout.
        PromptError, ComponentError, CorruptionError, TargetError, InputError: an argument that does not fit.
        NumericalError: probabilities, or values of the metric, that are not finite.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> prompt = tlk.Prompt.from_fact(model, tlk.load_facts("factlm")[0])
        >>> result = tlk.trace(model, prompt, corrupt="subject", component="mlp_out")
        >>> tuple(result.indirect_effect.shape) == (10, 8, len(prompt))
        True
        >>> facts = tlk.load_facts("factlm")[:2]
        >>> [one.target for one in tlk.trace(model, facts, samples=2)] == [fact.target for fact in facts]
        True
    """
    model = as_model(model, without_mlps=True)
    check_fits(model, prompt)
    check_words(component, engine, variant)
    check_sites(model, (component, *severable(sever)))
    asked = PromptTraces.of(
        model,
        prompt,
        noise,
        corrupt=(corrupt,),
        samples=samples,
        seed=seed,
        target=target,
        multi_token=multi_token,
        metric=metric,
        against=against,
        variant=variant,
    )
    grid = asked.grid(0, component, window, severable(sever), layers=layers, positions=positions, units=units)
    sites = grid.sites(asked.experiment, run=0)
    scores, engine_used, check = _run(asked.experiment, sites, engine, verify, memory_budget, progress)
    return asked.result(0, grid, sites, scores, asked.provenance(engine_used), check)


def _run(
    experiment: Experiment, sites: Sequence[Site], engine: Engine, verify: int, memory_budget: float, progress: bool
) -> tuple[torch.Tensor, str, ScreenCheck | None]:
    """Scores ``[site sample]``, the engine that gave them, and the screen's check."""
    with progress_bar(what="trace", unit="site", progress=progress, total=verify if engine == "screen" else len(sites)) as bar:

        def advance(count: int) -> None:
            bar.update(count)

        if engine == "screen":
            return screened_scores(experiment, sites, verify, memory_budget, advance)
        return *exact_scores(experiment, sites, engine, memory_budget, advance), None
