"""Whether scaling a paradigm's neurons overturns the model's choice between minimal pairs (Niu et al. 2024, "KN edit effect")."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from more_itertools import always_iterable
from scipy import stats

from tl_knowledge.door import public
from tl_knowledge.drawing import grouped_bars
from tl_knowledge.engine.batches import answer_logits, text_log_probabilities
from tl_knowledge.engine.progress import progress_bar
from tl_knowledge.errors import DataError, check_given
from tl_knowledge.models.description import check_same_weights
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel, is_masked
from tl_knowledge.neurons.groups import masked_word
from tl_knowledge.neurons.located import LocatedNeurons
from tl_knowledge.neurons.neuron_set import NeuronSet
from tl_knowledge.neurons.settings import LocationSettings
from tl_knowledge.neurons.words import factor_words
from tl_knowledge.prompts.facts import MinimalPair
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.results.provenance import Provenance, provenance_of
from tl_knowledge.results.result import TableResult
from tl_knowledge.results.statistics import scalar_interval
from tl_knowledge.wording import counted

__all__ = ["Reliability", "measure_reliability"]

_KINDS = ("before", "after", "control")
_AGREEMENT = "determiner_noun_agreement_"  # what BLiMP calls every paradigm of it


@dataclass(frozen=True, eq=False)
class Reliability(TableResult):
    """How far the model prefers the good sentence of each minimal pair.

    Attributes:
        table: one row a pair: ``paradigm name good neurons before after control``: its group's name and number of neurons, and ``log P(good) - log
            P(bad)`` clean, with the group's neurons scaled, and with as many random neurons of the same layers.
        factor: what the neurons were multiplied by.
        settings: how the neurons were located.
        provenance: what it was measured with.
    """

    ranked_by: ClassVar[str] = "before"
    either_sign: ClassVar[bool] = True
    table: pd.DataFrame
    factor: float
    settings: LocationSettings
    provenance: Provenance

    def headline(self) -> str:
        """The share of pairs decided rightly."""
        clean, scaled, control = (float((self.table[kind] > 0).mean()) for kind in _KINDS)
        word = factor_words(self.factor)
        return (
            f"minimal pairs decided rightly: {clean:.1%} clean, {scaled:.1%} neurons {word}, {control:.1%} random neurons {word}; "
            f"{counted(len(self.table), 'pair')}; {self.provenance.model}"
        )

    def summary(self) -> pd.DataFrame:
        """By paradigm: the share of pairs decided rightly clean, scaled and under the control, the change with its 95% bootstrap interval over
        pairs, and McNemar's exact p of the change."""
        rows: list[dict[str, Any]] = []
        for paradigm in dict.fromkeys(self.table["paradigm"]):
            right = self._right(str(paradigm))
            change, low, high = scalar_interval(right["after"] - right["before"])
            lost, won = (int(np.sum(right[a] > right[b])) for a, b in (("before", "after"), ("after", "before")))
            exact: Any = stats.binomtest(lost, lost + won) if lost + won else None
            row: dict[str, Any] = {"paradigm": paradigm, "pairs": len(right["before"])} | {kind: float(right[kind].mean()) for kind in _KINDS}
            rows.append(row | {"change": change, "low": low, "high": high, "p": float(exact.pvalue) if exact else 1.0})
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """Bars: the share of pairs decided rightly by paradigm, before and after, and under random neurons."""
        paradigms = [str(name) for name in dict.fromkeys(self.table["paradigm"])]
        bars: dict[str, list[tuple[float, float, float]]] = {}
        word = factor_words(self.factor)
        for kind, name in zip(_KINDS, ("clean", f"neurons {word}", f"random neurons {word}"), strict=True):
            bars[name] = [scalar_interval(self._right(paradigm)[kind]) for paradigm in paradigms]
        counts = self.table["paradigm"].value_counts()
        shared = _AGREEMENT if all(name.startswith(_AGREEMENT) for name in paradigms) else ""
        return grouped_bars(
            [f"{name.removeprefix(shared).replace('_', ' ')} ({counts[name]})" for name in paradigms],
            bars,
            title="Minimal pairs decided rightly",
            subtitle=f"{counted(len(self.table), 'pair')}; chance 50%; {self.provenance.model}; 95% bootstrap over pairs",
            group_axis=f"{'determiner-noun agreement, ' if shared else ''}paradigm (number of pairs)",
            value_axis="P(good) > P(bad)",
        )

    def _right(self, paradigm: str) -> dict[str, np.ndarray]:
        rows = self.table.loc[self.table["paradigm"] == paradigm]
        return {kind: (rows[kind].to_numpy() > 0).astype(float) for kind in _KINDS}


