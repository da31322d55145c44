"""What lies behind a cell of a map: the heads, the neurons, or the state of that layer at that token."""

from __future__ import annotations

from dataclasses import dataclass

import plotly.graph_objects as go
import torch
from jaxtyping import Float

from tl_knowledge.attention import LogitLens, logit_lens
from tl_knowledge.drawing import HeatMap, bar_chart, heat_maps
from tl_knowledge.engine.recording import record
from tl_knowledge.errors import ComponentError, TLKnowledgeError
from tl_knowledge.explore.asking import traced_prompt, traced_with
from tl_knowledge.explore.state import Cell, ExplorerState
from tl_knowledge.models.checks import check_layers
from tl_knowledge.models.hook_names import attention_pattern
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.neurons import NeuronSet, NeuronWords, neuron_words
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.results.plain_text import token_text
from tl_knowledge.tracing import COLOUR_SCALES, CausalTrace, trace
from tl_knowledge.wording import counted

__all__ = ["CellDetails", "HeadDetails", "NeuronDetails", "StateDetails", "cell_details"]

NEURONS_SHOWN, WORDS_SHOWN = 12, 8


@dataclass(frozen=True, eq=False)
class HeadDetails:
    """The heads of a layer at a token.

    Attributes:
        cell: which.
        heads: the trace of each of them, restored alone at that token.
        pattern: the layer's attention in the clean run, ``[head query key]``; ``None`` where the model does not show it.
        missing: why there is no pattern.
        labels: the prompt's tokens.
    """

    cell: Cell
    heads: CausalTrace
    pattern: Float[torch.Tensor, "head query key"] | None
    missing: str
    labels: tuple[str, ...]

    @property
    def units(self) -> tuple[tuple[int, int, float], ...]:
        """Layer, head and mean effect, the largest first."""
        return _ranked(self.heads, len(self.heads.units))

    def plot(self) -> go.Figure:
        """Bars: what each head restores."""
        return _bars(self.heads, self.cell, self.labels, self.units, "head")

    def plot_attention(self, head: int | None = None) -> go.Figure | None:
        """A heat map: from which token to which a head attends in the clean run; the strongest head's when ``None``.

        Raises:
            ComponentError: no such head.
        """
        if self.pattern is None:
            return None
        chosen = self.units[0][1] if head is None else head
        if not 0 <= chosen < len(self.pattern):
            raise ComponentError(
                f"head {chosen} is outside the layer's {counted(len(self.pattern), 'head')}; pass a number from 0 to {len(self.pattern) - 1}."
            )
        names = [token_text(label) for label in self.labels]
        axes, clicked = ("token that attends", "token that is read"), frozenset({self.cell[2]})
        chart = HeatMap(self.pattern[chosen].numpy(), names, names, "", *axes, clicked, COLOUR_SCALES["pattern"])
        return heat_maps(
            [chart],
            title=f"Attention of head {chosen} in layer {self.cell[1]}",
            subtitle="clean run; each row adds up to 1; the clicked token is bold",
            colour_axis="share of attention",
        )


@dataclass(frozen=True, eq=False)
class NeuronDetails:
    """The neurons of a layer at a token.

    Attributes:
        cell: which.
        neurons: the trace of each of them: estimated to first order, the largest measured exactly.
        words: what the strongest write; ``None`` where the model's neurons say nothing by themselves.
        missing: why there are no words.
        labels: the prompt's tokens.
    """

    cell: Cell
    neurons: CausalTrace
    words: NeuronWords | None
    missing: str
    labels: tuple[str, ...]

    @property
    def units(self) -> tuple[tuple[int, int, float], ...]:
        """Layer, neuron and mean effect of those that are shown, the largest first."""
        return _ranked(self.neurons, NEURONS_SHOWN)

    def plot(self) -> go.Figure:
        """Bars: what the strongest neurons restore."""
        return _bars(self.neurons, self.cell, self.labels, self.units, "neuron")


