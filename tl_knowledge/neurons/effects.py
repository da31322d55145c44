"""What suppressing or enhancing a fact's neurons does: to the fact itself, to unrelated facts, beside random neurons (Wen and Bai, figures 3-4).

A fact's neurons are attributed on its *paraphrases* and measured on its own wording, so that what is measured was not attributed. The random
control has as many neurons in every layer.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
import torch

from tl_knowledge.door import public
from tl_knowledge.drawing import grouped_bars
from tl_knowledge.engine.batches import answer_probabilities
from tl_knowledge.engine.progress import progress_bar
from tl_knowledge.errors import DataError, InputError, check_given
from tl_knowledge.models.description import check_same_weights
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.neurons.groups import fact_groups
from tl_knowledge.neurons.locate import locate_neurons
from tl_knowledge.neurons.located import LocatedNeurons
from tl_knowledge.neurons.neuron_set import NeuronSet
from tl_knowledge.neurons.settings import AttributionVariant, LocationSettings, ThresholdKind
from tl_knowledge.neurons.words import factor_words, place_words
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.results.provenance import Provenance, provenance_of
from tl_knowledge.results.result import TableResult
from tl_knowledge.results.statistics import FEWEST_TESTED, paired_p_values, scalar_interval

__all__ = ["COMPARED", "NeuronEffects", "measure_neuron_effects"]

_COLUMNS: dict[str, str] = {"own fact": "own", "random control": "control", "unrelated facts": "unrelated"}
COMPARED = tuple(_COLUMNS)


@dataclass(frozen=True, eq=False)
class NeuronEffects(TableResult):
    """Relative changes of the answer's probability, ``(p' - p) / p``, one row a fact.

    Attributes:
        table: columns ``relation subject neurons clean own control unrelated``: the number of neurons, the clean probability, and the change of
            the fact itself, of the fact under random neurons (mean over draws), and of facts of other relations (mean). Changes are NaN for facts
            without neurons.
        factor: what the neurons' activations were multiplied by.
        settings: how the neurons were located.
        provenance: what the effects were measured with.
    """

    ranked_by: ClassVar[str] = "own"
    either_sign: ClassVar[bool] = True
    table: pd.DataFrame
    factor: float
    settings: LocationSettings
    provenance: Provenance

    def headline(self) -> str:
        """The mean change of each kind."""
        rows = self._with_neurons()
        changes = ", ".join(f"{kind} {float(rows[column].mean()):+.1%}" for kind, column in _COLUMNS.items())
        return f"P(answer), {self._treatment()}: {changes}; {self._counts()}; {self.provenance.model}"

    def summary(self) -> pd.DataFrame:
        """Mean change of each kind with its 95% bootstrap interval over facts, and p of own against it (Wilcoxon, paired, corrected).

        Fewer than 6 facts with neurons cannot be tested: p is NaN then.
        """
        rows = self._with_neurons()
        p_values = [float("nan")] * len(COMPARED)
        if len(rows) >= FEWEST_TESTED:
            _, corrected = paired_p_values(rows[["own", "own"]].to_numpy(), rows[["control", "unrelated"]].to_numpy())
            p_values[1:] = corrected.tolist()
        return pd.DataFrame([self._row(kind, rows) | {"p_own_differs": p} for kind, p in zip(COMPARED, p_values, strict=True)])

    def by_relation(self) -> pd.DataFrame:
        """Mean change of each kind for every relation, with intervals over its facts (none for one fact)."""
        groups = self._with_neurons().groupby("relation", dropna=False)
        return pd.DataFrame([{"relation": str(name)} | self._row(kind, rows) for name, rows in groups for kind in COMPARED])

    def plot(self) -> go.Figure:
        """Bars: the change of each kind by relation, with its interval; relations in order of their own facts' change."""
        frame = self.by_relation()
        own = frame.loc[frame["what"] == COMPARED[0]].sort_values(by=["change"], kind="stable")
        relations = list(own["relation"])
        by_kind = {kind: frame.loc[frame["what"] == kind].set_index("relation").loc[relations] for kind in COMPARED}
        columns = ["change", "low", "high"]
        counts = by_kind[COMPARED[0]]["facts"]
        return grouped_bars(
            [f"{relation} ({count})" for relation, count in zip(relations, counts, strict=True)],
            {kind: [tuple(row) for row in rows[columns].to_numpy().tolist()] for kind, rows in by_kind.items()},
            title=f"The facts' {self._treatment()}: change of P(answer)",
            subtitle=f"{self._counts()} have neurons; {self.provenance.model}; 95% bootstrap over a relation's facts",
            group_axis="relation (number of facts)",
            value_axis="change of P(answer), relative",
        )

    def _treatment(self) -> str:
        return f"neurons {factor_words(self.factor)} at {place_words(self.settings.attribution.at)}"

    def _counts(self) -> str:
        return f"{len(self._with_neurons())} of {len(self.table)} facts"

    def _with_neurons(self) -> pd.DataFrame:
        return self.table.loc[self.table["neurons"] > 0]

    def _row(self, kind: str, rows: pd.DataFrame) -> dict[str, object]:
        mean, low, high = scalar_interval(rows[_COLUMNS[kind]])
        return {"what": kind, "change": mean, "low": low, "high": high, "facts": len(rows)}


