"""Learn a subspace by interchange: distributed alignment search (Geiger et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from tl_knowledge.door import public
from tl_knowledge.errors import ComponentError, InputError, ModelStateError, check_choice
from tl_knowledge.hooks import SubspaceComponent
from tl_knowledge.models.checks import check_has, check_layers
from tl_knowledge.models.ledger import has_written_edits, unedited_fingerprint
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.results.provenance import provenance_of
from tl_knowledge.runs.metric import Against, AnyMetric, Metric
from tl_knowledge.runs.metric_arguments import resolve_metric
from tl_knowledge.subspaces.controls import control_bases
from tl_knowledge.subspaces.pairs import Pair, as_fact_pairs, check_apart
from tl_knowledge.subspaces.scores import subspace_scores
from tl_knowledge.subspaces.settings import SubspaceSettings
from tl_knowledge.subspaces.subspace import Subspace
from tl_knowledge.subspaces.training import SubspaceTraining
from tl_knowledge.subspaces.trials import Site, Trials, as_prompts, reaches, read_trials

__all__ = ["learn_on", "learn_subspace", "prepared", "read_both"]


@public
def learn_subspace(
    model: AnyModel,
    pairs: Pair | Iterable[Pair],
    *,
    validation: Pair | Iterable[Pair],
    component: SubspaceComponent,
    layer: int,
    at: str,
    dims: int,
    metric: AnyMetric = "log_probability",
    against: Against = None,
    known_only: bool = True,
    training: SubspaceSettings | None = None,
    progress: bool = True,
) -> Subspace:
    """Directions whose interchange makes the model say the source's answer: distributed alignment search, DAS (Geiger et al. 2024).

    ``max over B of mean metric(model with x + B B^T (s - x))`` over pairs of a base, whose state is ``x``, and a source, whose state is ``s``;
    ``B^T B = 1``. The model is never changed. Kept is the basis of the best validation.

    They publish a rotation of the whole space, trained with the cross-entropy, of which some dimensions are exchanged; here these dimensions alone
    are trained, which is the same set of subspaces.

    Args:
        pairs: a base and a source each, facts or prompts; the interchanged run should say the source's target (`Fact.retarget` gives it another).
        validation: other pairs, to choose the step by.
        component: whose states are exchanged.
        layer: of which block.
        at: a span's name; states are exchanged at its last token, in each prompt at its own.
        dims: how many directions, fewer than the state has.
        metric: what is raised; ``"kl"`` makes the run say all that the source's own run says.
        against: other answers, for ``metric="logit_difference"``.
        known_only: leave out pairs of which the model does not say both answers.
        training: how.

    Raises:
        DataError: no pair can be used.
        InputError: a pair in both (with base and source exchanged, too), a rank as metric, or a place from which nothing reaches the answer.
        ComponentError: an unknown component, a layer that the model does not have, or as many directions as the state has numbers.
        PromptError, TargetError: a prompt without the span, or without a target.
        ModelStateError: edits are written into the model.
        NumericalError: logits or gradients that are not finite.

    Example:
        >>> import tl_knowledge as tlk
        >>> model, facts = tlk.load_model("factlm"), tlk.datasets.of_relation(tlk.load_facts(), "P1303")
        >>> train, validation, held_out = tlk.subspaces.split_pairs(facts)
        >>> place, training = {"component": "resid_post", "layer": 3, "at": "subject"}, tlk.subspaces.SubspaceSettings(steps=20)
        >>> subspace = tlk.subspaces.learn_subspace(model, train, validation=validation, dims=8, training=training, **place, progress=False)
        >>> said = subspace.score(model, held_out).by_layer().set_index("subspace")["said"]
        >>> bool(said["learned"] > 0.5 > said["random"])
        True
    """
    model, measured = prepared(model, component, [layer], metric, against)
    trials, held = read_both(model, pairs, validation, Site(component, layer, at), measured, known_only)
    if not reaches(model, trials):
        raise InputError(f"nothing that is put in the {trials.site} reaches the answer; pass an earlier layer, or another at=.")
    return learn_on(model, trials, held, measured, dims, training or SubspaceSettings(), progress)


def prepared(
    model: AnyModel, component: SubspaceComponent, layers: Sequence[int] | None, metric: AnyMetric, against: Against
) -> tuple[HookedModel, Metric]:
    """The model and the metric of a training, refused where it cannot be.

    Raises:
        ComponentError: an unknown component or metric, or a layer that the model does not have.
        InputError: a metric without a gradient.
        ModelStateError: edits are written into the model.
    """
    model = as_model(model, without_mlps=True)
    check_choice("component", component, SubspaceComponent, ComponentError)
    check_has(model, component)
    check_layers(model, layers)
    if has_written_edits(model):
        raise ModelStateError("edits are written into this model, so what is learnt would be for them; revert(model) them first.")
    measured = resolve_metric(model, metric, against)
    measured.check_differentiable("a subspace's training")
    return model, measured


def read_both(
    model: HookedModel, pairs: Pair | Iterable[Pair], validation: Pair | Iterable[Pair], site: Site, metric: Metric, known_only: bool
) -> tuple[Trials, Trials]:
    """The pairs that are trained on, and those of the validation.

    Raises:
        InputError: a pair in both, with base and source exchanged, too.
    """
    first, second = (as_prompts(model, as_fact_pairs(some)) for some in (pairs, validation))
    check_apart(first, second)
    kl = metric.kind == "kl"
    trials, held = (read_trials(model, some, site, known_only=known_only, keep_logits=kl) for some in (first, second))
    return trials, held


def learn_on(model: HookedModel, trials: Trials, held: Trials, metric: Metric, dims: int, settings: SubspaceSettings, progress: bool) -> Subspace:
    """The subspace of some pairs whose states are known.

    Raises:
        ComponentError: no direction, or as many as the state has numbers.
    """
    width, site = trials.states.shape[1], trials.site
    if not 1 <= dims < width:
        raise ComponentError(f"dims={dims} directions of {width} are no part of a state; pass 1 to {width - 1}.")
    run = SubspaceTraining(model, trials, held, metric, dims, settings)
    basis = run.run(progress)
    controls = control_bases(trials, dims, settings.seed + 1)  # not the basis that the training began with
    validated = subspace_scores(model, held, basis, controls, settings.seed)
    provenance = provenance_of(model, engine="one forward a step", seed=settings.seed, settings=settings, metric=str(metric))
    return Subspace(
        basis.cpu(),
        site.component,
        site.layer,
        site.at,
        metric,
        {name: each.cpu() for name, each in controls.items()},
        validated,
        pd.DataFrame(run.rows),
        run.best_step,
        settings,
        len(trials),
        unedited_fingerprint(model),
        provenance,
    )
