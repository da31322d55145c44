"""One fact from trace to edit: everything the package says of it, gathered, and written as one page."""

from __future__ import annotations

from collections.abc import Sequence

from more_itertools import always_iterable, one

from tl_knowledge.arrays import Hooks
from tl_knowledge.attention import AttentionAnalysis, DirectLogitAttribution, analyse_attention, direct_logit_attribution, logit_lens
from tl_knowledge.circuits import Circuit, from_edit, from_neurons, from_trace, measured_once
from tl_knowledge.datasets import paraphrases
from tl_knowledge.door import public
from tl_knowledge.editing import ROME, Edit, EditMethod, KeyMoments, edit_view, plan_edit
from tl_knowledge.engine.batches import answer_probabilities, likeliest_next
from tl_knowledge.engine.forecast import parts_bar
from tl_knowledge.errors import InputError, UnsupportedModelError
from tl_knowledge.evaluation import EditMeasure, measure_consequences
from tl_knowledge.models.hook_names import Component, Module
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.neurons import attribute_neurons, neuron_view, select_neurons
from tl_knowledge.prompts.facts import EditCase, Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.report.findings import Continuations, EditedFact, NeuronFindings
from tl_knowledge.report.result import FactReport
from tl_knowledge.report.settings import ReportSettings
from tl_knowledge.report.work import report_work
from tl_knowledge.runs.roles import SIDES
from tl_knowledge.tracing import CausalTrace, trace_together

__all__ = ["report_fact"]

WORDINGS_CONTINUED = 4
MODULES: tuple[Module, ...] = ("mlp_out", "attn_out")
"""What is traced beside the residual state, and severed while it is restored."""


@public
def report_fact(
    model: AnyModel,
    fact: Fact | EditCase,
    *,
    edit_to: str | None = None,
    method: EditMethod | None = None,
    moments: KeyMoments | None = None,
    measures: EditMeasure | Sequence[EditMeasure] = (),
    limit: int = 20,
    samples: int = 10,
    seed: int = 0,
    progress: bool = True,
) -> FactReport:
    """Trace a fact from both sides, find its neurons, its circuit and its heads, and, where wanted, edit it and see what changed.

    The model is left as it was.

    Args:
        fact: itself; or an edit case, which brings its new object, its neighbours and its tests: the page then says what the edit moved.
        edit_to: the new object, with its leading space.
        method: how to edit; ROME at the model's published layer, which needs ``moments``.
        moments: of the model's keys, for methods that need them.
        measures: what else to ask for that section, as `tl_knowledge.evaluation.measure_consequences`.
        limit: sites of a circuit, at most.
        samples, seed: of the noise.
        progress: show a progress bar; of work longer than two seconds it is there at once, and says how long it will take.

    Raises:
        InputError: another new object than the case's, or measures without an edit.
        TLKnowledgeError: as the functions it calls.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> report = tlk.report_fact(model, tlk.load_facts("factlm")[0], samples=2, progress=False)
        >>> report.to_html().startswith("<!doctype html>")
        True
    """
    model, asked = as_model(model), tuple(always_iterable(measures, EditMeasure))
    case = _case(fact, edit_to, asked)
    fact = fact.fact if isinstance(fact, EditCase) else fact
    prompt, settings = Prompt.from_fact(model, fact), ReportSettings(limit, samples, seed)
    shape: dict[str, int] = {"wordings": max(1, len(fact.paraphrases)), "components": 1 + 2 * len(MODULES), "modules": len(MODULES)}
    work = report_work(model, prompt, settings, edited=case is not None, **shape)
    with parts_bar(model, prompt.tokens, what="report", work=work, progress=progress) as bar:
        with bar.part("edit"):
            edit = None if case is None else _plan(model, case, method, moments)
        traces: dict[str, tuple[CausalTrace, ...]] = {}
        for side in SIDES:
            with bar.part(f"traces of the {side}"):
                traces[side] = _traces(model, prompt, side, ("resid_post", *MODULES), MODULES, settings)
        with measured_once():  # the neurons' circuit and the subject's ask of the same attention outputs
            with bar.part("neurons"):
                neurons = _neurons(model, fact, prompt, settings)
            with bar.part("circuits"):
                circuits = {side: _circuit(model, prompt, of_side, settings) for side, of_side in traces.items()}
        with bar.part("heads"):
            attention, missing = _attention(model, prompt, settings)
        with bar.part("direct effects"):
            (direct, no_direct), lens = _direct(model, prompt), logit_lens(model, prompt)
        with bar.part("what the edit does"):
            edited = None if edit is None or case is None else _edited(model, case, edit, settings, asked)
    return FactReport(fact, prompt, traces, neurons, circuits, attention, missing, direct, no_direct, lens, edited, settings)


