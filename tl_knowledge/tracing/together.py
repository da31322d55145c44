"""Several traces of one prompt in one sweep: components, sides and severings share the clean run, the corrupted runs and the forwards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, product

from more_itertools import always_iterable, unique_everseen

from tl_knowledge.door import public
from tl_knowledge.engine.acting import check_sites
from tl_knowledge.engine.progress import progress_bar
from tl_knowledge.engine.rows import MEMORY_BUDGET
from tl_knowledge.errors import ComponentError, check_choice, check_given
from tl_knowledge.models.hook_names import Component, Module, has_units, severable
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.prompts.prompt import Prompt, check_fits
from tl_knowledge.prompts.spans import Span
from tl_knowledge.runs.arguments import check_words
from tl_knowledge.runs.corruption import Noise, PromptSwap
from tl_knowledge.runs.metric import Against, AnyMetric
from tl_knowledge.runs.roles import SIDES
from tl_knowledge.runs.several import each_prompt
from tl_knowledge.runs.windows import TraceVariant, Window
from tl_knowledge.tracing.asked import PromptTraces
from tl_knowledge.tracing.engines import exact_scores
from tl_knowledge.tracing.result import CausalTrace
from tl_knowledge.tracing.sets.settings import ExactEngine
from tl_knowledge.tracing.sites import Grid

__all__ = ["trace_together"]


@each_prompt
@public
def trace_together(
    model: AnyModel,
    prompt: Prompt,
    noise: Noise | PromptSwap | float | str | None = None,
    *,
    corrupt: str | Span | Sequence[str | Span] = SIDES,
    components: Component | Sequence[Component] = ("resid_post", "mlp_out", "attn_out"),
    sever: Module | Sequence[Module | Sequence[Module]] | None = (),
    window: Window = "auto",
    samples: int = 10,
    engine: ExactEngine = "rows",
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
) -> list[CausalTrace]:
    """Several traces of one prompt in one sweep: each is, to rounding, what `trace` gives.

    The clean run, the corrupted runs and their keys and values are computed once, and restored runs of all components, sides and severings go
    through the model together.

    Args:
        model: a model, or its name or directory.
        prompt: a prompt, or a list of prompts, which gives a list of lists.
        noise: as in `trace`; the same for all of them.
        corrupt: what is corrupted, each by itself: ``"subject"``, ``"relation"``, another span's name, or a `Span`; or several of these.
        components: what is restored, each by itself, as in `trace`.
        sever: severings, each by itself, while the residual state is restored (Meng et al. 2022, figure 3): a module, or several that are pinned
            together, such as ``sever=["mlp_out", ("mlp_out", "attn_out")]``. As in `trace_facts`; in `trace` several modules are pinned together.
        units: which heads or neurons, of components that have them; all when ``None``.
        engine: ``"rows"`` or ``"loop"``.
        window, samples, target, seed, multi_token, metric, against, layers, positions, variant, memory_budget, progress: as in `trace`.

    Returns:
        The traces: of the first component every corruption, of the next, and so on; then of the first severing.

    Raises:
        ModelError, PromptError, ComponentError, CorruptionError, TargetError, InputError, NumericalError: as `trace`.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> prompt = tlk.Prompt.from_fact(model, tlk.load_facts("factlm")[0])
        >>> traces = tlk.tracing.trace_together(model, prompt, components=("mlp_out", "attn_out"), sever="mlp_out", samples=2, progress=False)
        >>> [(one.component, one.severed, one.corrupted.name) for one in traces[:2] + traces[-1:]]
        [('mlp_out', (), 'subject'), ('mlp_out', (), 'relation'), ('resid_post', ('mlp_out',), 'relation')]
    """
    model = as_model(model, without_mlps=True)
    check_fits(model, prompt)
    parts = tuple(dict.fromkeys(check_given(always_iterable(components), "component")))
    severings = tuple(unique_everseen((severable(each) for each in always_iterable(sever)), key=frozenset))
    for component in parts:
        check_words(component, engine, variant)
    check_choice("engine", engine, ExactEngine, ComponentError)
    check_sites(model, (*parts, *(module for severed in severings for module in severed)))
    asked = PromptTraces.of(
        model,
        prompt,
        noise,
        corrupt=check_given(dict.fromkeys(always_iterable(corrupt, (str, Span))), "span to corrupt"),
        samples=samples,
        seed=seed,
        target=target,
        multi_token=multi_token,
        metric=metric,
        against=against,
        variant=variant,
    )
    none: tuple[Module, ...] = ()
    measures: list[tuple[Component, tuple[Module, ...]]] = [*((part, none) for part in parts), *(("resid_post", each) for each in severings)]
    traced: list[tuple[int, Grid]] = []
    for (component, severed), run in product(measures, range(len(asked.spans))):
        asks_units = has_units(component) or not any(map(has_units, parts))  # where nothing has units, the first says so
        of_units = units if asks_units else None
        traced.append((run, asked.grid(run, component, window, severed, layers=layers, positions=positions, units=of_units)))
    return _results(asked, traced, engine, memory_budget, progress)


def _results(asked: PromptTraces, traced: Sequence[tuple[int, Grid]], engine: ExactEngine, memory_budget: float, progress: bool) -> list[CausalTrace]:
    """All sites in one sweep, and their scores dealt out again."""
    sites = [grid.sites(asked.experiment, run) for run, grid in traced]
    with progress_bar(what="trace", unit="site", progress=progress, total=sum(map(len, sites))) as bar:

        def advance(count: int) -> None:
            bar.update(count)

        scores, used = exact_scores(asked.experiment, list(chain.from_iterable(sites)), engine, memory_budget, advance)
    made, parts = asked.provenance(used), scores.split([len(each) for each in sites])
    return [asked.result(run, grid, own, part, made) for (run, grid), own, part in zip(traced, sites, parts, strict=True)]
