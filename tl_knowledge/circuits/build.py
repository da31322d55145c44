"""Circuits from what the other methods found: traced sites, knowledge neurons, an edit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Int

from tl_knowledge.circuits.assemble import MOST_CANDIDATES, Rank, assemble, check_settings
from tl_knowledge.circuits.circuit import Circuit
from tl_knowledge.editing import Edit
from tl_knowledge.engine.rows import MEMORY_BUDGET
from tl_knowledge.errors import ComponentError, CorruptionError, ModelStateError, PromptError
from tl_knowledge.models.checks import check_model
from tl_knowledge.models.hook_names import Module, severable
from tl_knowledge.models.protocol import HookedModel, layer_count, model_device
from tl_knowledge.neurons import NeuronSet
from tl_knowledge.prompts.prompt import Prompt, check_fits
from tl_knowledge.prompts.spans import Span
from tl_knowledge.runs.arguments import answer_label, choose_answer, corrupted_span, resolve_noise, sample_count, traced_positions
from tl_knowledge.runs.contrast import Metric, edit_contrast, node_hooks, noise_contrast
from tl_knowledge.runs.corruption import Noise
from tl_knowledge.runs.nodes import Node
from tl_knowledge.tracing import CausalTrace, PromptSwap

__all__ = ["from_edit", "from_neurons", "from_trace"]


def from_trace(
    model: HookedModel,
    prompt: Prompt,
    traces: CausalTrace | Sequence[CausalTrace],
    *,
    limit: int = 20,
    rank: Rank = "need",
    threshold: float = 0.02,
    metric: Metric = "probability",
    noise: Noise | PromptSwap | float | str | None = None,
    memory_budget: float = MEMORY_BUDGET,
) -> Circuit:
    """The circuit between the sites of causal traces.

    Args:
        prompt: the traced one.
        traces: one, or several of one corruption (for example of ``mlp_out`` and ``attn_out``); their components, layers, positions and units
            are the candidates. Effects are measured again, each site by itself, whatever the traces' windows.
        limit: how many sites to look at.
        rank: by what is lost without a site (``"need"``: the most faithful circuits, see the documentation), by what it restores alone
            (``"effect"``, as in the trace), or by the larger of both (``"either"``: where sites stand in for each other).
        threshold: edges whose weight and need are below this share of the total effect are pruned, but for each node's strongest in and out; then
            nodes on no path from the corrupted tokens to the answer.
        metric: what effects are measured in: the answer's probability, as the trace's, or its logarithm.
        noise: what the traces were made with, where that was not the default.
        memory_budget: bytes that the runs' activations may take.

    Raises:
        ModelError, PromptError, ComponentError: an argument that does not fit.
        CorruptionError: other noise than the traces', or runs that do not differ.
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
    check_model(model)
    settings = check_settings(limit, rank, threshold, metric, memory_budget)
    chosen = [traces] if isinstance(traces, CausalTrace) else list(traces)
    first = _one_corruption(prompt, chosen)
    made = first.provenance.settings
    corruption = resolve_noise(model, prompt, noise, first.provenance.seed, made["variant"])
    if repr(corruption) != made["noise"]:
        raise CorruptionError(f"the trace was made with {made['noise']}, which is not the default; pass the same noise= here.")
    answer = torch.tensor(made["answer"], device=model_device(model))
    check_fits(model, prompt, multi_token=len(answer) > 1)
    components = [trace.component for trace in chosen]
    contrast = noise_contrast(model, prompt, answer, first.corrupted.positions, corruption, made["samples"], node_hooks(model, components), metric)
    candidates = [node for trace in chosen for node in _sites(trace)]
    return assemble(
        contrast,
        list(dict.fromkeys(candidates)),
        prompt,
        settings,
        words=f"{first.corrupted.name} corrupted",
        target=first.target,
        corrupted=first.corrupted,
        seed=first.provenance.seed,
        details={"from": components, "noise": made["noise"]},
    )


