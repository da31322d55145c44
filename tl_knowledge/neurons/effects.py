"""What suppressing or enhancing a fact's neurons does: to the fact itself, to unrelated facts, beside random neurons (paper 000, figures 3-4).

A fact's neurons are attributed on its *paraphrases* and measured on its own wording, so that what is measured was not attributed. The random
control has as many neurons in every layer.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import plotly.graph_objects as go
import torch
from tqdm.auto import tqdm

from tl_knowledge.drawing import grouped_bars
from tl_knowledge.engine.batches import answer_probabilities
from tl_knowledge.errors import DataError, InputError
from tl_knowledge.models.checks import check_model
from tl_knowledge.models.description import describe_model
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.neurons.attribution import AttributionVariant
from tl_knowledge.neurons.groups import fact_groups
from tl_knowledge.neurons.locate import locate_neurons
from tl_knowledge.neurons.located import LocatedNeurons
from tl_knowledge.neurons.neuron_set import NeuronSet
from tl_knowledge.neurons.selection import ThresholdKind
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.statistics import FEWEST_TESTED, paired_p_values, scalar_interval
from tl_knowledge.results.table import TableResult

__all__ = ["COMPARED", "NeuronEffects", "measure_neuron_effects", "place_words"]

COMPARED = ("own fact", "random control", "unrelated facts")
_COLUMNS: dict[str, str] = {"own fact": "own", "random control": "control", "unrelated facts": "unrelated"}


def place_words(at: str) -> str:
    """Where neurons are, in words."""
    return "the last position" if at == "last" else f"the {at}'s last token"


@dataclass(frozen=True, eq=False)
class NeuronEffects(TableResult):
    """Relative changes of the answer's probability, ``(p' - p) / p``, one row a fact.

    Attributes:
        table: columns ``relation subject neurons clean own control unrelated``: the number of neurons, the clean probability, and the change of
            the fact itself, of the fact under random neurons (mean over draws), and of facts of other relations (mean). Changes are NaN for facts
            without neurons.
        factor: what the neurons' activations were multiplied by.
    """

    ranked_by: ClassVar[str] = "own"
    either_sign: ClassVar[bool] = True
    table: pd.DataFrame
    factor: float
    provenance: Provenance

    def summary(self) -> pd.DataFrame:
        """Mean change of each kind with its 95% bootstrap interval over facts, and p of own against it (Wilcoxon, paired, corrected).

        Fewer than 6 facts with neurons cannot be tested: p is NaN then.
        """
        found = self._found()
        p_values = [float("nan")] * len(COMPARED)
        if len(found) >= FEWEST_TESTED:
            _, corrected = paired_p_values(found[["own", "own"]].to_numpy(), found[["control", "unrelated"]].to_numpy())
            p_values[1:] = corrected.tolist()
        rows = [self._row(kind, found) | {"p_own_differs": p} for kind, p in zip(COMPARED, p_values, strict=True)]
        return pd.DataFrame(rows)

    def by_relation(self) -> pd.DataFrame:
        """Mean change of each kind for every relation, with intervals over its facts (none for one fact)."""
        groups = self._found().groupby("relation", dropna=False)
        return pd.DataFrame([{"relation": str(name)} | self._row(kind, rows) for name, rows in groups for kind in COMPARED])

    def plot(self) -> go.Figure:
        """Bars: the change of each kind by relation, with its interval; relations in order of their own facts' change."""
        frame = self.by_relation()
        own = frame.loc[frame["what"] == COMPARED[0]].sort_values(by=["change"], kind="stable")
        relations = list(own["relation"])
        by_kind = {kind: frame.loc[frame["what"] == kind].set_index("relation").loc[relations] for kind in COMPARED}
        columns = ["change", "low", "high"]
        counts = by_kind[COMPARED[0]]["facts"]
        word = "suppressed" if self.factor == 0 else f"times {self.factor:g}"
        return grouped_bars(
            [f"{relation} ({count})" for relation, count in zip(relations, counts, strict=True)],
            {kind: [tuple(row) for row in rows[columns].to_numpy().tolist()] for kind, rows in by_kind.items()},
            title=f"The facts' neurons {word} at {place_words(self.provenance.settings['at'])}: change of P(answer)",
            subtitle=f"{len(self._found())} of {len(self.table)} facts have neurons; {self.provenance.model}; 95% bootstrap over a relation's facts",
            group_axis="relation (number of facts)",
            value_axis="change of P(answer), relative",
        )

    def _found(self) -> pd.DataFrame:
        return self.table.loc[self.table["neurons"] > 0]

    def _row(self, kind: str, rows: pd.DataFrame) -> dict[str, object]:
        mean, low, high = scalar_interval(rows[_COLUMNS[kind]])
        return {"what": kind, "change": mean, "low": low, "high": high, "facts": len(rows)}


