"""Locate the neurons of many facts, or of any groups of prompts that should share theirs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias, get_args

import pandas as pd
from tqdm.auto import tqdm

from tl_knowledge.engine.rows import MEMORY_BUDGET
from tl_knowledge.errors import DataError, InputError
from tl_knowledge.models.checks import check_model
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.neurons.attribution import AttributionVariant, attribute_neurons
from tl_knowledge.neurons.groups import PromptGroup, fact_groups
from tl_knowledge.neurons.located import LocatedNeurons
from tl_knowledge.neurons.neuron_set import NeuronSet
from tl_knowledge.neurons.result import NeuronAttribution
from tl_knowledge.neurons.selection import ThresholdKind, adapted_sharing, check_selection, coarse_neurons
from tl_knowledge.prompts.facts import Fact

__all__ = ["Adaptation", "locate_neurons"]

Adaptation: TypeAlias = Literal["no", "group", "relation"]
"""Whether the sharing threshold moves until the number of neurons fits: never, for each group by itself, or for a relation's mean (Dai et al.)."""

PROMPTS_AT_ONCE = 64


def locate_neurons(
    model: HookedModel,
    groups: Iterable[Fact] | Iterable[PromptGroup],
    *,
    threshold: float = 0.2,
    kind: ThresholdKind = "max",
    shared_by: float = 0.7,
    adapt: Adaptation = "no",
    mean_count: tuple[float, float] = (2.0, 5.0),
    variant: AttributionVariant = "ours",
    at: str = "last",
    steps: int = 20,
    memory_budget: float = MEMORY_BUDGET,
    progress: bool = True,
) -> LocatedNeurons:
    """Attribute every group's prompts and keep the neurons that they share.

    Args:
        groups: facts (their own wording and paraphrases are a group), or groups of prompts.
        threshold, kind, shared_by: as `select_neurons`.
        adapt: whether ``shared_by`` moves by 0.05 until the count lies in ``mean_count``.
        variant, at, steps, memory_budget: as `attribute_neurons`.

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
    check_model(model, masked=True)
    if adapt not in get_args(Adaptation):
        raise InputError(f"adapt={adapt!r} is unknown; pass one of {', '.join(map(repr, get_args(Adaptation)))}.")
    check_selection(threshold, kind, shared_by, mean_count)
    asked = _as_groups(model, list(groups))
    coarse: list[list[NeuronSet]] = []
    rows: list[dict[str, object]] = []
    provenance = None
    with tqdm(total=sum(len(group.prompts) for group in asked), desc="locate neurons", unit="prompt", delay=2, disable=not progress) as bar:
        for bundle in _bundles(asked):
            prompts = [prompt for group in bundle for prompt in group.prompts]
            scores = attribute_neurons(model, prompts, variant=variant, at=at, steps=steps, memory_budget=memory_budget, progress=False)
            provenance = scores.provenance
            first = 0
            for group in bundle:
                own = scores.of_prompts(range(first, first + len(group.prompts)))
                coarse.append(coarse_neurons(own, threshold=threshold, kind=kind))
                rows.append(_row(group, own))
                first += len(group.prompts)
            bar.update(len(prompts))
    assert provenance is not None
    sets, shares = _refined(asked, coarse, shared_by, adapt, mean_count)
    table = pd.DataFrame(rows)
    table.insert(3, "neurons", [len(neurons) for neurons in sets])
    table.insert(4, "share", shares)
    refinement = {"threshold": threshold, "kind": kind, "shared_by": shared_by, "adapt": adapt, "mean_count": list(mean_count)}
    return LocatedNeurons(table, tuple(sets), replace(provenance, settings=provenance.settings | refinement))


def _as_groups(model: HookedModel, groups: Sequence[Fact | PromptGroup]) -> list[PromptGroup]:
    if not groups:
        raise DataError("no fact and no group was given; pass at least one.")
    made: list[PromptGroup] = []
    for group in groups:
        made += fact_groups(model, [group]) if isinstance(group, Fact) else [group]
    return made


def _bundles(groups: Sequence[PromptGroup]) -> Iterable[list[PromptGroup]]:
    """Some groups at a time, so that short prompts fill a forward and all scores are never held together."""
    bundle: list[PromptGroup] = []
    for group in groups:
        bundle.append(group)
        if sum(len(member.prompts) for member in bundle) >= PROMPTS_AT_ONCE:
            yield bundle
            bundle = []
    if bundle:
        yield bundle


def _row(group: PromptGroup, scores: NeuronAttribution) -> dict[str, object]:
    probability = float(scores.clean_probability.double().mean())
    return {
        "relation": group.relation,
        "name": group.name,
        "prompts": len(group.prompts),
        "r1_squared": scores.r1_squared,
        "probability": probability,
    }


def _refined(
    groups: Sequence[PromptGroup], coarse: Sequence[list[NeuronSet]], shared_by: float, adapt: Adaptation, mean_count: tuple[float, float]
) -> tuple[list[NeuronSet], list[float]]:
    """Each group's refined neurons and the share that made them."""
    keys = [i if adapt == "group" else groups[i].relation if adapt == "relation" else None for i in range(len(groups))]
    sets: dict[int, NeuronSet] = {}
    shares: dict[int, float] = {}
    for key in dict.fromkeys(keys):
        members = [i for i, other in enumerate(keys) if other == key]
        found, share = adapted_sharing([coarse[i] for i in members], shared_by, None if adapt == "no" else mean_count)
        sets |= dict(zip(members, found, strict=True))
        shares |= dict.fromkeys(members, share)
    return [sets[i] for i in range(len(groups))], [shares[i] for i in range(len(groups))]
