"""Locate the neurons of many facts, or of any groups of prompts that should share theirs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pandas as pd
from more_itertools import always_iterable, constrained_batches

from tl_knowledge.door import public
from tl_knowledge.engine.prefix import prefix_engine
from tl_knowledge.engine.progress import progress_bar
from tl_knowledge.engine.rows import MEMORY_BUDGET
from tl_knowledge.errors import check_given
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.neurons.attribution import attribute_neurons
from tl_knowledge.neurons.groups import PromptGroup, fact_groups
from tl_knowledge.neurons.located import LocatedNeurons
from tl_knowledge.neurons.neuron_set import NeuronSet
from tl_knowledge.neurons.result import NeuronAttribution
from tl_knowledge.neurons.selection import adapted_sharing, coarse_neurons
from tl_knowledge.neurons.settings import Adaptation, AttributionSettings, AttributionVariant, LocationSettings, ThresholdKind
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.results.provenance import provenance_of

__all__ = ["locate_neurons"]

PROMPTS_AT_ONCE = 64


@public
def locate_neurons(
    model: AnyModel,
    groups: Fact | PromptGroup | Iterable[Fact] | Iterable[PromptGroup],
    *,
    threshold: float = 0.2,
    kind: ThresholdKind = "max",
    shared_by: float = 0.5,
    adapt: Adaptation = "no",
    mean_count: tuple[float, float] = (2.0, 5.0),
    variant: AttributionVariant = "ours",
    at: str = "last",
    steps: int = 20,
    multi_token: bool = False,
    memory_budget: float = MEMORY_BUDGET,
    progress: bool = True,
) -> LocatedNeurons:
    """Attribute every group's prompts and keep the neurons that they share.

    Args:
        groups: facts (their own wording and paraphrases are a group), or groups of prompts.
        threshold, kind, shared_by: as `select_neurons`.
        adapt: whether ``shared_by`` moves by 0.05 until the count lies in ``mean_count``.
        variant: whose attribution (as `attribute_neurons`) and whose refinement (as `select_neurons`).
        at, steps, multi_token, memory_budget: as `attribute_neurons`.

    Raises:
        DataError: no group, or a fact without paraphrases.
        InputError: as `attribute_neurons` and `select_neurons`.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> located = tlk.locate_neurons(model, tlk.load_facts()[:4], steps=5, progress=False)
        >>> len(located.sets), list(located.statistics().columns[:4])
        (4, ['relation', 'groups', 'prompts', 'KN'])
    """
    model = as_model(model, masked=True)
    scoring = AttributionSettings(variant=variant, at=at, steps=steps, multi_token=multi_token)
    settings = LocationSettings(scoring, threshold, kind, shared_by, adapt, (mean_count[0], mean_count[1]))
    members = _as_groups(model, groups)
    coarse: list[list[NeuronSet]] = []
    rows: list[dict[str, object]] = []
    with progress_bar(what="locate neurons", unit="prompt", total=sum(len(group.prompts) for group in members), progress=progress) as bar:
        for group, scores in _attributions(model, members, settings, memory_budget):
            coarse.append(coarse_neurons(scores, threshold=threshold, kind=kind, variant=variant))
            rows.append(_row(group, scores))
            bar.update(len(group.prompts))
    sets, shares = _refined(members, coarse, settings)
    table = pd.DataFrame(rows)
    table.insert(3, "neurons", [len(neurons) for neurons in sets])
    table.insert(4, "share", shares)
    provenance = provenance_of(model, engine=prefix_engine(model), has_bos=members[0].prompts[0].has_bos, settings=settings)
    return LocatedNeurons(table, tuple(sets), settings, provenance)


def _as_groups(model: HookedModel, groups: Fact | PromptGroup | Iterable[Fact] | Iterable[PromptGroup]) -> list[PromptGroup]:
    given = check_given(always_iterable(groups, (Fact, PromptGroup)), "fact or group")
    return [group for each in given for group in (fact_groups(model, each) if isinstance(each, Fact) else [each])]


def _attributions(
    model: HookedModel, groups: Sequence[PromptGroup], settings: LocationSettings, memory_budget: float
) -> Iterator[tuple[PromptGroup, NeuronAttribution]]:
    """Every group with its scores; some groups a forward, so that short prompts fill it and all scores are never held together."""
    scoring = settings.attribution
    for bundle in constrained_batches(groups, PROMPTS_AT_ONCE, get_len=lambda group: len(group.prompts), strict=False):
        prompts = [prompt for group in bundle for prompt in group.prompts]
        together = attribute_neurons(
            model,
            prompts,
            variant=scoring.variant,
            at=scoring.at,
            steps=scoring.steps,
            multi_token=scoring.multi_token,
            memory_budget=memory_budget,
            progress=False,
        )
        first = 0
        for group in bundle:
            yield group, together.of_prompts(range(first, first + len(group.prompts)))
            first += len(group.prompts)


def _row(group: PromptGroup, scores: NeuronAttribution) -> dict[str, object]:
    probability = float(scores.clean_probability.double().mean())
    return {
        "relation": group.relation,
        "name": group.name,
        "prompts": len(group.prompts),
        "r1_squared": scores.r1_squared,
        "probability": probability,
    }


def _refined(groups: Sequence[PromptGroup], coarse: Sequence[list[NeuronSet]], settings: LocationSettings) -> tuple[list[NeuronSet], list[float]]:
    """Each group's refined neurons and the share they were refined with."""
    adapt, mean_count = settings.adapt, None if settings.adapt == "no" else settings.mean_count
    keys = [i if adapt == "group" else groups[i].relation if adapt == "relation" else None for i in range(len(groups))]
    sets: dict[int, NeuronSet] = {}
    shares: dict[int, float] = {}
    for key in dict.fromkeys(keys):
        members = [i for i, other in enumerate(keys) if other == key]
        refined, share = adapted_sharing([coarse[i] for i in members], settings.shared_by, mean_count, settings.attribution.variant)
        sets |= dict(zip(members, refined, strict=True))
        shares |= dict.fromkeys(members, share)
    return [sets[i] for i in range(len(groups))], [shares[i] for i in range(len(groups))]
