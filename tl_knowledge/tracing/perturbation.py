"""The embedding-perturbation test (Wen and Bai, section 5.4): how much of what a model knows survives a little noise on every token?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import pandas as pd
import plotly.graph_objects as go
from more_itertools import always_iterable, chunked
from typing_extensions import override

from tl_knowledge.door import public
from tl_knowledge.drawing import bar_chart
from tl_knowledge.engine.batches import answer_probabilities
from tl_knowledge.engine.progress import progress_bar
from tl_knowledge.errors import check_choice, check_given
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel, embedding_matrix, is_masked
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt, check_fits
from tl_knowledge.results.provenance import Provenance, provenance_of
from tl_knowledge.results.result import TableResult
from tl_knowledge.results.statistics import scalar_interval
from tl_knowledge.runs.arguments import choose_answer, drawn_noise, sample_count
from tl_knowledge.runs.corruption import GaussianNoise, Noise
from tl_knowledge.runs.embeddings import entering_embeddings
from tl_knowledge.runs.experiment import CorruptedRun, Experiment, answered
from tl_knowledge.tracing.embedding_noise import is_tied, matrix_noise, noisy_matrix_probabilities, noisy_token_probabilities
from tl_knowledge.tracing.sets.survey import fact_seed
from tl_knowledge.wording import counted, relation_words

__all__ = ["PerturbationTest", "PerturbationVariant", "perturb_embeddings", "perturbation_sd"]

FACTS_AT_ONCE, SAMPLES = 16, 10
WEN_BAI_SD, WEN_BAI_MASKED_SD = 0.03, 0.01

_Batch = Sequence[tuple[Fact, tuple[Prompt, ...]]]

PerturbationVariant = Literal["ours", "wen_bai"]
"""Noise on the tokens of the prompt, or on the whole embedding matrix, and so on an unembedding that is tied to it."""


@public
def perturbation_sd(model: AnyModel) -> float:
    """The test's noise: a third of the mean absolute value of the embeddings as they enter the model (Wen and Bai, section 5.4).

    In masked models that is the embedding matrix: their embeddings are normalised together with those of the positions.
    """
    model = as_model(model, masked=True, without_mlps=True)
    entering = embedding_matrix(model) if is_masked(model) else entering_embeddings(model)
    return float(entering.detach().double().abs().mean()) / 3


@dataclass(frozen=True, eq=False)
class PerturbationTest(TableResult):
    """The answer's probability with and without noise on every token's embedding.

    Attributes:
        table: one row a fact: ``relation subject clean perturbed drop``, in probability, averaged over noise samples.
        noise: what was added, its scale a number; its seed is not set, because every fact has one.
        samples: noise draws for each fact.
        seed: each fact's noise comes from it and the fact's text.
        variant: where the noise was added.
    """

    ranked_by: ClassVar[str] = "drop"
    table: pd.DataFrame
    noise: Noise
    samples: int
    seed: int
    variant: PerturbationVariant
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
        labels = [f"{relation_words(name)} (n = {count})" for name, count in zip(frame["relation"], frame["facts"], strict=True)]
        return bar_chart(
            labels,
            list(frame["drop"]),
            list(frame["high"] - frame["drop"]),
            errors_below=list(frame["drop"] - frame["low"]),
            title=f"Drop of P(answer) under noise on {self._place()}",
            subtitle=self._conditions(),
            value_axis="drop of the answer's probability, 95% bootstrap interval over facts",
        )

    def _conditions(self) -> str:
        noise = f"{type(self.noise).__name__} of scale {self.noise.scale:.4g}"
        return (
            f"{noise} on {self._place()}; {counted(len(self.table), 'fact')}, {counted(self.samples, 'noise sample')} each; {self.provenance.model}"
        )

    def _place(self) -> str:
        return "every token" if self.variant == "ours" else "the embedding matrix"


@public
def perturb_embeddings(
    model: AnyModel,
    facts: Fact | Iterable[Fact],
    noise: Noise | float | str | None = None,
    *,
    variant: PerturbationVariant = "ours",
    samples: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> PerturbationTest:
    """Add noise to the embedding of every token, and measure what the answer loses.

    As hooks: ``corrupt(range(len(prompt)), GaussianNoise(perturbation_sd(model)))``. Masked models answer at their mask.

    Wen and Bai's program adds the noise to the embedding *matrix*, which in GPT-2 and BERT is the unembedding, too: a part of the drop is a noisy
    unembedding, and no fragile prompt. ``variant="wen_bai"`` does that (no weight is written to), one draw a fact, for the mean over the fact's
    own wording and its paraphrases.

    Args:
        model: a model, or its name or directory.
        noise: settings, a standard deviation, or a rule such as ``"3sd"``; ``None`` is Gaussian noise of `perturbation_sd`, or of Wen and Bai's
            standard deviations: 0.03, and 0.01 for masked models.
        variant: where the noise is added.
        samples: noise draws for each fact; 10, or Wen and Bai's 1, when ``None``.
        seed: of noise that has no seed of its own; each fact's noise comes from it and the fact's text.
        progress: show a progress bar once the work has lasted two seconds.

    Raises:
        DataError: no fact.
        InputError: a fact that does not fit the model, noise that cannot be drawn, or an unknown variant.
        UnsupportedModelError: ``"wen_bai"`` on processed weights, or a model that does more to its embeddings or logits than the matrix.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> test = tlk.tracing.perturb_embeddings(model, tlk.load_facts("factlm")[:8], progress=False)
        >>> len(test.table)
        8
    """
    model = as_model(model, masked=True, without_mlps=True)
    check_choice("variant", variant, PerturbationVariant)
    given = check_given(always_iterable(facts, Fact), "fact")
    seeded = drawn_noise(noise, GaussianNoise(_default_sd(model, variant))).seeded(seed)
    settings, seed = seeded.resolve(model).with_seed(None), seeded.seed or 0
    samples = (SAMPLES if variant == "ours" else 1) if samples is None else samples
    sample_count(samples, settings)
    prompts = [_wordings(model, fact) if variant == "wen_bai" else (Prompt.from_fact(model, fact),) for fact in given]
    for prompt in (prompt for some in prompts for prompt in some):
        check_fits(model, prompt)
    rows = _matrix_rows if variant == "wen_bai" else _masked_rows if is_masked(model) else _rows
    table: list[dict[str, object]] = []
    with progress_bar(what="perturb embeddings", unit="fact", progress=progress, total=len(given)) as bar:
        for batch in chunked(zip(given, prompts, strict=True), FACTS_AT_ONCE):
            table += rows(model, batch, settings, samples, seed)
            bar.update(len(batch))
    more = {"noise": repr(settings), "samples": samples, "variant": variant}
    provenance = provenance_of(model, engine="one forward", seed=seed, has_bos=prompts[0][0].has_bos, **more)
    return PerturbationTest(pd.DataFrame(table), settings, samples, seed, variant, provenance)


def _default_sd(model: HookedModel, variant: PerturbationVariant) -> float:
    if variant == "wen_bai":
        return WEN_BAI_MASKED_SD if is_masked(model) else WEN_BAI_SD
    return perturbation_sd(model)


def _wordings(model: HookedModel, fact: Fact) -> tuple[Prompt, ...]:
    """The fact in all its wordings."""
    return tuple(Prompt.from_fact(model, fact.rephrase(template)) for template in (fact.template, *fact.paraphrases))


def _row(fact: Fact, clean: float, perturbed: float) -> dict[str, object]:
    return {"relation": fact.relation, "subject": fact.subject, "clean": clean, "perturbed": perturbed, "drop": clean - perturbed}


def _rows(model: HookedModel, batch: _Batch, noise: Noise, samples: int, seed: int) -> list[dict[str, object]]:
    """The table's rows of some facts, whose runs go together."""
    experiment = Experiment(
        model,
        tuple(answered(prompt, choose_answer(model, prompt, None, False)) for _, (prompt,) in batch),
        tuple(CorruptedRun(k, tuple(range(len(prompt))), noise.with_seed(fact_seed(fact, seed=seed))) for k, (fact, (prompt,)) in enumerate(batch)),
        samples,
    )
    return [
        _row(fact, experiment.clean_probability(k), float(experiment.corrupted_probability(k).double().mean())) for k, (fact, _) in enumerate(batch)
    ]


def _masked_rows(model: HookedModel, batch: _Batch, noise: Noise, samples: int, seed: int) -> list[dict[str, object]]:
    """The same of a masked model, which sees what follows, so that no prompts go together."""
    clean = answer_probabilities(model, [prompt for _, (prompt,) in batch]).tolist()
    return [
        _row(fact, clean[k], float(noisy_token_probabilities(model, prompt, noise.with_seed(fact_seed(fact, seed=seed)), samples).mean()))
        for k, (fact, (prompt,)) in enumerate(batch)
    ]


def _matrix_rows(model: HookedModel, batch: _Batch, noise: Noise, samples: int, seed: int) -> list[dict[str, object]]:
    """The table's rows under noise on the embedding matrix, each fact's draws its own."""
    tied, rows = is_tied(model), list[dict[str, object]]()
    for fact, prompts in batch:
        first = fact_seed(fact, seed=seed)
        draws = (matrix_noise(model, noise.with_seed(first + number)) for number in range(samples))
        perturbed = [float(noisy_matrix_probabilities(model, prompts, drawn, tied=tied).mean()) for drawn in draws]
        rows.append(_row(fact, float(answer_probabilities(model, prompts).mean()), sum(perturbed) / samples))
    return rows