@public
def measure_reliability(
    model: AnyModel,
    pairs: MinimalPair | Iterable[MinimalPair],
    located: LocatedNeurons,
    *,
    by: Callable[[MinimalPair], str],
    factor: float = 0.0,
    seed: int = 0,
    progress: bool = True,
) -> Reliability:
    """Scale each pair's neurons, those of its group, and see whether the good sentence still wins.

    An autoregressive model compares the sentences' log probabilities, the neurons scaled at every position; a masked one the two words at the
    mask, where the neurons are scaled. Pairs that have no form for a masked model are left out.

    Args:
        located: from `locate_neurons` on `agreement_groups` of the same paradigms.
        by: names a pair's group, as in `agreement_groups`.
        factor: 0 suppresses.
        seed: of the random control.

    Raises:
        DataError: no pair, a pair whose group was not located, or no pair of a form that the model can decide.
    """
    model = as_model(model, masked=True)
    check_same_weights(model, located.provenance.weights, "located")
    sets = dict(zip(zip(located.table["relation"], located.table["name"], strict=True), located.sets, strict=True))
    groups: dict[tuple[str, str], list[MinimalPair]] = {}
    given = check_given(always_iterable(pairs, MinimalPair), "minimal pair")
    for pair in given:
        key = (pair.paradigm, by(pair))
        if key not in sets:
            raise DataError(f"the pair {pair.good!r} belongs to group {key[1]!r} of {key[0]!r}, which was not located; locate its paradigm first.")
        groups.setdefault(key, []).append(pair)
    margins = _masked_margins if is_masked(model) else _sentence_margins
    rows: list[dict[str, Any]] = []
    with progress_bar(what="reliability", unit="pair", total=len(given), progress=progress) as bar:
        for key, members in groups.items():
            neurons = sets[key]
            control = neurons.random_control(seed) if len(neurons) else neurons
            kept, *values = margins(model, members, [None, neurons, control], factor)
            for pair, *three in zip(kept, *values, strict=True):
                row = {"paradigm": key[0], "name": key[1], "good": pair.good, "neurons": len(neurons)}
                rows.append(row | dict(zip(_KINDS, three, strict=True)))
            bar.update(len(members))
    if not rows:
        raise DataError("no pair has a form for this model; a masked model needs sentences that differ in one word of one token.")
    has_bos = located.provenance.prepends_bos
    provenance = provenance_of(model, engine="hooks", seed=seed, has_bos=has_bos, settings=located.settings, factor=factor)
    return Reliability(pd.DataFrame(rows), factor, located.settings, provenance)


def _sentence_margins(model: HookedModel, pairs: Sequence[MinimalPair], sets: Sequence[NeuronSet | None], factor: float) -> list[Any]:
    """The pairs, and for each set ``log P(good) - log P(bad)`` of whole sentences."""
    prompts = [Prompt.from_text(model, text) for pair in pairs for text in (pair.good, pair.bad)]
    columns: list[Any] = [pairs]
    for neurons in sets:
        both = text_log_probabilities(model, prompts, neurons.scale(factor) if neurons else []).view(-1, 2)
        columns.append((both[:, 0] - both[:, 1]).tolist())
    return columns


def _masked_margins(model: HookedModel, pairs: Sequence[MinimalPair], sets: Sequence[NeuronSet | None], factor: float) -> list[Any]:
    """The pairs with one masked word, and for each set ``log P(good) - log P(bad)`` at the mask."""
    both = [(pair, masked_word(model, pair.good, pair.bad), masked_word(model, pair.bad, pair.good)) for pair in pairs]
    kept = [(pair, good, bad) for pair, good, bad in both if good is not None and bad is not None]
    columns: list[Any] = [[pair for pair, _, _ in kept]]
    for neurons in sets:
        margins = [0.0] * len(kept)
        for group, logits in answer_logits(model, [good for _, good, _ in kept], lambda pos, s=neurons: s.scale(factor, positions=pos) if s else []):
            for i, row in zip(group, logits, strict=True):
                margins[i] = float(row[kept[i][1].target_token] - row[kept[i][2].target_token])
        columns.append(margins)
    return columns
