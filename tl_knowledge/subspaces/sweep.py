"""At which layer does a subspace carry the answer?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd
from more_itertools import always_iterable

from tl_knowledge.door import public
from tl_knowledge.engine.progress import progress_bar, show_progress
from tl_knowledge.errors import DataError
from tl_knowledge.hooks import SubspaceComponent
from tl_knowledge.models.checks import check_layers
from tl_knowledge.models.loading import AnyModel
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.results.provenance import provenance_of
from tl_knowledge.runs.metric import Against, AnyMetric
from tl_knowledge.subspaces.learning import learn_on, prepared, read_both
from tl_knowledge.subspaces.pairs import Shared, split_pairs
from tl_knowledge.subspaces.scores import SubspaceScores, subspace_scores
from tl_knowledge.subspaces.settings import SubspaceSettings
from tl_knowledge.subspaces.trials import Site, as_prompts, reaches, read_trials

__all__ = ["measure_subspaces"]


@public
def measure_subspaces(
    model: AnyModel,
    facts: Fact | Iterable[Fact],
    *,
    component: SubspaceComponent,
    at: str,
    dims: int,
    layers: Sequence[int] | None = None,
    by: Shared = "relation",
    metric: AnyMetric = "log_probability",
    against: Against = None,
    known_only: bool = True,
    training: SubspaceSettings | None = None,
    seed: int = 0,
    progress: bool = True,
) -> SubspaceScores:
    """Learn a subspace at every layer, and try each on facts of subjects that nothing was learnt or chosen from.

    Facts are paired by `split_pairs`; then as `learn_subspace` and `Subspace.score`. A layer from which nothing reaches the answer is left out, and
    stands in ``left_out``.

    Args:
        facts: of one relation or several.
        component: whose states are exchanged.
        at: a span's name; states are exchanged at its last token.
        dims: how many directions.
        layers: which; ``None`` is all.
        by: what base and source have in common.
        metric: what is raised, as in `learn_subspace`.
        against: other answers, for ``metric="logit_difference"``.
        known_only: leave out pairs of which the model does not say both answers.
        training: how.
        seed: of the pairs.

    Raises:
        DataError: too few facts, or no layer from which anything reaches the answer.
        InputError, ComponentError, PromptError, ModelStateError, NumericalError: as in `learn_subspace`.

    Example:
        >>> import tl_knowledge as tlk
        >>> model, facts = tlk.load_model("factlm"), tlk.datasets.of_relation(tlk.load_facts(), "P1303")
        >>> place, quick = {"component": "resid_post", "at": "subject"}, tlk.subspaces.SubspaceSettings(steps=2)
        >>> scores = tlk.subspaces.measure_subspaces(model, facts, layers=[2], dims=2, training=quick, **place, progress=False)
        >>> scores.by_layer()["subspace"].tolist()
        ['learned', 'random', 'variance', 'means', 'whole']
    """
    model, measured = prepared(model, component, layers, metric, against)
    train, validation, held_out = split_pairs(always_iterable(facts, Fact), by=by, seed=seed)
    tested, settings = as_prompts(model, held_out), training or SubspaceSettings()
    scores, left_out = list[SubspaceScores](), dict[str, int]()
    with show_progress(progress):
        for layer in progress_bar(check_layers(model, layers), what="subspaces", unit="layer", progress=progress):
            site = Site(component, layer, at)
            trials, held = read_both(model, train, validation, site, measured, known_only)
            if not reaches(model, trials):
                left_out[f"layer {layer}, which does not reach the answer"] = len(trials)
                continue
            found = learn_on(model, trials, held, measured, dims, settings, progress)
            scores.append(subspace_scores(model, read_trials(model, tested, site, known_only=known_only), found.basis, found.controls, settings.seed))
    if not scores:
        raise DataError(f"nothing that is put in {component} at {at!r} reaches the answer at any of these layers; pass earlier ones, or another at=.")
    table = pd.concat([one.table for one in scores], ignore_index=True)
    provenance = provenance_of(model, engine="one forward a step", seed=seed, settings=settings, metric=str(measured), by=by)
    return SubspaceScores(table, component, at, dims, scores[0].left_out | left_out, provenance)