def _case(fact: Fact | EditCase, edit_to: str | None, measures: Sequence[EditMeasure]) -> EditCase | None:
    """The edit that is wanted; ``None`` where none is.

    Raises:
        InputError: another new object than the case's, or measures without an edit.
    """
    if isinstance(fact, EditCase):
        if edit_to not in (None, fact.target_new):
            raise InputError(f"edit_to={edit_to!r} is not the case's new object {fact.target_new!r}; drop it, or pass case.fact.")
        return fact
    if edit_to is None:
        if measures:
            raise InputError("measures= are read of an edited model, and there is no edit; pass edit_to= with the new object, or an EditCase.")
        return None
    return EditCase(fact, edit_to, tuple(fact.rephrase(template) for template in fact.paraphrases), ())


def _traces(
    model: HookedModel, prompt: Prompt, side: str, components: Sequence[Component], sever: Sequence[Module], settings: ReportSettings
) -> tuple[CausalTrace, ...]:
    """One side corrupted: a trace of each component, then of the residual state with each module severed."""
    samples, seed = settings.samples, settings.seed
    return tuple(trace_together(model, prompt, corrupt=side, components=components, sever=sever, samples=samples, seed=seed, progress=False))


def _circuit(model: HookedModel, prompt: Prompt, traces: tuple[CausalTrace, ...], settings: ReportSettings) -> Circuit:
    modules = [traced for traced in traces if traced.component in MODULES]
    return from_trace(model, prompt, modules, limit=settings.limit, progress=False)


def _attention(model: HookedModel, prompt: Prompt, settings: ReportSettings) -> tuple[AttentionAnalysis | None, str]:
    """The heads' analysis, or why this model has none; the rest of a report does not need it."""
    try:
        return analyse_attention(model, prompt, samples=settings.samples, seed=settings.seed, progress=False), ""
    except UnsupportedModelError as error:
        return None, str(error)


def _direct(model: HookedModel, prompt: Prompt) -> tuple[DirectLogitAttribution | None, str]:
    """What writes the answer, or why this model does not say."""
    try:
        return direct_logit_attribution(model, prompt, progress=False), ""
    except UnsupportedModelError as error:
        return None, str(error)


def _neurons(model: HookedModel, fact: Fact, prompt: Prompt, settings: ReportSettings) -> NeuronFindings:
    """The neurons that the fact's wordings share, and the answer's probability when they, or random ones, are scaled."""
    wordings = paraphrases(model, fact) if fact.paraphrases else [prompt]
    scores = attribute_neurons(model, wordings, at="subject", progress=False)
    neurons = select_neurons(scores, threshold=settings.threshold, shared_by=settings.shared_by)
    scaled: dict[str, Hooks] = {"left alone": []}
    if not len(neurons):
        return NeuronFindings(neurons, len(wordings), {"left alone": _probability(model, prompt, [])}, None, None)
    place, control = prompt.subject.last, neurons.random_control(settings.seed)
    scaled |= {"suppressed": neurons.suppress(positions=place), "enhanced (x 2)": neurons.enhance(positions=place)}
    scaled |= {"random neurons suppressed": control.suppress(positions=place), "random neurons enhanced (x 2)": control.enhance(positions=place)}
    return NeuronFindings(
        neurons,
        len(wordings),
        {what: _probability(model, prompt, hooks) for what, hooks in scaled.items()},
        neuron_view(model, prompt, neurons),
        from_neurons(model, prompt, neurons, positions=[place], samples=settings.samples, seed=settings.seed, progress=False),
    )


def _probability(model: HookedModel, prompt: Prompt, hooks: Hooks) -> float:
    return float(one(answer_probabilities(model, [prompt], lambda _: hooks)))


def _plan(model: HookedModel, case: EditCase, method: EditMethod | None, moments: KeyMoments | None) -> Edit:
    """The edit that a report draws.

    Raises:
        InputError: one that changes no weights, and so has no circuit of them.
    """
    edit = plan_edit(model, case.writes, method or ROME.for_model(model), moments=moments, progress=False)
    if not isinstance(edit, Edit):
        raise InputError(f"a report draws the circuit of an edit of weights, and {type(method).__name__} changes none; pass another, such as ROME.")
    return edit


def _edited(model: HookedModel, case: EditCase, edit: Edit, settings: ReportSettings, measures: Sequence[EditMeasure]) -> EditedFact:
    """What the edit does: to the wordings' continuations, to the fact's circuit, through which sites, and to what else there is to ask."""
    rewrite = case.rewrite
    prompt = Prompt.from_fact(model, rewrite)
    wordings = [prompt, *(Prompt.from_fact(model, rewrite.rephrase(fact.template)) for fact in case.paraphrases[:WORDINGS_CONTINUED])]
    more = measures or case.neighbourhood or case.tests
    with edit.applied(model):
        after = _circuit(model, prompt, _traces(model, prompt, "subject", MODULES, (), settings), settings)
    return EditedFact(
        edit,
        edit.health(model),
        tuple(Continuations(each.text, likeliest_next(model, each, []), likeliest_next(model, each, edit.hooks())) for each in wordings),
        from_edit(model, prompt, edit, limit=settings.limit, progress=False),
        after,
        tuple(edit_view(model, prompt, edit).views),
        measure_consequences(model, case, edit, measures=measures) if more else None,
    )