@public
def measure_neuron_effects(
    model: AnyModel,
    facts: Iterable[Fact],
    *,
    factor: float = 0.0,
    located: LocatedNeurons | None = None,
    threshold: float = 0.2,
    kind: ThresholdKind = "max",
    shared_by: float = 0.5,
    variant: AttributionVariant = "ours",
    at: str = "last",
    steps: int = 20,
    unrelated: int = 5,
    controls: int = 5,
    seed: int = 0,
    progress: bool = True,
) -> NeuronEffects:
    """Attribute every fact's neurons on its paraphrases, scale them where they were attributed, and measure the fact in its own wording.

    Args:
        facts: known facts with paraphrases, of at least two relations.
        factor: 0 suppresses, 2 enhances (Wen and Bai).
        located: the facts' neurons, in their order, to measure several factors with one attribution; they should come from
            ``fact_groups(model, facts, own_wording=False)``, or what is measured was attributed. The arguments of attribution and selection
            are not used then.
        threshold, kind, shared_by: as `select_neurons`.
        variant, at, steps: as `attribute_neurons`.
        unrelated: facts of other relations to measure beside each.
        controls: draws of the random control.
        seed: of the random controls and of the unrelated facts.

    Raises:
        DataError: no fact, a fact without paraphrases, or facts of one relation only.
        InputError: as `attribute_neurons` and `select_neurons`, or no control or unrelated fact to compare with.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> facts = tlk.load_facts("factlm")[::300]
        >>> effects = tlk.neurons.measure_neuron_effects(model, facts, steps=5, progress=False)
        >>> len(effects.table) == len(facts)
        True
    """
    model = as_model(model, masked=True)
    given = _comparable(facts, unrelated, controls)
    prompts = [Prompt.from_fact(model, fact) for fact in given]
    if located is None:
        groups = fact_groups(model, given, own_wording=False)
        located = locate_neurons(
            model, groups, threshold=threshold, kind=kind, shared_by=shared_by, variant=variant, at=at, steps=steps, progress=progress
        )
    check_same_weights(model, located.provenance.weights, "located")
    if list(located.table["name"]) != [fact.subject for fact in given]:
        raise InputError(f"{len(located.sets)} located groups are not these {len(given)} facts in their order; locate_neurons() of the same facts.")
    scaling = _Scaling(model, prompts, answer_probabilities(model, prompts), factor, located.settings.attribution.at)
    rows: list[dict[str, object]] = []
    for i, fact in enumerate(progress_bar(given, what="neuron effects", unit="fact", progress=progress)):
        neurons = located.sets[i]
        row: dict[str, object] = {"relation": fact.relation, "subject": fact.subject, "neurons": len(neurons), "clean": float(scaling.clean[i])}
        row |= dict.fromkeys(_COLUMNS.values(), float("nan"))
        if len(neurons):
            others = [k for k, other in enumerate(given) if other.relation != fact.relation]
            drawn = random.Random(f"{seed}/{fact.text}").sample(others, min(unrelated, len(others)))
            row["own"] = scaling.change([i], [neurons])
            row["control"] = scaling.change([i], [neurons.random_control(seed + draw) for draw in range(controls)])
            row["unrelated"] = scaling.change(drawn, [neurons])
        rows.append(row)
    more = {"factor": factor, "unrelated": unrelated, "controls": controls}
    provenance = provenance_of(model, engine="hooks", seed=seed, has_bos=prompts[0].has_bos, settings=located.settings, **more)
    return NeuronEffects(pd.DataFrame(rows), factor, located.settings, provenance)


def _comparable(facts: Iterable[Fact], unrelated: int, controls: int) -> tuple[Fact, ...]:
    """The facts, refusing those without anything to compare them with."""
    given = check_given(facts, "fact", "pass facts of at least two relations")
    if len({fact.relation for fact in given}) < 2:
        raise DataError(f"{len(given)} facts of one relation leave no unrelated fact; pass facts of at least two.")
    if unrelated < 1 or controls < 1:
        raise InputError(f"unrelated={unrelated} and controls={controls} compare with nothing; pass at least 1 of each.")
    return given


@dataclass(frozen=True, eq=False, repr=False)
class _Scaling:
    """Neurons scaled at one span of some prompts, whose clean probabilities are known."""

    model: HookedModel
    prompts: Sequence[Prompt]
    clean: torch.Tensor
    factor: float
    at: str

    def change(self, rows: Sequence[int], sets: Sequence[NeuronSet]) -> float:
        """Mean relative change of P(answer) over some of the prompts and all sets."""
        before, prompts = self.clean[list(rows)], [self.prompts[row] for row in rows]
        after = [
            answer_probabilities(self.model, prompts, lambda pos, s=neurons: s.scale(self.factor, positions=pos), at=self.at) for neurons in sets
        ]
        return float(((torch.stack(after) - before) / before).mean())