def measure_neuron_effects(
    model: HookedModel,
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
        factor: 0 suppresses, 2 enhances (paper 000).
        located: the facts' neurons, in their order, to measure several factors with one attribution; they should come from
            ``fact_groups(model, facts, own_wording=False)``, or what is measured was attributed.
        threshold, kind, shared_by: as `select_neurons`.
        variant, at, steps: as `attribute_neurons`.
        unrelated: facts of other relations to measure beside each.
        controls: draws of the random control.

    Raises:
        DataError: no fact, a fact without paraphrases, or facts of one relation only.
        InputError: as `attribute_neurons` and `select_neurons`, or no control or unrelated fact asked for.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> facts = tlk.load_facts("factlm")[::300]
        >>> effects = tlk.neurons.measure_neuron_effects(model, facts, steps=5, progress=False)
        >>> len(effects.table) == len(facts)
        True
    """
    check_model(model, masked=True)
    chosen = list(facts)
    if len({fact.relation for fact in chosen}) < 2:
        raise DataError(
            f"{len(chosen)} facts of {len({f.relation for f in chosen})} relation(s) leave no unrelated fact; pass facts of at least two."
        )
    if unrelated < 1 or controls < 1:
        raise InputError(f"unrelated={unrelated} and controls={controls} compare with nothing; pass at least 1 of each.")
    prompts = [Prompt.from_fact(model, fact) for fact in chosen]
    clean = answer_probabilities(model, prompts)
    if located is None:
        groups = fact_groups(model, chosen, own_wording=False)
        selection: dict[str, Any] = {"threshold": threshold, "kind": kind, "shared_by": shared_by}
        located = locate_neurons(model, groups, **selection, variant=variant, at=at, steps=steps, progress=progress)
    if list(located.table["name"]) != [fact.subject for fact in chosen]:
        raise InputError(f"{len(located.sets)} located groups are not these {len(chosen)} facts in their order; locate_neurons() of the same facts.")
    at = located.provenance.settings["at"]
    rows: list[dict[str, object]] = []
    for i, fact in enumerate(tqdm(chosen, desc="neuron effects", unit="fact", delay=2, disable=not progress)):
        neurons = located.sets[i]
        row: dict[str, object] = {"relation": fact.relation, "subject": fact.subject, "neurons": len(neurons), "clean": float(clean[i])}
        row |= dict.fromkeys(_COLUMNS.values(), float("nan"))
        if len(neurons):
            others = [k for k, other in enumerate(chosen) if other.relation != fact.relation]
            drawn = random.Random(f"{seed}/{fact.text}").sample(others, min(unrelated, len(others)))
            random_sets = [neurons.random_control(seed + draw) for draw in range(controls)]
            row["own"] = _change(model, prompts, clean, [i], [neurons], factor, at)
            row["control"] = _change(model, prompts, clean, [i], random_sets, factor, at)
            row["unrelated"] = _change(model, prompts, clean, drawn, [neurons], factor, at)
        rows.append(row)
    names = ("threshold", "kind", "shared_by", "variant", "at", "steps")
    settings = {name: located.provenance.settings[name] for name in names} | {"factor": factor}
    provenance = Provenance(**describe_model(model), prepends_bos=prompts[0].has_bos, seed=seed, engine="hooks", settings=settings)
    return NeuronEffects(pd.DataFrame(rows), factor, provenance)


def _change(
    model: HookedModel, prompts: Sequence[Prompt], clean: torch.Tensor, measured: Sequence[int], sets: Sequence[NeuronSet], factor: float, at: str
) -> float:
    """Mean relative change over some of the prompts and the sets, scaled at the prompts' own position."""
    before = clean[list(measured)]
    asked = [prompts[k] for k in measured]
    after = [answer_probabilities(model, asked, lambda pos, s=neurons: s.scale(factor, positions=pos), at=at) for neurons in sets]
    return float(((torch.stack(after) - before) / before).mean())
