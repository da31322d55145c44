"""In which texts of a corpus neurons are most active (as Geva et al. 2021 read "trigger examples" off them)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heappush, heappushpop
from itertools import groupby
from operator import itemgetter
from typing import Any

import pandas as pd
import torch
from more_itertools import chunked

from tl_knowledge.door import public
from tl_knowledge.engine.progress import progress_bar
from tl_knowledge.errors import DataError, InputError, NumericalError
from tl_knowledge.models.hook_names import component_hook
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel, context_length
from tl_knowledge.neurons.entry import neurons_of
from tl_knowledge.neurons.located import LocatedNeurons
from tl_knowledge.neurons.neuron_set import Neuron, NeuronSet
from tl_knowledge.neurons.snippets import NeuronContexts
from tl_knowledge.results.provenance import provenance_of
from tl_knowledge.runs.corpus_tokens import activations_of, numbered_rows

__all__ = ["neuron_contexts"]

TEXTS_AT_ONCE = 16
BEFORE, AFTER = 24, 8  # tokens around the strongest one


@public
def neuron_contexts(
    model: AnyModel,
    corpus: Iterable[str],
    neurons: NeuronSet | LocatedNeurons,
    *,
    k: int = 10,
    tokens: int | None = None,
    either_sign: bool = False,
    progress: bool = True,
) -> NeuronContexts:
    """The texts in which neurons are most active, each with the token where they are: one pass over a corpus for all neurons.

    Args:
        corpus: texts, as a list or a stream; longer ones than the context are cut. A text counts once for a neuron, by its strongest token, and of
            equal ones the first.
        neurons: a set, or what `locate_neurons` found, all groups together.
        k: how many texts a neuron.
        tokens: how many tokens to read, in whole texts; all when ``None``.
        either_sign: rank by the size of the activation; a negative one is none otherwise.

    Raises:
        ComponentError: no neuron, or neurons of another model's shape.
        DataError: a corpus without a token.
        InputError: k or tokens below 1, or a model without a tokenizer.
        NumericalError: activations that are not finite.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> some = tlk.NeuronSet.of(model, [(3, 5), (4, 28)])
        >>> contexts = tlk.neurons.neuron_contexts(model, tlk.load_corpus(limit=50), some, k=2, progress=False)
        >>> contexts.table[["layer", "neuron", "rank"]].to_numpy().tolist()
        [[3, 5, 0], [3, 5, 1], [4, 28, 0], [4, 28, 1]]
    """
    model = as_model(model)
    chosen = neurons_of(model, neurons)
    if k < 1 or (tokens is not None and tokens < 1):
        raise InputError(f"k={k} and tokens={tokens} show nothing; pass at least 1 of each.")
    found, read, count = {neuron: _Strongest(k) for neuron in chosen}, 0, 0
    with progress_bar(what="neuron contexts", unit="text", progress=progress) as bar:
        for batch in chunked(numbered_rows(model, corpus, context_length(model)), TEXTS_AT_ONCE):
            for (number, row), activations in zip(batch, _activations(model, [row for _, row in batch], chosen, either_sign), strict=True):
                if tokens is not None and read >= tokens:
                    break
                for neuron, own in activations.items():
                    found[neuron].offer(number, row[0], own, either_sign)
                read, count = read + row.shape[1], count + 1
            bar.update(len(batch))
            if tokens is not None and read >= tokens:
                break
    if not count:
        raise DataError("the corpus has no text with a token; pass texts, for example load_corpus().")
    rows = [row for neuron, strongest in found.items() for row in strongest.rows(model, neuron)]
    return NeuronContexts(pd.DataFrame(rows), chosen, count, read, provenance_of(model, engine="one pass", either_sign=either_sign))


def _activations(model: HookedModel, rows: list[torch.Tensor], neurons: NeuronSet, either_sign: bool) -> Iterator[dict[Neuron, torch.Tensor]]:
    """By text the neurons' activations at every token.

    Raises:
        NumericalError: one that is not finite.
    """
    layers = {layer: [number for _, number in group] for layer, group in groupby(neurons, key=itemgetter(0))}
    names = {layer: component_hook("neuron", layer) for layer in layers}
    read = activations_of(model, rows, tuple(names.values()), names[max(names)])
    own = torch.cat([read[names[layer]][:, numbers] for layer, numbers in layers.items()], dim=1).cpu()
    if not bool(own.isfinite().all()):
        raise NumericalError("the neurons' activations are not finite; check the weights for NaN, or load the model in float32.")
    for part in own.split([row.shape[1] for row in rows]):
        yield {neuron: part[:, number] for number, neuron in enumerate(neurons)}


@dataclass
class _Strongest:
    """The strongest texts of one neuron so far: how strong, which (negative, so that of equal ones the first stays), where, tokens, activations."""

    k: int
    kept: list[tuple[float, int, int, torch.Tensor, torch.Tensor]] = field(default_factory=list[Any])

    def offer(self, text: int, tokens: torch.Tensor, activations: torch.Tensor, either_sign: bool) -> None:
        """Take a text if it is stronger than the weakest that is kept."""
        strength = activations.abs() if either_sign else activations
        pos = int(strength.argmax())
        place = (float(strength[pos]), -text)
        if len(self.kept) == self.k and place <= self.kept[0][:2]:
            return
        item = (*place, pos, tokens, activations.clone())  # of its own, or it would hold on to all neurons' activations of the batch
        if len(self.kept) < self.k:
            heappush(self.kept, item)
        else:
            heappushpop(self.kept, item)

    def rows(self, model: HookedModel, neuron: Neuron) -> Iterator[dict[str, Any]]:
        """The strongest first."""
        for rank, (_, text, pos, tokens, activations) in enumerate(sorted(self.kept, key=lambda item: item[:2], reverse=True)):
            window = slice(max(0, pos - BEFORE), pos + AFTER + 1)
            shown = [str(model.tokenizer.decode([token])) for token in tokens[window].tolist()]
            row: dict[str, Any] = {"layer": neuron[0], "neuron": neuron[1], "rank": rank, "activation": float(activations[pos]), "text": -text}
            row |= {"pos": pos, "token": shown[pos - window.start], "tokens": shown}
            yield row | {"activations": [float(value) for value in activations[window]]}
