"""Which tokens drive which neurons: circuitsvis' text view of a neuron set."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from circuitsvis.activations import text_neuron_activations
from more_itertools import always_iterable

from tl_knowledge.door import public
from tl_knowledge.drawing import HtmlView
from tl_knowledge.engine.recording import record
from tl_knowledge.errors import check_given
from tl_knowledge.models.hook_names import component_hook
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import model_name
from tl_knowledge.neurons.entry import neurons_of
from tl_knowledge.neurons.neuron_set import NeuronSet
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.wording import counted

__all__ = ["neuron_view"]


@public
def neuron_view(model: AnyModel, prompts: Prompt | Iterable[Prompt], neurons: NeuronSet) -> HtmlView:
    """The neurons' activations at every token, as a view for notebooks; ``.save(path)`` writes a page that works offline.

    Raises:
        ComponentError: an empty set, or one of another model.
        DataError: no prompt.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> prompt = tlk.Prompt.from_text(model, "The capital of France is")
        >>> "France" in tlk.neurons.neuron_view(model, prompt, tlk.NeuronSet.of(model, [(4, 28), (3, 5)])).source
        True
    """
    model = as_model(model, masked=True)
    batch = check_given(always_iterable(prompts, Prompt), "prompt")
    neurons = neurons_of(model, neurons)
    layers = sorted({layer for layer, _ in neurons})
    activations: list[torch.Tensor] = []
    for prompt in batch:
        recorded = record(model, prompt.tokens, [], [component_hook("neuron", layer) for layer in layers])
        columns = [recorded[component_hook("neuron", layer)][0, :, neuron] for layer, neuron in neurons]
        activations.append(torch.stack(columns, dim=1)[:, :, None].float().cpu())
    rendered = text_neuron_activations(
        [list(prompt.labels) for prompt in batch],
        activations,  # pyright: ignore[reportArgumentType]
        first_dimension_name="Neuron",
        second_dimension_name="Shown",
        first_dimension_labels=[f"layer {layer}, neuron {neuron}" for layer, neuron in neurons],
        second_dimension_labels=["activation"],
    )
    note = f"{counted(len(neurons), 'neuron')}, {counted(len(batch), 'prompt')}; {model_name(model)}; blue above zero, red below"
    return HtmlView.of(rendered, title="Activations of the neurons", note=note)
