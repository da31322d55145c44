"""Circuits from what the other methods gave: traced sites, knowledge neurons, an edit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from more_itertools import always_iterable

from tl_knowledge.circuits.assemble import MOST_CANDIDATES, assemble
from tl_knowledge.circuits.circuit import Circuit
from tl_knowledge.circuits.settings import CircuitSettings, Rank, check_words
from tl_knowledge.door import public
from tl_knowledge.editing import Edit
from tl_knowledge.engine.progress import show_progress
from tl_knowledge.engine.rows import MEMORY_BUDGET
from tl_knowledge.errors import ComponentError, PromptError, check_choice, check_given
from tl_knowledge.models.description import check_same_weights
from tl_knowledge.models.hook_names import NodeComponent, Written
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import layer_count, model_device
from tl_knowledge.neurons import NeuronSet
from tl_knowledge.prompts.prompt import Prompt, check_fits
from tl_knowledge.prompts.spans import Span
from tl_knowledge.runs.arguments import answer_label, choose_answer, corrupted_span, resolve_noise, sample_count, traced_positions
from tl_knowledge.runs.contrast import edit_contrast, node_hooks, noise_contrast
from tl_knowledge.runs.corruption import Noise, PromptSwap
from tl_knowledge.runs.metric import Against, AnyMetric
from tl_knowledge.runs.metric_arguments import resolve_metric
from tl_knowledge.runs.nodes import Node
from tl_knowledge.tracing import CausalTrace, TraceSettings

__all__ = ["from_edit", "from_neurons", "from_trace"]


@public
def from_trace(
    model: AnyModel,
    prompt: Prompt,
    traces: CausalTrace | Iterable[CausalTrace],
    *,
    limit: int = 20,
    rank: Rank = "need",
    threshold: float = 0.02,
    metric: AnyMetric = "probability",
    against: Against = None,
    memory_budget: float = MEMORY_BUDGET,
    progress: bool = True,
) -> Circuit:
    """The circuit between the sites of causal traces.

    Args:
        model: the traced model, or its name or directory.
        prompt: the traced one.
        traces: one, or several of one corruption (for example of ``mlp_out`` and ``attn_out``); their components, layers, positions and units
            are the candidates, their noise and answer are the circuit's. Effects are measured again, each site by itself, whatever the traces'
            windows.
        limit: how many sites to look at.
        rank: by what is lost without a site (``"need"``: the most faithful circuits, see the documentation), by what it restores alone
            (``"effect"``, as in the trace), or by the larger of both (``"either"``: where sites stand in for each other).
        threshold: edges whose weight and need are below this share of the total effect are pruned, but for each node's strongest in and out; then
            nodes on no path from the corrupted tokens to the answer.
        metric, against: what effects are measured in, as in `tl_knowledge.trace`; whatever the traces were measured in.
        memory_budget: bytes that the runs' activations may take.
        progress: show at once how long it will take, where that is more than two seconds, and a progress bar of each round of runs.

    Raises:
        ModelError, PromptError, ComponentError: an argument that does not fit.
        DataError: no trace.
        ModelStateError: a trace of other weights.
        CorruptionError: runs that do not differ.
        NumericalError: probabilities that are not finite.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> prompt = tlk.Prompt.from_fact(model, tlk.load_facts("factlm")[0])
        >>> traces = [tlk.trace(model, prompt, component=part, progress=False) for part in ("mlp_out", "attn_out")]
        >>> circuit = tlk.circuits.from_trace(model, prompt, traces)
        >>> circuit.faithfulness > 0.5 and len(circuit.nodes) <= 20
        True
    """
    model = as_model(model)
    check_words(limit, rank, threshold)
    given = check_given(always_iterable(traces, CausalTrace), "trace", "pass at least one, for example tlk.trace(model, prompt, component='mlp_out')")
    for trace in given:
        check_same_weights(model, trace.provenance.weights, "the trace")
    traced = _one_corruption(prompt, given)
    noise = traced.noise.resolve(model)
    check_fits(model, replace(prompt, answer=traced.answer), multi_token=len(traced.answer) > 1)
    settings = CircuitSettings(
        components=tuple(_node_component(trace) for trace in given),
        limit=limit,
        rank=rank,
        threshold=threshold,
        metric=resolve_metric(model, metric, against, answer=traced.answer, multi_token=len(traced.answer) > 1),
        corrupted=traced.corrupted,
        noise=noise,
        samples=traced.samples,
        seed=traced.seed,
        answer=traced.answer,
    )
    hooks, answer = node_hooks(model, settings.components), torch.tensor(traced.answer, device=model_device(model))
    with show_progress(progress):
        contrast = noise_contrast(model, prompt, answer, traced.corrupted.positions, noise, traced.samples, hooks, settings.metric)
        candidates = dict.fromkeys(node for trace in given for node in _sites(trace))
        words = f"{traced.corrupted.name} corrupted"
        return assemble(contrast, list(candidates), prompt, settings, words=words, target=given[0].target, memory_budget=memory_budget)


@public
def from_neurons(
    model: AnyModel,
    prompt: Prompt,
    neurons: NeuronSet,
    noise: Noise | PromptSwap | float | str | None = None,
    *,
    corrupt: str | Span | Iterable[int] = "subject",
    positions: Span | Iterable[int] | None = None,
    samples: int = 10,
    target: str | int | None = None,
    seed: int = 0,
    limit: int = 10,
    threshold: float = 0.02,
    metric: AnyMetric = "probability",
    against: Against = None,
    memory_budget: float = MEMORY_BUDGET,
    progress: bool = True,
) -> Circuit:
    """The circuit of knowledge neurons: one node a layer and position, and the attention outputs that carry what they write.

    Args:
        model, prompt: as in `from_trace`.
        neurons: of this model.
        noise, corrupt, samples, target, seed: as in `tl_knowledge.trace`.
        positions: where the neurons act; default the subject's last token and the last token.
        limit: how many attention outputs to add, those of the largest effect or need.
        threshold, metric, against, memory_budget, progress: as in `from_trace`.

    Raises:
        ComponentError: an empty set, or one of another model; positions outside the prompt.
        ModelError, PromptError, CorruptionError, NumericalError: as `from_trace`.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> fact = tlk.load_facts("factlm")[0]
        >>> scores = tlk.attribute_neurons(model, tlk.paraphrases(model, fact), at="subject", progress=False)
        >>> circuit = tlk.circuits.from_neurons(model, tlk.Prompt.from_fact(model, fact), tlk.select_neurons(scores))
        >>> "neuron" in set(circuit.node_table()["component"])
        True
    """
    model = as_model(model)
    check_fits(model, prompt)
    check_words(limit, "either", threshold, fewest=0)
    if not len(neurons) or neurons.shape != NeuronSet.of(model, []).shape:
        raise ComponentError(
            f"a set of {len(neurons)} neurons of a model of {neurons.n_layers} x {neurons.d_mlp} has no circuit here; pass a set of this model."
        )
    span, corruption = corrupted_span(prompt, corrupt), resolve_noise(model, prompt, noise, seed, "ours")
    answer = choose_answer(model, prompt, target, False)
    places = traced_positions(prompt, span, "mlp_out", {prompt.subject.last, prompt.last.last} if positions is None else positions)
    settings = CircuitSettings(
        components=("neuron", "attn_out"),
        limit=limit,
        rank="either",
        threshold=threshold,
        metric=resolve_metric(model, metric, against, answer=answer.tolist()),
        corrupted=span,
        noise=corruption,
        samples=sample_count(samples, corruption),
        seed=(corruption.seed or 0) if isinstance(corruption, Noise) else 0,
        answer=tuple(answer.tolist()),
    )
    layers = range(layer_count(model)) if limit else range(0)
    with show_progress(progress):
        contrast = noise_contrast(
            model, prompt, answer, span.positions, corruption, settings.samples, node_hooks(model, settings.components), settings.metric
        )
        return assemble(
            contrast,
            [Node("attn_out", layer, pos) for layer in layers for pos in range(span.first, len(prompt))],
            prompt,
            settings,
            fixed=_groups(neurons, [pos for pos in places if pos >= span.first], prompt.last.last),
            words=f"{span.name} corrupted, {len(neurons)} neurons",
            target=answer_label(model, prompt, answer),
            memory_budget=memory_budget,
            neurons=len(neurons),
        )


@public
def from_edit(
    model: AnyModel,
    prompt: Prompt,
    edit: Edit,
    *,
    components: Written | Iterable[Written] = ("attn_out", "mlp_out"),
    limit: int = 20,
    rank: Rank = "need",
    threshold: float = 0.02,
    metric: AnyMetric = "log_probability",
    against: Against = None,
    memory_budget: float = MEMORY_BUDGET,
    progress: bool = True,
) -> Circuit:
    """The circuit through which an edit makes the model say the prompt's target; the weights stay as they are.

    The edited run takes the clean run's place and the unedited run the corrupted one's; the sources are what the edited MLPs write.

    Args:
        model: without the edit, or its name or directory.
        prompt: with the edit's new target.
        components: what can be a node.
        metric, against: as in `from_trace`; most edits act through several sites at once, which only the logarithm shows one by one.
        limit, rank, threshold, memory_budget, progress: as in `from_trace`.

    Raises:
        PromptError: a prompt without a target.
        ModelStateError: the edit is written into the model, so that there is no unedited run.
        ModelError, ComponentError, CorruptionError, NumericalError: as `from_trace`.
    """
    model = as_model(model)
    check_words(limit, rank, threshold)
    if not prompt.answer:
        raise PromptError(f"prompt {prompt.text or prompt.labels!r} has no target; pass one made with the edit's new target.")
    edit.check_not_written(model)
    check_fits(model, prompt)
    parts, answer = _modules(components), torch.tensor([prompt.target_token], device=model_device(model))
    settings = CircuitSettings(
        components=parts,
        limit=limit,
        rank=rank,
        threshold=threshold,
        metric=resolve_metric(model, metric, against, answer=[prompt.target_token]),
        corrupted=Span("edited", prompt.subject.positions[-1:]) if "subject" in prompt.spans else prompt.last,
        noise=None,
        samples=1,
        seed=0,
        answer=(prompt.target_token,),
    )
    last = layer_count(model) - 1
    nodes = [Node(part, layer, pos) for part in parts for layer in range(min(edit.layers), last + 1) for pos in range(len(prompt))]
    with show_progress(progress):
        return assemble(
            edit_contrast(model, prompt, answer, edit.hooks(), edit.layers, node_hooks(model, parts), settings.metric),
            [node for node in nodes if node.layer < last or node.pos == prompt.last.last],
            prompt,
            settings,
            words=f"MLP {', '.join(map(str, edit.layers))} edited",
            target=answer_label(model, prompt, answer),
            memory_budget=memory_budget,
            edit=edit.method,
        )


def _one_corruption(prompt: Prompt, traces: Sequence[CausalTrace]) -> TraceSettings:
    """The settings that traces share which differ in what they restore only."""
    first = traces[0].settings
    shared = (first.corrupted, first.noise, first.samples, first.answer)
    for trace in traces:
        own = trace.settings
        if (own.corrupted, own.noise, own.samples, own.answer) != shared:
            raise ComponentError("the traces corrupt different tokens, or have other noise or targets; build one circuit for each corruption.")
        if trace.labels != prompt.labels:
            raise PromptError(f"the trace is of {''.join(trace.labels)!r}, the prompt is {''.join(prompt.labels)!r}; pass the traced prompt.")
    return first


def _sites(trace: CausalTrace) -> list[Node]:
    """The traced sites that can matter, largest effects first."""
    frame = trace.top(min(MOST_CANDIDATES, trace.mean_effect.numel()), either_sign=True).query("effect != 0")
    units = frame[trace.component].tolist() if trace.units else [None] * len(frame)
    places = zip(frame["layer"].tolist(), frame["pos"].tolist(), units, strict=True)
    return [Node(_node_component(trace), int(layer), int(pos), () if unit is None else (int(unit),)) for layer, pos, unit in places]


def _node_component(trace: CausalTrace) -> NodeComponent:
    """What a trace restored, if it can be a node."""
    check_choice("a trace's component", trace.component, NodeComponent, ComponentError)
    component: NodeComponent = trace.component  # pyright: ignore[reportAssignmentType]  # it is one of them
    return component


def _groups(neurons: NeuronSet, positions: Sequence[int], last: int) -> list[Node]:
    """One node a layer and position; of the last layer only the last position's, as nothing reads the others."""
    layers = sorted({layer for layer, _ in neurons})
    return [
        Node("neuron", layer, pos, tuple(neuron for owner, neuron in neurons if owner == layer))
        for layer in layers
        for pos in positions
        if layer < neurons.n_layers - 1 or pos == last
    ]


def _modules(components: Written | Iterable[Written]) -> tuple[Written, ...]:
    """What can be a node of an edit's circuit."""
    parts = tuple(always_iterable(components))
    if not parts:
        raise ComponentError("components=() leaves no node; pass 'mlp_out', 'attn_out' or both.")
    for part in parts:
        check_choice("components", part, Written, ComponentError)
    return parts
