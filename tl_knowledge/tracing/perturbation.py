"""The embedding-perturbation test (Wen and Bai, section 5.4): how much of what a model knows survives a little noise on every token?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
from more_itertools import always_iterable, chunked
from typing_extensions import override

from tl_knowledge.door import public
from tl_knowledge.drawing import bar_chart
from tl_knowledge.engine.progress import progress_bar
from tl_knowledge.errors import check_given
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt, check_fits
from tl_knowledge.results.provenance import Provenance, provenance_of
from tl_knowledge.results.result import TableResult
from tl_knowledge.results.statistics import scalar_interval
from tl_knowledge.runs.arguments import choose_answer, drawn_noise, sample_count
from tl_knowledge.runs.corruption import GaussianNoise, Noise
from tl_knowledge.runs.embeddings import entering_embeddings
from tl_knowledge.runs.experiment import CorruptedRun, Experiment, answered
from tl_knowledge.tracing.sets.survey import fact_seed

__all__ = ["PerturbationTest", "perturb_embeddings", "perturbation_sd"]

FACTS_AT_ONCE = 16


@public
def perturbation_sd(model: AnyModel) -> float:
    """The test's noise: a third of the mean absolute value of the embeddings as they enter the model (Wen and Bai, section 5.4)."""
    return float(entering_embeddings(as_model(model, without_mlps=True)).double().abs().mean()) / 3


@dataclass(frozen=True, eq=False)
class PerturbationTest(TableResult):
    """The answer's probability with and without noise on every token's embedding.

    Attributes:
        table: one row a fact: ``relation subject clean perturbed drop``, in probability, averaged over noise samples.
        noise: what was added, its scale a number; its seed is not set, because every fact has one.
        samples: noise draws for each fact.
        seed: each fact's noise comes from it and the fact's text.
    """

    ranked_by: ClassVar[str] = "drop"
    table: pd.DataFrame
    noise: Noise
    samples: int
    seed: int
    provenance: Provenance

    @override
    def headline(self) -> str:
        """The mean drop, and under what noise."""
        return f"drop of P(answer) {self.table['drop'].mean():.1%} under {self._conditions()}"

    def by_relation(self) -> pd.DataFrame:
        """Mean drop of all facts, and of every relation (largest first), with 95% bootstrap intervals over facts (none for one fact)."""
        groups = [(str(name), rows) for name, rows in self.table.groupby("relation", dropna=False)]
        rows: list[dict[str, object]] = []
        for name, facts in [("all", self.table), *sorted(groups, key=lambda group: -float(group[1]["drop"].mean()))]:
            mean, low, high = scalar_interval(facts["drop"])
            rows.append({"relation": name, "drop": mean, "low": low, "high": high, "facts": len(facts)})
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """Bars of the drop by relation."""
        frame = self.by_relation()
        labels = [f"{name} (n = {count})" for name, count in zip(frame["relation"], frame["facts"], strict=True)]
        return bar_chart(
            labels,
            list(frame["drop"]),
            list(frame["high"] - frame["drop"]),
            errors_below=list(frame["drop"] - frame["low"]),
            title="Drop of P(answer) under noise on every token",
            subtitle=self._conditions(),
            value_axis="drop of the answer's probability, 95% bootstrap interval over facts",
        )

    def _conditions(self) -> str:
        noise = f"{type(self.noise).__name__} of scale {self.noise.scale:.4g}"
        return f"{noise} on every token; {len(self.table)} facts, {self.samples} noise samples each; {self.provenance.model}"


@public
def perturb_embeddings(
    model: AnyModel,
    facts: Fact | Iterable[Fact],
    noise: Noise | float | str | None = None,
    *,
    samples: int = 10,
    seed: int = 0,
    progress: bool = True,
) -> PerturbationTest:
    """Add noise to the embedding of every token, and measure what the answer loses.

    As hooks: ``corrupt(range(len(prompt)), GaussianNoise(perturbation_sd(model)))``.

    Args:
        model: a model, or its name or directory.
        noise: settings, a standard deviation, or a rule such as ``"3sd"``; ``None`` is Gaussian noise of `perturbation_sd`.
        samples: noise draws for each fact.
        seed: of noise that has no seed of its own; each fact's noise comes from it and the fact's text.
        progress: show a progress bar once the work has lasted two seconds.

    Raises:
        DataError: no fact.
        InputError: a fact that does not fit the model, or noise that cannot be drawn.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> test = tlk.tracing.perturb_embeddings(model, tlk.load_facts("factlm")[:8], progress=False)
        >>> len(test.table)
        8
    """
    model = as_model(model, without_mlps=True)
    given = check_given(always_iterable(facts, Fact), "fact")
    seeded = drawn_noise(noise, GaussianNoise(perturbation_sd(model))).seeded(seed)
    settings, seed = seeded.resolve(model).with_seed(None), seeded.seed or 0
    sample_count(samples, settings)
    prompts = [Prompt.from_fact(model, fact) for fact in given]
    for prompt in prompts:
        check_fits(model, prompt)
    rows: list[dict[str, object]] = []
    with progress_bar(what="perturb embeddings", unit="fact", progress=progress, total=len(given)) as bar:
        for batch in chunked(zip(given, prompts, strict=True), FACTS_AT_ONCE):
            rows += _rows(model, batch, settings, samples, seed)
            bar.update(len(batch))
    provenance = provenance_of(model, engine="one forward", seed=seed, has_bos=prompts[0].has_bos, noise=repr(settings), samples=samples)
    return PerturbationTest(pd.DataFrame(rows), settings, samples, seed, provenance)


def _rows(model: HookedModel, batch: Sequence[tuple[Fact, Prompt]], noise: Noise, samples: int, seed: int) -> list[dict[str, object]]:
    """The table's rows of some facts, whose runs go together."""
    experiment = Experiment(
        model,
        tuple(answered(prompt, choose_answer(model, prompt, None, False)) for _, prompt in batch),
        tuple(CorruptedRun(k, tuple(range(len(prompt))), noise.with_seed(fact_seed(fact, seed=seed))) for k, (fact, prompt) in enumerate(batch)),
        samples,
    )
    rows: list[dict[str, object]] = []
    for k, (fact, _) in enumerate(batch):
        clean, perturbed = experiment.clean_probability(k), float(experiment.corrupted_probability(k).double().mean())
        rows.append({"relation": fact.relation, "subject": fact.subject, "clean": clean, "perturbed": perturbed, "drop": clean - perturbed})
    return rows
