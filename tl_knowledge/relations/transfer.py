"""Estimate relations' vectors, and try them in prompts that do not ask for the relation."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from more_itertools import always_iterable

from tl_knowledge.door import public
from tl_knowledge.engine.prefix import prefix_engine
from tl_knowledge.engine.progress import progress_bar, show_progress
from tl_knowledge.engine.rows import MEMORY_BUDGET
from tl_knowledge.errors import InputError, check_given
from tl_knowledge.models.checks import check_layers
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.relations.draws import check_counts, draw_facts, generator_of
from tl_knowledge.relations.heads import MeanHeads
from tl_knowledge.relations.scores import check_measured
from tl_knowledge.relations.settings import EXAMPLES
from tl_knowledge.relations.states import decode
from tl_knowledge.relations.suffix import Shift, Suffix
from tl_knowledge.relations.vector import HEADS, RelationVector, check_head_count, estimate_relation_vector, random_heads, vector_layer
from tl_knowledge.relations.vector_scores import RelationVectorScores
from tl_knowledge.results.provenance import provenance_of

__all__ = ["measure_relation_vectors"]


@dataclass(frozen=True, eq=False)
class _Trial:
    """One relation's vector, and the vectors it is compared with."""

    model: HookedModel
    layer: int
    commonest: str
    vectors: torch.Tensor
    memory_budget: float


@public
def measure_relation_vectors(
    model: AnyModel,
    facts: Fact | Iterable[Fact],
    *,
    examples: int = EXAMPLES,
    k: int = HEADS,
    layer: int | None = None,
    templates: str | Sequence[str] | None = None,
    controls: int = 5,
    separator: str = ".\n",
    limit: int | None = None,
    known_only: bool = True,
    seed: int = 0,
    memory_budget: float = MEMORY_BUDGET,
    progress: bool = True,
) -> RelationVectorScores:
    """How often a relation's vector makes the model say the relation's object in prompts that do not ask for it (Todd et al. 2024, section 3).

    Of each relation some facts are drawn for `estimate_relation_vector`; the others' subjects are asked in a template that does not ask for the
    relation, with the vector added at the last token, and with vectors that should not work.

    Args:
        facts: of any number of relations.
        examples: how many facts a vector is estimated from.
        k: of how many heads a vector is made.
        layer: after which block it is added; ``None`` is a third of the depth.
        templates: what is asked instead, with ``{}`` for the subject, drawn for each fact; ``None`` is the other relations' templates.
        controls: how many vectors of as many random heads each vector is compared with.
        separator: between the statements.
        limit: how many facts of each relation a vector is tried on, at most; one that is too long for the model in its other template is left out.
        known_only: use only facts whose target the model says when it is asked for.
        seed: of all draws.
        memory_budget: bytes that the runs' activations may take.
        progress: show a progress bar of work that takes more than two seconds.

    Raises:
        DataError: no relation has enough facts, or no template is left.
        InputError: numbers that are too small.
        ComponentError: a layer that the model does not have, or more heads than it has.
        UnsupportedModelError: attention's output is not the sum of what its heads write.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> facts = tlk.datasets.of_relation(tlk.load_facts(), "P1303")
        >>> scores = tlk.relations.measure_relation_vectors(model, facts, examples=4, k=3, templates="{}", limit=5, progress=False)
        >>> len(scores.table)
        5
    """
    model = as_model(model)
    given = check_given(always_iterable(facts, Fact), "fact")
    check_counts(examples, limit)
    if controls < 1:
        raise InputError(f"controls={controls} leaves nothing to compare a vector with; pass at least 1.")
    at = vector_layer(model) if layer is None else check_layers(model, [layer])[0]
    check_head_count(model, k)
    rows: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    with show_progress(progress):
        for name in progress_bar(list(dict.fromkeys(str(fact.relation) for fact in given)), what="relations", unit="relation", progress=progress):
            try:
                drawn, rest = draw_facts(model, [f for f in given if str(f.relation) == name], examples, separator, seed, known_only)
                others = _other_templates(given, name) if templates is None else tuple(always_iterable(templates))
                vector = estimate_relation_vector(
                    model, drawn, templates=others, k=k, layer=at, separator=separator, memory_budget=memory_budget, progress=False
                )
                asked = _asked(model, rest, others, random.Random(f"{seed}/{name}/templates"))
            except InputError as error:
                left_out[name] = str(error)
                continue
            vectors = _with_controls(vector, k, controls, generator_of(seed, name, "controls"))
            trial = _Trial(model, at, Counter(fact.target for fact in drawn).most_common(1)[0][0], vectors, memory_budget)
            rows += [{"relation": name, "layer": at} | _tried(trial, *each) for each in asked[:limit]]
    check_measured(rows, left_out)
    provenance = provenance_of(
        model, engine=prefix_engine(model), seed=seed, examples=examples, layer=at, k=k, controls=controls, separator=separator
    )
    return RelationVectorScores(pd.DataFrame(rows), left_out, examples, k, provenance)


