"""Does localisation inform editing (Hase et al. 2023)? Edit every layer, trace every layer, and regress one on the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from more_itertools import always_iterable
from numpy.typing import NDArray
from typing_extensions import override

from tl_knowledge.door import public
from tl_knowledge.drawing import Line, LinePanel, line_panels
from tl_knowledge.editing import Edit, KeyMoments, Objective, plan_edit
from tl_knowledge.engine.forward import run_model
from tl_knowledge.engine.progress import progress_bar
from tl_knowledge.engine.rows import rows_engine
from tl_knowledge.errors import DataError, InputError, TargetError, check_choice, check_given
from tl_knowledge.hooks import corrupt
from tl_knowledge.localised.problems import EditingProblem, editing_problem
from tl_knowledge.metrics import answer_probability
from tl_knowledge.models.checks import check_layers
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import EditCase, Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.results.provenance import Provenance, provenance_of
from tl_knowledge.results.result import TableResult
from tl_knowledge.results.statistics import Regression, compare_regressions, scalar_interval
from tl_knowledge.runs.corruption import Noise
from tl_knowledge.runs.edits import EditPlanner
from tl_knowledge.tracing import trace

__all__ = ["LayerSweep", "SweepSettings", "SweepVariant", "sweep_layers"]

SweepVariant: TypeAlias = Literal["ours", "hase2023"]
"""How a sweep is summed up:

========== ============================== ===========================================
variant    tracing effect                 layer and tracing together
========== ============================== ===========================================
ours       between 0 and 1                one slope on the tracing effect
hase2023   at least 0, without a cap      a slope on the tracing effect in each layer
========== ============================== ===========================================

