"""The embedding-perturbation test (paper 000, section 5.4): how much of what a model knows survives a little noise on every token?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
from tqdm.auto import tqdm

from tl_knowledge.drawing import bar_chart
from tl_knowledge.errors import DataError
from tl_knowledge.models.checks import check_model
from tl_knowledge.models.description import describe_model
from tl_knowledge.models.protocol import HookedModel, embedding_matrix
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt, check_fits
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.statistics import scalar_interval
from tl_knowledge.results.table import TableResult
from tl_knowledge.runs.arguments import choose_answer, sample_count
from tl_knowledge.runs.corruption import GaussianNoise
from tl_knowledge.runs.experiment import CorruptedRun, Experiment, answered
from tl_knowledge.tracing.sets.survey import fact_seed

__all__ = ["PerturbationTest", "perturb_embeddings", "perturbation_sd"]

FACTS_AT_ONCE = 16


def perturbation_sd(model: HookedModel) -> float:
    """The test's noise: a third of the mean absolute value of the embedding matrix (paper 000, section 5.4)."""
    return float(embedding_matrix(model).double().abs().mean()) / 3


@dataclass(frozen=True, eq=False)
class PerturbationTest(TableResult):
    """The answer's probability with and without noise on every token's embedding.

    Attributes:
        table: one row a fact: ``relation subject clean perturbed drop``, in probability, averaged over noise samples.
        sd: of the noise.
        samples: noise draws a fact.
    """

    ranked_by: ClassVar[str] = "drop"
    table: pd.DataFrame
    sd: float
    samples: int
    provenance: Provenance

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
            subtitle=f"Gaussian noise, sd {self.sd:.4f} = mean |E| / 3; {len(self.table)} facts, {self.samples} draws each; {self.provenance.model}",
            value_axis="drop of the answer's probability, 95% bootstrap interval over facts",
        )


def perturb_embeddings(
    model: HookedModel, facts: Iterable[Fact], *, sd: float | None = None, samples: int = 10, seed: int = 0, progress: bool = True
) -> PerturbationTest:
    """Add Gaussian noise to the embedding of every token, and measure what the answer loses.

    As hooks: ``corrupt(range(len(prompt)), GaussianNoise(perturbation_sd(model)))``.

    Args:
        sd: of the noise; default `perturbation_sd`.
        seed: of the set; each fact's noise comes from it and the fact's text.

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
    check_model(model)
    chosen = list(facts)
    if not chosen:
        raise DataError("no fact was given; pass at least one.")
    noise = GaussianNoise(perturbation_sd(model) if sd is None else sd)
    sample_count(samples, noise)
    prompts = [Prompt.from_fact(model, fact) for fact in chosen]
    for prompt in prompts:
        check_fits(model, prompt)
    rows: list[dict[str, object]] = []
    for start in tqdm(range(0, len(chosen), FACTS_AT_ONCE), desc="perturb embeddings", unit="batch", delay=2, disable=not progress):
        batch = range(start, min(start + FACTS_AT_ONCE, len(chosen)))
        experiment = Experiment(
            model,
            tuple(answered(prompts[i], choose_answer(model, prompts[i], None, False)) for i in batch),
            tuple(CorruptedRun(k, tuple(range(len(prompts[i]))), noise.with_seed(fact_seed(chosen[i], seed))) for k, i in enumerate(batch)),
            samples,
        )
        for k, i in enumerate(batch):
            clean, perturbed = experiment.clean_probability(k), float(experiment.corrupted_probability(k).double().mean())
            fact = chosen[i]
            rows.append(
                {"relation": fact.relation, "subject": fact.subject, "clean": clean, "perturbed": perturbed, "drop": clean - perturbed},
            )
    settings = {"noise": repr(noise), "samples": samples}
    provenance = Provenance(**describe_model(model), prepends_bos=prompts[0].has_bos, seed=seed, engine="one forward", settings=settings)
    return PerturbationTest(pd.DataFrame(rows), float(noise.sd), samples, provenance)
