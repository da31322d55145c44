"""Does localisation inform editing (Hase et al. 2023; paper 003)? Edit every layer, trace every layer, and regress one on the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from tl_knowledge.drawing import Line, LinePanel, line_panels
from tl_knowledge.editing import EditMethod, KeyMoments, Objective, edit_provenance, plan_edit
from tl_knowledge.errors import InputError, TargetError
from tl_knowledge.hooks import corrupt
from tl_knowledge.localised.problems import EditingProblem, editing_problem
from tl_knowledge.metrics import answer_probability
from tl_knowledge.models.checks import check_layers, check_model
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import EditCase, Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.statistics import Regression, compare_regressions, scalar_interval
from tl_knowledge.results.table import TableResult
from tl_knowledge.runs.corruption import Noise
from tl_knowledge.tracing import trace

__all__ = ["LayerSweep", "sweep_layers"]

MethodAt = Callable[[int, Objective], EditMethod]


@dataclass(frozen=True, eq=False)
class LayerSweep(TableResult):
    """Editing success and tracing effect of every case in every layer.

    Attributes:
        table: ``case_id layer score tracing_effect``, both between 0 and 1 (the score may be negative where the edit backfired).
        skipped: cases that the problem or the tracing does not apply to, by the reason.
        provenance: the model and the settings.
    """

    ranked_by: ClassVar[str] = "score"
    table: pd.DataFrame
    skipped: dict[str, str]
    provenance: Provenance

    def regressions(self) -> Regression:
        """R^2 of the score on the layer, on the tracing effect, on both, and whether tracing adds anything (F-test)."""
        layers, effect = self.table["layer"].to_numpy(), self.table["tracing_effect"].to_numpy(dtype=float)
        factor = (layers[:, None] == np.unique(layers)[None]).astype(float)
        return compare_regressions(self.table["score"].to_numpy(dtype=float), factor, effect[:, None])

    def plot(self) -> go.Figure:
        """Lines by layer: the editing score and the tracing effect, each with its interval; the regressions in the subtitle."""
        lines: list[Line] = []
        for style, (column, name) in enumerate((("score", "editing score"), ("tracing_effect", "tracing effect"))):
            found = [(int(layer), *scalar_interval(group[column])) for layer, group in self.table.groupby("layer")]  # pyright: ignore
            x, mean, low, high = (list(values) for values in zip(*found, strict=True))
            lines.append(Line(name, x, mean, low, high, style=style))
        fit, settings = self.regressions(), self.provenance.settings
        subtitle = (
            f"{self.table['case_id'].nunique()} facts; {self.provenance.model}; R² of the score: layer {fit.first:.3f}, tracing {fit.second:.3f}, "
            f"both {fit.both:.3f} (F-test of tracing p = {fit.p:.2g})"
        )
        title = f"Where tracing points and where {settings['method']} works best ({settings['problem'].replace('_', ' ')})"
        return line_panels([LinePanel("", lines)], title=title, subtitle=subtitle, x_axis="layer", y_axis="mean over facts")


def sweep_layers(
    model: HookedModel,
    cases: Sequence[EditCase],
    method_at: MethodAt,
    *,
    moments: KeyMoments | None = None,
    problem: EditingProblem = "error_injection",
    layers: Sequence[int] | None = None,
    noise: Noise | float | str | None = None,
    samples: int = 10,
    window: int = 5,
    seed: int = 0,
    progress: bool = True,
) -> LayerSweep:
    """Edit each case in each layer, and trace it.

    A layer's tracing effect is the largest normalised indirect effect of its MLP over the tokens, ``(p_restored - p_corrupted) / (p_clean -
    p_corrupted)``, clipped to [0, 1]. A score is the part of the way that the target's probability went: ``(p' - p) / (1 - p)``, for erasure
    ``(p - p') / p``; under forcing both are read on the corrupted prompt.

    Args:
        method_at: the method for a layer and objective: ``lambda layer, objective: ROME(layer=layer, objective=objective)``.
        problem: which of the five.
        noise, samples, seed: of the corruption.
        window: layers restored together (Hase: 5).

    Raises:
        InputError: no case is left.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> moments = tlk.collect_key_moments(model, tlk.load_corpus(), layers=[0, 4], progress=False)
        >>> rome = lambda layer, objective: tlk.ROME(layer=layer, objective=objective, contexts=())
        >>> sweep = tlk.localised.sweep_layers(model, tlk.load_edit_cases()[:3], rome, moments=moments, layers=[0, 4], progress=False)
        >>> list(sweep.table.columns), len(sweep.table)
        (['case_id', 'layer', 'score', 'tracing_effect'], 6)
    """
    check_model(model)
    chosen = check_layers(model, layers)
    rows: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    for number, case in enumerate(tqdm(cases, desc="trace and edit", unit="case", delay=2, disable=not progress)):
        name = case.case_id or str(number)
        try:
            request, objective = editing_problem(model, case, problem, noise=noise, seed=seed)
            effects = _tracing_effects(model, case.fact, chosen, noise, samples, window, seed)
        except TargetError as error:
            skipped[name] = str(error)
            continue
        before = _probability(model, request, objective)
        for layer, effect in zip(chosen, effects, strict=True):
            edit = plan_edit(model, request, method_at(layer, objective), moments=moments)
            with edit.applied(model):
                after = _probability(model, request, objective)
            score = (before - after) / before if objective.erase else (after - before) / (1 - before)
            rows.append({"case_id": name, "layer": layer, "score": score, "tracing_effect": effect})
    if not rows:
        raise InputError(f"no case is left of {len(cases)}: {next(iter(skipped.values()), 'none was given')}")
    method = type(method_at(chosen[0], Objective())).__name__
    settings: dict[str, Any] = {"problem": problem, "noise": repr(noise), "samples": samples, "window": window, "layers": list(chosen)}
    made = edit_provenance(model, None, settings | {"method": method}, seed)
    return LayerSweep(pd.DataFrame(rows), skipped, made)


def _tracing_effects(
    model: HookedModel, fact: Fact, layers: Sequence[int], noise: Noise | float | str | None, samples: int, window: int, seed: int
) -> list[float]:
    """Each layer's largest normalised effect.

    Raises:
        TargetError: the corruption does not lower the answer's probability.
    """
    prompt = Prompt.from_fact(model, fact)
    found = trace(model, prompt, noise, component="mlp_out", window=window, samples=samples, seed=seed, layers=layers, progress=False)
    total = float(found.total_effect.mean())
    if total <= 0:
        raise TargetError(f"the corruption does not lower P({fact.target!r}) after {fact.text!r}; there is no effect to normalise.")
    largest: NDArray[np.float64] = found.mean_effect.nan_to_num(nan=-1.0).amax(1).double().numpy() / total
    return np.clip(largest, 0, 1).tolist()


def _probability(model: HookedModel, fact: Fact, objective: Objective) -> float:
    """Of the fact's target, on the prompt as the objective corrupts it."""
    prompt = Prompt.from_fact(model, fact)
    answer = torch.tensor([prompt.answer], device=prompt.tokens.device)
    tokens = torch.cat([prompt.tokens, answer[:, :-1]], dim=1)
    hooks = [] if objective.noise is None else corrupt(prompt.subject, objective.noise)
    with torch.no_grad():
        logits: torch.Tensor = model.run_with_hooks(tokens, fwd_hooks=hooks)
    return float(answer_probability(logits[:, len(prompt) - 1 :], answer))
