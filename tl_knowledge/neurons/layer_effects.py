"""What a fact's neurons of one layer do: suppression layer by layer (Wen and Bai, section 6)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
from more_itertools import always_iterable

from tl_knowledge.door import public
from tl_knowledge.drawing import grouped_bars
from tl_knowledge.engine.progress import progress_bar
from tl_knowledge.errors import DataError, InputError, check_choice, check_given
from tl_knowledge.models.description import check_same_weights
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.neurons.effect_reading import EffectReading, own_wordings
from tl_knowledge.neurons.effects import Effect
from tl_knowledge.neurons.located import LocatedNeurons
from tl_knowledge.neurons.settings import LocationSettings
from tl_knowledge.neurons.words import factor_words
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.results.provenance import Provenance, provenance_of
from tl_knowledge.results.result import TableResult
from tl_knowledge.results.statistics import scalar_interval
from tl_knowledge.wording import counted

__all__ = ["LayerEffects", "measure_layer_effects"]


@dataclass(frozen=True, eq=False)
class LayerEffects(TableResult):
    """Change of each fact's answer's probability when its neurons of one layer are scaled.

    Attributes:
        table: one row for each fact and layer that has neurons of it: ``relation subject layer neurons clean relative absolute``.
        factor: what the neurons' activations were multiplied by.
        facts: how many facts were measured, those without neurons among them.
        layers: of the model.
        settings: how the neurons were located.
        provenance: what it was measured with.
    """

    ranked_by: ClassVar[str] = "relative"
    either_sign: ClassVar[bool] = True
    table: pd.DataFrame
    factor: float
    facts: int
    layers: int
    settings: LocationSettings
    provenance: Provenance

    def headline(self) -> str:
        """The layer whose neurons change most."""
        frame = self.summary()
        most = frame.loc[frame["change"].abs().idxmax()]
        return (
            f"neurons {factor_words(self.factor)} layer by layer: layer {most['layer']:g} changes P(answer) most, by {most['change']:+.1%}; "
            f"{counted(self.facts, 'fact')}; {self.provenance.model}"
        )

    def summary(self, *, effect: Effect = "relative") -> pd.DataFrame:
        """By layer: the facts that have neurons there, their neurons, and the mean change with its 95% bootstrap interval over those facts.

        Raises:
            InputError: an unknown effect.
        """
        check_choice("effect", effect, Effect)
        rows: list[dict[str, object]] = []
        for layer, of_it in self.table.groupby("layer"):
            mean, low, high = scalar_interval(of_it[effect])
            rows.append({"layer": layer, "facts": len(of_it), "neurons": int(of_it["neurons"].sum()), "change": mean, "low": low, "high": high})
        return pd.DataFrame(rows)

    def plot(self, *, effect: Effect = "relative") -> go.Figure:
        """Bars: the mean change by layer; none where no fact has neurons."""
        frame = self.summary(effect=effect).set_index("layer").reindex(range(self.layers))
        bars = [(row[0], row[1], row[2]) for row in frame[["change", "low", "high"]].to_numpy().tolist()]
        return grouped_bars(
            [f"{layer} ({facts})" for layer, facts in enumerate(frame["facts"].fillna(0).astype(int))],
            {f"neurons of the layer {factor_words(self.factor)}": bars},
            title="Change of P(answer) by the layer of the neurons",
            subtitle=f"{counted(self.facts, 'fact')}; {self.provenance.model}; 95% bootstrap over a layer's facts",
            group_axis="layer (facts with neurons there)",
            value_axis=f"change of P(answer), {effect}",
        )


@public
def measure_layer_effects(
    model: AnyModel, facts: Fact | Iterable[Fact], located: LocatedNeurons, *, factor: float = 0.0, progress: bool = True
) -> LayerEffects:
    """Scale each fact's neurons of one layer after the other, and measure the fact in its own wording.

    Args:
        located: the facts' neurons, in their order, for example from ``fact_groups(model, facts, own_wording=False)``.
        factor: 0 suppresses, 2 enhances.

    Raises:
        DataError: no fact, or no fact with neurons.
        InputError: neurons of other facts.

    Example:
        >>> import tl_knowledge as tlk
        >>> model, facts = tlk.load_model("factlm"), tlk.load_facts("factlm")[::500]
        >>> located = tlk.locate_neurons(model, facts, steps=3, progress=False)
        >>> effects = tlk.neurons.measure_layer_effects(model, facts, located, progress=False)
        >>> int(effects.table["neurons"].sum()) == int(located.table["neurons"].sum())
        True
    """
    model = as_model(model, masked=True, encoder_decoder=True)
    given = check_given(always_iterable(facts, Fact), "fact")
    check_same_weights(model, located.provenance.weights, "located")
    if list(located.table["name"]) != [fact.subject for fact in given]:
        raise InputError(
            f"{counted(len(located.sets), 'located group')} are not these {counted(len(given), 'fact')} in their "
            f"order; locate_neurons() of the same facts."
        )
    groups = own_wordings(model, given)
    reading = EffectReading.of(model, groups, located.settings.attribution, factor, False)
    rows: list[dict[str, object]] = []
    for i, fact in enumerate(progress_bar(given, what="layer effects", unit="fact", progress=progress)):
        for layer in sorted({layer for layer, _ in located.sets[i]}):
            neurons = located.sets[i].of_layers(layer)
            relative, absolute = reading.change([i], [neurons], suppress=False)
            row: dict[str, object] = {
                "relation": fact.relation,
                "subject": fact.subject,
                "layer": layer,
                "neurons": len(neurons),
                "clean": reading.clean_mean(i),
            }
            rows.append(row | {"relative": relative, "absolute": absolute})
    if not rows:
        raise DataError(f"none of {counted(len(given), 'fact')} has neurons; lower the threshold or shared_by of locate_neurons().")
    provenance = provenance_of(model, engine="hooks", has_bos=groups[0].prompts[0].has_bos, settings=located.settings, factor=factor)
    return LayerEffects(pd.DataFrame(rows), factor, len(given), located.sets[0].n_layers, located.settings, provenance)