@dataclass(frozen=True, eq=False)
class StateDetails:
    """The residual state after a layer at a token.

    Attributes:
        cell: which.
        lens: what every state says, through the logit lens.
        labels: the prompt's tokens.
    """

    cell: Cell
    lens: LogitLens
    labels: tuple[str, ...]

    @property
    def says(self) -> tuple[str, float, int]:
        """What this state says: its likeliest token, and the answer's probability and rank."""
        row = self.lens.table.query(f"layer == {self.cell[1]} and pos == {self.cell[2]}").iloc[0]
        return str(row["says"]), float(row["probability"]), int(row["rank"])

    def plot(self) -> go.Figure:
        """A heat map: the answer's probability at every token and layer."""
        return self.lens.plot()


CellDetails = HeadDetails | NeuronDetails | StateDetails


def cell_details(model: HookedModel, state: ExplorerState) -> CellDetails:
    """What lies behind a tab's cell.

    Raises:
        ComponentError: no cell, or one outside the prompt or the model.
        TLKnowledgeError: as `tl_knowledge.trace`.
    """
    if state.cell is None:
        raise ComponentError("no cell was clicked; click one in a map.")
    component, layer, pos = state.cell
    prompt = traced_prompt(model, state)
    check_layers(model, (layer,))
    if pos >= len(prompt):
        raise ComponentError(f"position {pos} is outside the prompt of {counted(len(prompt), 'token')}; click a cell of this prompt's map.")
    if component == "resid_post":
        return StateDetails(state.cell, logit_lens(model, prompt), prompt.labels)
    return _heads(model, prompt, state, state.cell) if component == "attn_out" else _neurons(model, prompt, state, state.cell)


def _heads(model: HookedModel, prompt: Prompt, state: ExplorerState, cell: Cell) -> HeadDetails:
    _, layer, pos = cell
    heads = trace(model, prompt, component="head", layers=layer, positions=pos, **traced_with(prompt, state))
    name = attention_pattern(layer)
    if name not in model.hook_dict:
        return HeadDetails(cell, heads, None, "The model shows no attention pattern; load it with attn_implementation='eager'.", prompt.labels)
    return HeadDetails(cell, heads, record(model, prompt.tokens, [], [name])[name][0].float().cpu(), "", prompt.labels)


def _neurons(model: HookedModel, prompt: Prompt, state: ExplorerState, cell: Cell) -> NeuronDetails:
    _, layer, pos = cell
    neurons = trace(model, prompt, component="neuron", layers=layer, positions=pos, engine="screen", **traced_with(prompt, state))
    strongest = NeuronSet.of(model, [(own, unit) for own, unit, _ in _ranked(neurons, NEURONS_SHOWN)])
    try:
        words, missing = neuron_words(model, strongest, k=WORDS_SHOWN), ""
    except TLKnowledgeError as error:  # the effects stand without them
        words, missing = None, str(error)
    return NeuronDetails(cell, neurons, words, missing, prompt.labels)


def _ranked(traced: CausalTrace, limit: int) -> tuple[tuple[int, int, float], ...]:
    best = traced.top(limit)
    return tuple((int(row["layer"]), int(row[traced.component]), float(row["effect"])) for row in best.to_dict(orient="records"))


def _bars(traced: CausalTrace, cell: Cell, labels: tuple[str, ...], units: tuple[tuple[int, int, float], ...], word: str) -> go.Figure:
    _, layer, pos = cell
    return bar_chart(
        [f"{word} {unit}" for _, unit, _ in units],
        [effect for *_, effect in units],
        title=f"What each {word} of layer {layer} restores at {token_text(labels[pos]).strip()!r}",
        subtitle=f"{traced.corrupted.name} corrupted; {counted(traced.settings.samples, 'noise sample')}; {traced.provenance.model}",
        value_axis=f"indirect effect ({traced.metric.measured_in})",
        colours=COLOUR_SCALES[traced.component],
    )