def _other_templates(facts: Sequence[Fact], relation: str) -> tuple[str, ...]:
    """Each other relation's most common template.

    Raises:
        DataError: there is no other relation.
    """
    by_relation: dict[str, Counter[str]] = {}
    for fact in facts:
        by_relation.setdefault(str(fact.relation), Counter())[fact.template] += 1
    own = set(by_relation[relation])
    common = [counts.most_common(1)[0][0] for name, counts in by_relation.items() if name != relation]
    return check_given([template for template in common if template not in own], "other relation", "pass facts of several, or templates=")


def _with_controls(vector: RelationVector, k: int, controls: int, generator: torch.Generator) -> torch.Tensor:
    """The vector, a random direction as long, and vectors of random heads."""
    direction = torch.randn(len(vector.vector), generator=generator, dtype=torch.float64).to(vector.vector)
    mean = MeanHeads(vector.writes, vector.writes)
    drawn = [random_heads(mean, k, generator) for _ in range(controls)]
    return torch.stack([vector.vector, direction / direction.norm() * vector.vector.norm(), *drawn])


def _asked(model: HookedModel, facts: Sequence[Fact], templates: Sequence[str], draw: random.Random) -> list[tuple[Fact, Prompt]]:
    """Facts in other templates, one drawn for each, without those that the model cannot be asked there.

    Raises:
        InputError: none can be asked.
    """
    asked = list[tuple[Fact, Prompt]]()
    refusal: InputError | None = None
    for fact in facts:
        other = fact.rephrase(draw.choice(templates))
        try:
            asked.append((other, Prompt.from_fact(model, other)))
        except InputError as error:
            refusal = error
    if refusal is not None and not asked:
        raise refusal
    return asked


def _tried(trial: _Trial, fact: Fact, prompt: Prompt) -> dict[str, Any]:
    """What the model says of a fact's subject in another template, without and with each vector."""
    model = trial.model
    shifts = [Shift(trial.layer, vector) for vector in (torch.zeros_like(trial.vectors[0]), *trial.vectors)]
    log_probability = decode(model, Suffix.of(model, prompt, "last").final_states(shifts, trial.memory_budget))
    says = log_probability.argmax(-1)
    hits = (says == prompt.target_token).double().tolist()
    probability = log_probability[:, prompt.target_token].exp().tolist()
    controls = sum(hits[3:]) / len(hits[3:])
    before, after = (str(model.tokenizer.decode([token])) for token in says[:2].tolist())
    words = {"subject": fact.subject, "target": fact.target, "template": fact.template, "before": before, "after": after}
    scores = {
        "said_before": hits[0],
        "said": hits[1],
        "commonest": float(fact.target == trial.commonest),
        "random_heads": controls,
        "random_direction": hits[2],
        "gain": hits[1] - controls,
    }
    return words | scores | {"probability_gain": probability[1] - probability[0]}