def from_neurons(
    model: HookedModel,
    prompt: Prompt,
    neurons: NeuronSet,
    *,
    positions: Span | Iterable[int] | None = None,
    corrupt: str | Span | Iterable[int] = "subject",
    limit: int = 10,
    threshold: float = 0.02,
    noise: Noise | PromptSwap | float | str | None = None,
    samples: int | None = None,
    seed: int | None = None,
    target: str | int | None = None,
    metric: Metric = "probability",
    memory_budget: float = MEMORY_BUDGET,
) -> Circuit:
    """The circuit of knowledge neurons: one node a layer and position, and the attention outputs that carry what they write.

    Args:
        positions: where the neurons act; default the subject's last token and the last token.
        corrupt, noise, samples, seed, target: as in `tl_knowledge.trace`.
        limit: how many attention outputs to add, those of the largest effect or need.
        metric: as in `from_trace`.
        threshold: as in `from_trace`.

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
    check_model(model)
    check_fits(model, prompt)
    settings = check_settings(max(1, limit), "either", threshold, metric, memory_budget)
    if limit < 0:
        raise ComponentError(f"limit={limit} is negative; pass how many attention outputs to add, 0 for none.")
    if not len(neurons) or neurons.shape != NeuronSet.of(model, []).shape:
        raise ComponentError(
            f"a set of {len(neurons)} neurons of a model of {neurons.n_layers} x {neurons.d_mlp} has no circuit here; pass a set of this model."
        )
    span = corrupted_span(prompt, corrupt)
    corruption = resolve_noise(model, prompt, noise, seed, "ours")
    answer = choose_answer(model, prompt, target, False)
    places = traced_positions(prompt, span, "mlp_out", {prompt.subject.last, prompt.last.last} if positions is None else positions)
    layers = sorted({layer for layer, _ in neurons})
    last = layer_count(model) - 1
    groups = [
        Node("neuron", layer, pos, tuple(neuron for owner, neuron in neurons if owner == layer))
        for layer in layers
        for pos in places
        if pos >= span.first and (layer < last or pos == prompt.last.last)
    ]
    contrast = noise_contrast(
        model, prompt, answer, span.positions, corruption, sample_count(samples, corruption), node_hooks(model, ["neuron", "attn_out"]), metric
    )
    attention = [Node("attn_out", layer, pos) for layer in range(last + 1) for pos in range(span.first, len(prompt)) if limit > 0]
    return assemble(
        contrast,
        attention,
        prompt,
        settings,
        fixed=groups,
        words=f"{span.name} corrupted, {len(neurons)} neurons",
        target=answer_label(model, prompt, answer),
        corrupted=span,
        seed=int(getattr(corruption, "seed", 0)),
        details={"from": ["neuron"], "noise": repr(corruption), "neurons": len(neurons), "limit": limit},
    )


def from_edit(
    model: HookedModel,
    edit: Edit,
    prompt: Prompt,
    *,
    limit: int = 20,
    components: Module | Sequence[Module] = ("attn_out", "mlp_out"),
    rank: Rank = "need",
    threshold: float = 0.02,
    metric: Metric = "log_probability",
    memory_budget: float = MEMORY_BUDGET,
) -> Circuit:
    """The circuit through which an edit makes the model say the prompt's target; the weights stay as they are.

    The edited run takes the clean run's place and the unedited run the corrupted one's; the sources are what the edited MLPs write.

    Args:
        prompt: with the edit's new target.
        components: what can be a node.
        metric: what effects are measured in; most edits act through several sites at once, which only the logarithm shows one by one.
        limit, rank, threshold, memory_budget: as in `from_trace`.

    Raises:
        PromptError: a prompt without a target.
        ModelStateError: the edit is written into the model, so that there is no unedited run.
        ModelError, ComponentError, CorruptionError, NumericalError: as `from_trace`.
    """
    check_model(model)
    settings = check_settings(limit, rank, threshold, metric, memory_budget)
    if not prompt.answer:
        raise PromptError(f"prompt {prompt.text or prompt.labels!r} has no target; pass one made with the edit's new target.")
    if edit.is_written_into(model):
        raise ModelStateError("the edit is written into this model, so there is no unedited run; edit.revert(model) first.")
    check_fits(model, prompt)
    answer: Int[torch.Tensor, " answer"] = torch.tensor([prompt.target_token], device=model_device(model))
    parts = severable(components)
    contrast = edit_contrast(model, prompt, answer, edit.hooks(), edit.layers, node_hooks(model, parts), metric)
    nodes = [Node(part, layer, pos) for part in parts for layer in range(min(edit.layers), layer_count(model)) for pos in range(len(prompt))]
    last = layer_count(model) - 1
    written = Span("edited", prompt.subject.positions[-1:]) if "subject" in prompt.spans else prompt.last
    layers = ", ".join(map(str, edit.layers))
    return assemble(
        contrast,
        [node for node in nodes if node.layer < last or node.pos == prompt.last.last],
        prompt,
        settings,
        words=f"MLP {layers} edited",
        target=answer_label(model, prompt, answer),
        corrupted=written,
        seed=0,
        details={"from": ["edit"], "layers": list(edit.layers), "edit": edit.provenance.settings.get("method", "")},
    )


def _one_corruption(prompt: Prompt, traces: Sequence[CausalTrace]) -> CausalTrace:
    """The first of traces that differ in what they restore only."""
    if not traces:
        raise ComponentError("no trace was given; pass at least one, for example tlk.trace(model, prompt, component='mlp_out').")
    first = traces[0]
    for trace in traces:
        same = (trace.corrupted.positions, trace.target, trace.provenance.settings["noise"], trace.provenance.settings["samples"])
        if same != (first.corrupted.positions, first.target, first.provenance.settings["noise"], first.provenance.settings["samples"]):
            raise ComponentError("the traces corrupt different tokens, or have other noise or targets; build one circuit for each corruption.")
        if trace.labels != prompt.labels:
            raise PromptError(f"the trace is of {''.join(trace.labels)!r}, the prompt is {''.join(prompt.labels)!r}; pass the traced prompt.")
        if "answer" not in trace.provenance.settings:
            raise ComponentError("the trace does not say which tokens it scored (it was saved by an earlier version); trace the prompt again.")
    return first


def _sites(trace: CausalTrace) -> list[Node]:
    """The traced sites that can matter, largest effects first."""
    frame = trace.top(min(MOST_CANDIDATES, trace.mean_effect.numel()), either_sign=True).query("effect != 0")
    units = frame[trace.component].tolist() if trace.units else [None] * len(frame)
    places = zip(frame["layer"].tolist(), frame["pos"].tolist(), units, strict=True)
    return [Node(trace.component, int(layer), int(pos), () if unit is None else (int(unit),)) for layer, pos, unit in places]
