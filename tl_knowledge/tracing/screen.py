"""The attribution screen: first-order estimates of every indirect effect from one forward and one backward.

``IE(site) ~ <clean - corrupted activation, dP*(o) / d activation>`` at the corrupted run (attribution patching; Nanda 2023,
Syed et al. 2023). Cheap and often wrong in size where the model saturates, so the largest effects are traced exactly and
the agreement is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float

from tl_knowledge.arrays import Hooks
from tl_knowledge.engine.forward import run_model
from tl_knowledge.engine.rows import keep_positions
from tl_knowledge.errors import ComponentError
from tl_knowledge.models.hook_names import EMBED, STATES, Component, by_position
from tl_knowledge.models.protocol import site_hook
from tl_knowledge.results.significance import rank_correlation
from tl_knowledge.runs.experiment import Experiment
from tl_knowledge.runs.scoring import check_gradient
from tl_knowledge.tracing.engines import exact_scores
from tl_knowledge.tracing.sites import Site
from tl_knowledge.wording import counted

__all__ = ["ScreenCheck", "screen_sites", "screened_scores"]

Key = tuple[Component, int]


@dataclass(frozen=True)
class ScreenCheck:
    """How the screen's estimates agree with exact effects at the sites that were re-checked.

    Attributes:
        verified: how many sites were traced exactly; their estimates are replaced.
        rank_correlation: Spearman's, between estimated and exact mean effects at those sites; NaN below 3 sites.
        largest_error: the largest difference between an estimate and the exact effect, in the metric.
    """

    verified: int
    rank_correlation: float
    largest_error: float


def screen_sites(experiment: Experiment, sites: Sequence[Site]) -> Float[torch.Tensor, "site sample"]:
    """Estimated effects; a window's is the sum over its layers.

    Raises:
        ComponentError: severed sites, or windows of residual states: neither has a first-order sum.
    """
    if any(site.severed for site in sites):
        raise ComponentError("engine 'screen' estimates no severed effects; pass engine='rows'.")
    if any(site.component in STATES and site.first < site.last for site in sites):
        raise ComponentError("engine 'screen' estimates single residual states, but window > 1 was given; pass window=1, or engine='rows'.")
    keys: list[Key] = sorted({(site.component, layer) for site in sites for layer in range(site.first, site.last + 1)})
    effects = _first_order(experiment, keys)

    def term(site: Site, layer: int) -> torch.Tensor:
        table = effects[site.component, layer][experiment.sample_rows(site.run), site.pos]
        return table if site.unit is None else table[:, site.unit]

    return torch.stack([torch.stack([term(site, layer) for layer in range(site.first, site.last + 1)]).sum(0) for site in sites])


def _first_order(experiment: Experiment, keys: Sequence[Key]) -> dict[Key, torch.Tensor]:
    """``(clean - corrupted) . gradient`` for each component and layer, ``[row pos]`` or ``[row pos unit]``."""
    activations: dict[Key, torch.Tensor] = {}

    def record(key: Key) -> Hooks:
        def keep(activation: torch.Tensor, *, hook: object) -> torch.Tensor:
            # Returned, because a bridge may show a view of what the model goes on with.
            activations[key] = activation.clone()
            return activations[key]

        return [(site_hook(experiment.model, *key), keep)]

    def track(embeddings: torch.Tensor, *, hook: object) -> torch.Tensor:
        return embeddings.detach().requires_grad_(True)

    hooks = [*experiment.corrupt_hooks(), (EMBED, track), *(pair for key in keys for pair in record(key))]
    hooks += keep_positions(experiment.answer_positions[experiment.row_prompts])
    with torch.enable_grad():
        logits: torch.Tensor = run_model(experiment.model, experiment.tokens[experiment.row_prompts], hooks)
        scores = experiment.score(logits, experiment.row_prompts)
        check_gradient(scores, logits, experiment.metric)
        gradients = torch.autograd.grad(scores.sum(), [activations[key] for key in keys])
    products: dict[Key, torch.Tensor] = {}
    for key, gradient in zip(keys, gradients, strict=True):
        corrupted = activations[key].detach()
        change = corrupted[experiment.row_prompts] - corrupted
        # Scores of what may not be read are minus infinity in both runs.
        product = by_position(site_hook(experiment.model, *key), torch.where(corrupted.isneginf(), 0, change) * gradient)
        products[key] = product if key[0] == "neuron" else product.sum(-1)
    return products


def screened_scores(
    experiment: Experiment, sites: Sequence[Site], verify: int, memory_budget: float, advance: Callable[[int], None]
) -> tuple[Float[torch.Tensor, "site sample"], str, ScreenCheck]:
    """Estimated scores of all restored runs, exact at the ``verify`` largest mean effects.

    Raises:
        ComponentError: a negative number to verify.
        InputError: a metric without gradients.
    """
    experiment.metric.check_differentiable("engine='screen'")
    if verify < 0:
        raise ComponentError(f"verify={verify} is negative; pass how many of the largest effects to trace exactly.")
    if not sites:  # none of them can matter, and a gradient of nothing is an error
        exact, used = exact_scores(experiment, sites, "rows", memory_budget, advance)
        return exact, f"screen, 0 sites verified by {used}", ScreenCheck(0, float("nan"), 0.0)
    estimate = screen_sites(experiment, sites)
    corrupted = torch.stack([experiment.corrupted_score(site.run) for site in sites])
    verified = estimate.mean(1).abs().argsort(descending=True, stable=True)[:verify].tolist()
    exact, used = exact_scores(experiment, [sites[k] for k in verified], "rows", memory_budget, advance)
    effect = exact - corrupted[verified]
    errors = (estimate[verified] - effect).abs()
    check = ScreenCheck(
        len(verified),
        rank_correlation(estimate[verified].mean(1).tolist(), effect.mean(1).tolist()),
        float(errors.max()) if verified else 0.0,
    )
    scores = corrupted + estimate
    scores[verified] = exact
    return scores, f"screen, {counted(len(verified), 'site')} verified by {used}", check
