"""Measure what suppressing or enhancing facts' neurons does: the driver of `NeuronEffects` (Wen and Bai, figures 3-4)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from tl_knowledge.door import public
from tl_knowledge.engine.progress import progress_bar
from tl_knowledge.errors import DataError, InputError, check_given
from tl_knowledge.models.description import check_same_weights
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel, is_masked
from tl_knowledge.neurons.effect_reading import EffectReading, own_wordings
from tl_knowledge.neurons.effects import COLUMNS, NeuronEffects
from tl_knowledge.neurons.groups import fact_groups
from tl_knowledge.neurons.locate import locate_neurons
from tl_knowledge.neurons.located import LocatedNeurons
from tl_knowledge.neurons.neuron_set import NeuronSet
from tl_knowledge.neurons.settings import AttributionVariant, ThresholdKind
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.results.provenance import provenance_of
from tl_knowledge.wording import counted

__all__ = ["measure_neuron_effects"]

THRESHOLD, WEN_BAI_THRESHOLD = 0.2, 0.3


@public
def measure_neuron_effects(
    model: AnyModel,
    facts: Iterable[Fact],
    *,
    factor: float = 0.0,
    located: LocatedNeurons | None = None,
    threshold: float | None = None,
    kind: ThresholdKind = "max",
    shared_by: float = 0.5,
    variant: AttributionVariant = "ours",
    at: str = "last",
    steps: int = 20,
    same_prompts: bool = False,
    unrelated: int = 5,
    controls: int = 5,
    seed: int = 0,
    progress: bool = True,
) -> NeuronEffects:
    """Attribute every fact's neurons on its paraphrases, scale them where they were attributed, and measure the fact in its own wording.

    ``variant="wen_bai"`` does as Wen and Bai's program: neurons are attributed *and* measured on all of the fact's prompts, with a threshold of 0.3
    and targets in lower case; "unrelated" is one random other fact, of any relation, on which the neurons are *suppressed* whatever the factor
    (a slip of the program); answers of several tokens are read after the model's own tokens; activations are scaled before the non-linearity; and
    facts without neurons, or whose other fact has none, are left out. Their figures show the absolute change.

    Args:
        facts: known facts with paraphrases, of at least two relations.
        factor: 0 suppresses, 2 enhances (Wen and Bai).
        located: the facts' neurons, in their order, to measure several factors with one attribution; they should come from
            ``fact_groups(model, facts, own_wording=False)`` (``own_wording=True`` with ``same_prompts``), or what is measured was attributed.
            The arguments of attribution and selection are not used then; ``variant="wen_bai"`` wants neurons of the same variant.
        threshold, kind, shared_by: as `select_neurons`; the threshold is 0.2, or Wen and Bai's 0.3, when ``None``.
        variant, at, steps: as `attribute_neurons`. Variants that attribute before the non-linearity scale there, too.
        same_prompts: attribute and measure on the same prompts, the fact's own wording and its paraphrases.
        unrelated: facts of other relations to measure beside each.
        controls: draws of the random control.
        seed: of the random controls and of the unrelated facts.

    Raises:
        DataError: no fact, a fact without paraphrases, or facts of one relation only.
        InputError: as `attribute_neurons` and `select_neurons`, no control or unrelated fact to compare with, or neurons of other facts.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> facts = tlk.load_facts("factlm")[::300]
        >>> effects = tlk.neurons.measure_neuron_effects(model, facts, steps=5, progress=False)
        >>> len(effects.table) == len(facts)
        True
    """
    model = as_model(model, masked=True, encoder_decoder=True)
    program = variant == "wen_bai"
    given = _comparable(facts, unrelated, controls)
    given = tuple(replace(fact, target=fact.target.lower()) for fact in given) if program else given
    groups = fact_groups(model, given, own_wording=same_prompts or program)
    if located is None:
        least = (WEN_BAI_THRESHOLD if program else THRESHOLD) if threshold is None else threshold
        located = locate_neurons(
            model,
            groups,
            threshold=least,
            kind=kind,
            shared_by=shared_by,
            variant=variant,
            at=at,
            steps=steps,
            multi_token=program and not is_masked(model),
            progress=progress,
        )
    _check_located(model, located, given, program)
    measured = groups if same_prompts or program else own_wordings(model, given)
    reading = EffectReading.of(model, measured, located.settings.attribution, factor, program)
    more = {"factor": factor, "same_prompts": same_prompts or program, "unrelated": 1 if program else unrelated, "controls": controls}
    draw = _Draw(given, located, seed, 0 if program else unrelated)
    rows = [
        _row(reading, given[i], i, located.sets[i], draw, controls)
        for i in progress_bar(range(len(given)), what="neuron effects", unit="fact", progress=progress)
    ]
    provenance = provenance_of(model, engine="hooks", seed=seed, has_bos=groups[0].prompts[0].has_bos, settings=located.settings, **more)
    return NeuronEffects(pd.DataFrame(rows), factor, located.settings, provenance)


def _comparable(facts: Iterable[Fact], unrelated: int, controls: int) -> tuple[Fact, ...]:
    """The facts, refusing those without anything to compare them with."""
    given = check_given(facts, "fact", "pass facts of at least two relations")
    if len({fact.relation for fact in given}) < 2:
        raise DataError(f"{counted(len(given), 'fact')} of one relation leave no unrelated fact; pass facts of at least two.")
    if unrelated < 1 or controls < 1:
        raise InputError(f"unrelated={unrelated} and controls={controls} compare with nothing; pass at least 1 of each.")
    return given


def _check_located(model: HookedModel, located: LocatedNeurons, facts: Sequence[Fact], program: bool) -> None:
    """Refuse neurons of other weights, other facts, or another variant."""
    check_same_weights(model, located.provenance.weights, "located")
    if list(located.table["name"]) != [fact.subject for fact in facts]:
        raise InputError(
            f"{counted(len(located.sets), 'located group')} are not these {counted(len(facts), 'fact')} in their "
            f"order; locate_neurons() of the same facts."
        )
    if program and located.settings.attribution.variant != "wen_bai":
        raise InputError(
            f"variant='wen_bai' measures neurons of that variant, and these are {located.settings.attribution.variant!r}; "
            "locate_neurons(..., variant='wen_bai', threshold=0.3, multi_token=True) of facts with targets in lower case."
        )


@dataclass(frozen=True)
class _Draw:
    """Which other facts are measured beside each: some of other relations, or (Wen and Bai) one of any."""

    facts: Sequence[Fact]
    located: LocatedNeurons
    seed: int
    most: int

    def beside(self, i: int) -> list[int]:
        """The other facts' numbers; none where Wen and Bai's program leaves the fact out."""
        fact, draw = self.facts[i], random.Random(f"{self.seed}/{self.facts[i].text}")
        if not self.most:
            other = draw.choice([k for k in range(len(self.facts)) if k != i])
            return [other] if len(self.located.sets[other]) else []
        others = [k for k, other in enumerate(self.facts) if other.relation != fact.relation]
        return draw.sample(others, min(self.most, len(others)))


def _row(reading: EffectReading, fact: Fact, i: int, neurons: NeuronSet, draw: _Draw, controls: int) -> dict[str, object]:
    row: dict[str, object] = {"relation": fact.relation, "subject": fact.subject, "neurons": len(neurons), "clean": reading.clean_mean(i)}
    row |= {name: float("nan") for column in COLUMNS.values() for name in (column, f"{column}_absolute")}
    others = draw.beside(i) if len(neurons) else []
    if not others:
        return row
    random_sets = [neurons.random_control(draw.seed + number) for number in range(controls)]
    wanted = {"own": ([i], [neurons]), "control": ([i], random_sets), "unrelated": (others, [neurons])}
    for column, (rows, sets) in wanted.items():
        row[column], row[f"{column}_absolute"] = reading.change(rows, sets, suppress=column == "unrelated" and not draw.most)
    return row
