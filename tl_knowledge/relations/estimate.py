"""Estimate a relation's map from a few of its facts."""

from __future__ import annotations

from collections.abc import Iterable

from more_itertools import always_iterable

from tl_knowledge.door import public
from tl_knowledge.engine.prefix import prefix_engine
from tl_knowledge.engine.progress import show_progress
from tl_knowledge.engine.rows import MEMORY_BUDGET
from tl_knowledge.errors import ComponentError, InputError
from tl_knowledge.models.checks import check_layers
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel, layer_count, model_name
from tl_knowledge.models.published_settings import published_for
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.relations.fit import fit_maps
from tl_knowledge.relations.relation_map import RelationMap
from tl_knowledge.relations.settings import PUBLISHED, RelationMapSettings
from tl_knowledge.relations.states import of_one_relation
from tl_knowledge.results.provenance import provenance_of
from tl_knowledge.wording import counted

__all__ = ["check_map", "estimate_relation", "mappable_layers"]


@public
def estimate_relation(
    model: AnyModel,
    facts: Fact | Iterable[Fact],
    *,
    layer: int | None = None,
    beta: float | None = None,
    rank: int | None = None,
    separator: str = ".\n",
    memory_budget: float = MEMORY_BUDGET,
    progress: bool = True,
) -> RelationMap:
    """A relation as the mean first-order approximation of the model around some facts (Hernandez et al. 2024, equations 3 and 4).

    Each fact is asked after all the others, in the first one's template. Every layer's Jacobian comes from the same backward passes, a chunk of
    rows each, over the tokens from the subject's last one on.

    Args:
        facts: of one relation, each subject once; 8 in the publication. They should be known to the model.
        layer: whose output is mapped; ``None``: the layer whose map, estimated from all other facts, most often says what the model says.
        beta: what the mapped state is multiplied by; ``None``: chosen with the layer.
        rank: of the inverse that edits use; ``None``: the rank that most often makes the model say another of these facts' objects.
        separator: between the statements; the published program has a line break alone.
        memory_budget: bytes that the runs' activations may take.
        progress: show a progress bar of work that takes more than two seconds.

    ``None`` takes the published demonstration's value where there is one for the model (GPT-J: layer 5, beta 2.5, rank 100).

    Raises:
        DataError: no fact, a subject twice, or one fact where layer, beta or rank are to be chosen.
        InputError: facts of several relations, or a beta that is not above 0.
        ComponentError: a layer that the model does not have, or a rank that the map does not have.
        PromptError: the facts together are longer than the model's context.
        NumericalError: a Jacobian that is not finite.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> facts = tlk.datasets.of_relation(tlk.load_facts(), "P1303")
        >>> relation = tlk.relations.estimate_relation(model, facts[:8], layer=4, progress=False)
        >>> relation.weight.shape == (model.cfg.d_model, model.cfg.d_model)
        True
    """
    model = as_model(model)
    given = of_one_relation(list(always_iterable(facts, Fact)))
    check_map(model, beta, rank)
    known = published_for(model, PUBLISHED)
    if known is not None:
        layer, beta, rank = (known.layer if layer is None else layer), (known.beta if beta is None else beta), (known.rank if rank is None else rank)
    layers = mappable_layers(model) if layer is None else check_layers(model, [layer])
    with show_progress(progress):
        fit = fit_maps(model, given, layers, separator, memory_budget)
        betas = fit.strengths()[0] if beta is None else [beta] * len(layers)
        at = 0 if len(layers) == 1 else fit.best_layer(betas)
        fit, strength = fit.only(at), betas[at]
        if rank is None:
            rank = fit.ranks(memory_budget)[0]
    fit.inverses[0].check(rank)
    settings = RelationMapSettings(layers[at], strength, rank, separator)
    held_out = float(fit.agreement(strength)[0][0]) if len(given) > 1 else float("nan")
    provenance = provenance_of(model, has_bos=fit.prompts[0].has_bos, engine=prefix_engine(model), settings=settings, facts=len(given))
    return RelationMap(fit.weight[0].cpu(), fit.bias[0].cpu(), given, settings, held_out, layer_count(model), provenance)


def mappable_layers(model: HookedModel) -> tuple[int, ...]:
    """All blocks but the last, after which no other token reads the subject's state."""
    return tuple(range(max(1, layer_count(model) - 1)))


def check_map(model: HookedModel, beta: float | None, rank: int | None) -> None:
    """Refuse a beta and a rank that no map of the model has.

    Raises:
        InputError: a beta that is not above 0, or not finite.
        ComponentError: a rank that is not 1 to the model's width.
    """
    if rank is not None and not 1 <= rank <= int(model.cfg.d_model):
        raise ComponentError(
            f"rank {rank} does not fit {model_name(model)}, whose states have {counted(model.cfg.d_model, 'number')}; pass 1 to that many."
        )
    if beta is not None and not 0 < beta < float("inf"):
        raise InputError(f"beta {beta} must be above 0 and finite; pass for example 2.5, or None to choose it on the facts.")