The cap at 1 is ours: where the corruption hardly lowers the answer's probability, one restored layer can give it back many times over, and a few such
facts decide a fit. A slope in each layer asks whether tracing tells anything in any layer; one slope, whether it tells the same in all.
"""

MOST_EFFECT = 1.0
MethodAt = Callable[[int, Objective], EditPlanner[Edit]]


@dataclass(frozen=True)
class SweepSettings:
    """What a sweep did in every layer.

    Attributes:
        method: the editing method's name.
        problem: which of the five.
        layers: the layers that were edited and traced.
        noise: of the corruption; a rule, a standard deviation, or settings.
        samples: noise draws.
        window: layers restored together.
        seed: of noise that has no seed of its own.
    """

    method: str
    problem: EditingProblem
    layers: tuple[int, ...]
    noise: Noise | float | str | None = None
    samples: int = 10
    window: int = 5
    seed: int = 0


@dataclass(frozen=True, eq=False)
class LayerSweep(TableResult):
    """Editing success and tracing effect of every case in every layer.

    Attributes:
        table: ``case_id layer score tracing_effect fraction_restored``: the score is at most 1 (negative where the edit backfired), the tracing
            effect between 0 and 1, and the fraction restored is the same without the cap at 1.
        skipped: cases that the problem or the tracing does not apply to, by the reason.
        settings: of the sweep.
        provenance: the model, the versions.
    """

    ranked_by: ClassVar[str] = "score"
    table: pd.DataFrame
    skipped: dict[str, str]
    settings: SweepSettings
    provenance: Provenance

    def regressions(self, *, variant: SweepVariant = "ours") -> Regression:
        """R^2 of the score on the layer, on the tracing effect, on both, and whether tracing adds anything (F-test).

        Args:
            variant: ``"ours"``, or ``"hase2023"`` for the fit of Hase et al.'s notebook: an uncapped effect, and a slope for each layer.

        Raises:
            InputError: an unknown variant, a sweep without uncapped effects (saved by an earlier version), or too few facts.
        """
        check_choice("variant", variant, SweepVariant)
        column = "fraction_restored" if variant == "hase2023" else "tracing_effect"
        if column not in self.table:
            raise InputError(f"this sweep has no column {column!r}, which variant={variant!r} fits; run sweep_layers() again.")
        layers, effect = self.table["layer"].to_numpy(), self.table[column].to_numpy(dtype=float)
        factor = (layers[:, None] == np.unique(layers)[None]).astype(float)
        score = self.table["score"].to_numpy(dtype=float)
        return compare_regressions(score, factor, effect[:, None], interactions=variant == "hase2023")

    @override
    def headline(self) -> str:
        cases, layers = self.table["case_id"].nunique(), self.table["layer"].nunique()
        return f"{self.settings.method}, {_in_words(self.settings.problem)}: {cases} facts in {layers} layers; {self.provenance.model}"

    @override
    def summary(self) -> pd.DataFrame:
        """One row a layer: the mean score and tracing effect over the facts."""
        return self.table.groupby("layer", as_index=False).agg({"score": "mean", "tracing_effect": "mean"})

    def plot(self) -> go.Figure:
        """Lines by layer: the editing score and the tracing effect, each with its interval; the regressions in the subtitle."""
        lines: list[Line] = []
        for style, (column, name) in enumerate((("score", "editing score"), ("tracing_effect", "tracing effect"))):
            points = [(int(layer), *scalar_interval(group[column])) for layer, group in self.table.groupby("layer")]  # pyright: ignore
            x, mean, low, high = (list(values) for values in zip(*points, strict=True))
            lines.append(Line(name, x, mean, low, high, style=style))
        fit = self.regressions()
        subtitle = (
            f"{self.table['case_id'].nunique()} facts; {self.provenance.model}; R² of the score: layer {fit.first:.3f}, tracing {fit.second:.3f}, "
            f"both {fit.both:.3f} (F-test of tracing p = {fit.p:.2g})"
        )
        title = f"Where tracing points and where {self.settings.method} works best ({_in_words(self.settings.problem)})"
        return line_panels([LinePanel("", lines)], title=title, subtitle=subtitle, x_axis="layer", y_axis="mean over facts")


@public
def sweep_layers(
    model: AnyModel,
    cases: EditCase | Iterable[EditCase],
    method_at: MethodAt,
    *,
    moments: KeyMoments | None = None,
    problem: EditingProblem = "error_injection",
    layers: int | Iterable[int] | None = None,
    noise: Noise | float | str | None = None,
    samples: int = 10,
    window: int = 5,
    seed: int = 0,
    progress: bool = True,
) -> LayerSweep:
    """Edit each case in each layer, and trace it.

    A layer's tracing effect is the largest normalised indirect effect of its MLP over the tokens, ``(p_restored - p_corrupted) / (p_clean -
    p_corrupted)``, clipped to [0, 1] (``fraction_restored``: at least 0). A score is the part of the way that the target's probability went:
    ``(p' - p) / (1 - p)``, for erasure ``(p - p') / p``; under forcing both are read on the corrupted prompt.

    Args:
        method_at: the method for a layer and objective: ``lambda layer, objective: ROME(layer=layer, objective=objective)``.
        problem: which of the five.
        noise, samples: of the corruption.
        window: layers restored together (Hase et al. 2023: 5).
        seed: of noise that has no seed of its own.

    Raises:
        DataError: no case, or none that the problem and the tracing apply to.
        InputError: an unknown problem, or what the method refuses.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> moments = tlk.collect_key_moments(model, tlk.load_corpus(), layers=[0, 4], progress=False)
        >>> rome = lambda layer, objective: tlk.ROME(layer=layer, objective=objective, contexts=())
        >>> sweep = tlk.localised.sweep_layers(model, tlk.load_edit_cases()[:3], rome, moments=moments, layers=[0, 4], progress=False)
        >>> list(sweep.table.columns), len(sweep.table)
        (['case_id', 'layer', 'score', 'tracing_effect', 'fraction_restored'], 6)
    """
    model = as_model(model)
    given = check_given(always_iterable(cases, EditCase), "case", "pass at least one, for example load_edit_cases()[:30]")
    edited = check_layers(model, None if layers is None else tuple(always_iterable(layers)))
    settings = SweepSettings(type(method_at(edited[0], Objective())).__name__, problem, edited, noise, samples, window, seed)
    rows: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    for number, case in enumerate(progress_bar(given, what="trace and edit", unit="case", progress=progress)):
        name = case.case_id or str(number)
        try:
            rows += [{"case_id": name} | row for row in _case_rows(model, case, method_at, moments, settings)]
        except TargetError as error:
            skipped[name] = str(error)
    if not rows:
        raise DataError(f"no case is left of {len(given)}: {next(iter(skipped.values()))}")
    return LayerSweep(pd.DataFrame(rows), skipped, settings, provenance_of(model, engine=rows_engine(model), seed=seed, settings=settings))


def _case_rows(model: HookedModel, case: EditCase, method_at: MethodAt, moments: KeyMoments | None, settings: SweepSettings) -> list[dict[str, Any]]:
    """One case's row for each layer.

    Raises:
        TargetError: the problem or the tracing does not apply to it.
    """
    fact, objective = editing_problem(model, case, settings.problem, noise=settings.noise, seed=settings.seed)
    effects = _tracing_effects(model, case.fact, settings)
    before = _probability(model, fact, objective)
    rows: list[dict[str, Any]] = []
    for layer, effect in zip(settings.layers, effects, strict=True):
        edit = plan_edit(model, fact, method_at(layer, objective), moments=moments, progress=False)
        with edit.applied(model):
            after = _probability(model, fact, objective)
        score = (before - after) / before if objective.erase else (after - before) / (1 - before)
        rows.append({"layer": layer, "score": score, "tracing_effect": min(effect, MOST_EFFECT), "fraction_restored": effect})
    return rows


def _tracing_effects(model: HookedModel, fact: Fact, settings: SweepSettings) -> list[float]:
    """Each layer's largest normalised effect, at least 0.

    Raises:
        TargetError: the corruption does not lower the answer's probability.
    """
    traced = trace(
        model,
        Prompt.from_fact(model, fact),
        settings.noise,
        component="mlp_out",
        window=settings.window,
        samples=settings.samples,
        seed=settings.seed,
        layers=settings.layers,
        progress=False,
    )
    total = float(traced.total_effect.mean())
    if total <= 0:
        raise TargetError(f"the corruption does not lower P({fact.target!r}) after {fact.text!r}; there is no effect to normalise.")
    largest: NDArray[np.float64] = traced.mean_effect.nan_to_num(nan=-1.0).amax(1).double().numpy() / total
    return np.maximum(largest, 0).tolist()


def _probability(model: HookedModel, fact: Fact, objective: Objective) -> float:
    """Of the fact's target, on the prompt as the objective corrupts it."""
    prompt = Prompt.from_fact(model, fact)
    answer = torch.tensor([prompt.answer], device=prompt.tokens.device)
    tokens = torch.cat([prompt.tokens, answer[:, :-1]], dim=1)
    hooks = [] if objective.noise is None else corrupt(prompt.subject, objective.noise)
    with torch.no_grad():
        logits: torch.Tensor = run_model(model, tokens, hooks)
    return float(answer_probability(logits[:, len(prompt) - 1 :], answer))


def _in_words(problem: str) -> str:
    return problem.replace("_", " ")
