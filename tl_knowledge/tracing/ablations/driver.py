"""Heads, neurons and modules taken out over many prompts, each by itself or all together: does the answer still come?"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import pandas as pd
import torch
from jaxtyping import Float
from more_itertools import always_iterable, chunked

from tl_knowledge.arrays import Hooks
from tl_knowledge.door import public
from tl_knowledge.engine.forward import run_model
from tl_knowledge.engine.progress import progress_bar
from tl_knowledge.engine.recording import record
from tl_knowledge.engine.rows import MEMORY_BUDGET, as_index, budget_rows, each_row, grow_rows, keep_positions, rows_engine, run_rows
from tl_knowledge.errors import ComponentError, DataError, NumericalError, check_choice, check_given
from tl_knowledge.hooks import Ablation, Activations
from tl_knowledge.metrics import answer_probability
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.prompt import Prompt, check_fits
from tl_knowledge.results.provenance import provenance_of
from tl_knowledge.runs.arguments import answer_label, choose_answer
from tl_knowledge.runs.experiment import Experiment, answered
from tl_knowledge.tracing.ablations.effects import AblationEffects, AblationSettings
from tl_knowledge.tracing.ablations.means import counted_tokens, means_over
from tl_knowledge.tracing.ablations.parts import Heads, Modules, Neurons, Part, parts_of
from tl_knowledge.wording import counted

__all__ = ["measure_ablation"]

ExactEngine: TypeAlias = Literal["rows", "loop"]


@public
def measure_ablation(
    model: AnyModel,
    prompts: Prompt | Iterable[Prompt],
    *,
    heads: Heads = None,
    neurons: Neurons = None,
    modules: Modules = None,
    by: Ablation = "zero",
    corpus: str | Prompt | Iterable[str | Prompt] | None = None,
    at: str | None = None,
    together: bool = False,
    engine: ExactEngine = "rows",
    seed: int = 0,
    memory_budget: float = MEMORY_BUDGET,
    progress: bool = True,
) -> AblationEffects:
    """Take heads, neurons and modules out of the clean run, and see what becomes of the answer's probability.

    Args:
        prompts: one or several, or facts; the answer is the target's first token, else what the model predicts.
        heads: pairs of layer and head, or ``"all"``.
        neurons: pairs of layer and neuron, such as a `NeuronSet`.
        modules: pairs of layer and ``"mlp_out"`` or ``"attn_out"``, or one of these words for that of every layer.
        by: ``"zero"``; ``"mean"``, of the corpus; or ``"resample"``: what it is in another of the prompts.
        corpus: texts or prompts whose every token but BOS the means are of; ``None`` is the prompts themselves, at the ablated positions.
        at: the span at whose last token parts are ablated, such as ``"last"`` or ``"subject"``; every token when ``None``.
        together: ablate everything in one run instead of each part by itself.
        engine: ``"rows"`` (all parts of a prompt in one growing batch) or ``"loop"`` (a forward a part), equal to rounding.
        seed: of the other prompt that each is given (``"resample"``): at every token one of the same length, else any.
        memory_budget: bytes that the runs' activations may take.

    Returns:
        `AblationEffects`, one row a prompt and part.

    Raises:
        DataError: no prompt, or none to resample from.
        ComponentError: nothing to ablate, or what the model does not have.
        ModelError, PromptError, NumericalError: as `tl_knowledge.trace`.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> prompts = [tlk.Prompt.from_fact(model, fact) for fact in tlk.load_facts("factlm")[:4]]
        >>> effects = tlk.tracing.measure_ablation(model, prompts, heads="all", at="last", by="mean", progress=False)
        >>> len(effects.summary()) == model.cfg.n_layers * model.cfg.n_heads
        True
    """
    model = as_model(model, without_mlps=True)
    check_choice("by", by, Ablation, ComponentError)
    check_choice("engine", engine, ExactEngine, ComponentError)
    batch = check_given(always_iterable(prompts, Prompt), "prompt")
    parts = sorted(parts_of(model, heads, neurons, modules, together=together), key=lambda part: part.born_at)
    places = [None if at is None else (prompt.span(at).last,) for prompt in batch]
    for prompt in batch:
        check_fits(model, prompt)
    names = sorted({name for part in parts for name in part.hook_names()})
    source = _Source(model, batch, places, names, by, seed)
    tokens = source.take_means(corpus, progress) if by == "mean" else 0
    rows: list[dict[str, object]] = []
    for number, prompt in enumerate(progress_bar(batch, what="ablation", unit="prompt", progress=progress)):
        answer = choose_answer(model, prompt, None, False)
        run = _Run(Experiment(model, (answered(prompt, answer),), (), 0), parts, by, source.recorded(number), places[number])
        clean, ablated = float(run.experiment.base.probability[0]), run.probability(engine, memory_budget).tolist()
        what = {"prompt": number, "text": prompt.text or "".join(prompt.labels), "target": answer_label(model, prompt, answer)}
        for part, value in zip(parts, ablated, strict=True):
            change = {"change": (value - clean) / clean if clean else float("nan"), "change_absolute": value - clean}
            rows.append(what | part.columns | {"clean": clean, "ablated": value} | change)
    settings = AblationSettings(by, at, together, seed if by == "resample" else 0, tokens)
    used = rows_engine(model) if engine == "rows" else engine
    provenance = provenance_of(model, engine=used, seed=settings.seed, has_bos=batch[0].has_bos, settings=settings)
    return AblationEffects(pd.DataFrame(rows), settings, provenance)


@dataclass
class _Source:
    """Where what is written instead comes from."""

    model: HookedModel
    prompts: Sequence[Prompt]
    places: Sequence[tuple[int, ...] | None]
    names: Sequence[str]
    by: Ablation
    seed: int
    means: dict[str, torch.Tensor] | None = None

    def __post_init__(self) -> None:
        if self.by != "resample":
            return
        lengths = Counter(len(prompt) for prompt in self.prompts)
        alone = [prompt for prompt, place in zip(self.prompts, self.places, strict=True) if place is None and lengths[len(prompt)] < 2]
        if len(self.prompts) < 2 or alone:
            which = f"prompt {alone[0].text[:60]!r} is the only one of {counted(len(alone[0]), 'token')}" if alone else "one prompt was given"
            raise DataError(f"{which}, so there is none to resample from; pass more prompts, or at='last' to ablate at one token.")

    def take_means(self, corpus: str | Prompt | Iterable[str | Prompt] | None, progress: bool) -> int:
        """Take the means, and say over how many tokens."""
        if corpus is None and self.places[0] is not None:
            counted = [(prompt.tokens, place or ()) for prompt, place in zip(self.prompts, self.places, strict=True)]
        else:
            counted = counted_tokens(self.model, self.prompts if corpus is None else corpus)
        self.means = means_over(self.model, counted, self.names, progress=progress)
        return sum(len(wanted) for _, wanted in counted)

    def recorded(self, number: int) -> Activations | None:
        """What is written into a prompt's run."""
        if self.by != "resample":
            return self.means
        place = self.places[number]
        fitting = [k for k, other in enumerate(self.prompts) if k != number and (place is not None or len(other) == len(self.prompts[number]))]
        other = random.Random(f"{self.seed}/{number}").choice(fitting)
        activations = record(self.model, self.prompts[other].tokens, [], self.names)
        if place is None:
            return activations
        there, length = (self.places[other] or place)[0], len(self.prompts[number])
        return {name: value[:, [there]].expand(-1, length, *value.shape[2:]) for name, value in activations.items()}


@dataclass(frozen=True, eq=False)
class _Run:
    """All parts of one prompt."""

    experiment: Experiment
    parts: Sequence[Part]
    by: Ablation
    recorded: Activations | None
    positions: tuple[int, ...] | None

    def probability(self, engine: ExactEngine, memory_budget: float) -> Float[torch.Tensor, " part"]:
        """The answer's probability without each part.

        Raises:
            NumericalError: one that is not finite.
        """
        model, length = self.experiment.model, self.experiment.length
        grown = engine == "rows" and rows_engine(model) == "rows"
        _ = self.experiment.base  # first, for its own clear error where activations are not finite
        size = max(1, budget_rows(model, length, 1, memory_budget) - 1) if grown else 1
        chunks = [self._grown(some) if grown else self._alone(some[0]) for some in chunked(self.parts, size)]
        probability = torch.cat([answer_probability(logits, self.experiment.answers) for logits in chunks])
        if not bool(probability.isfinite().all()):
            raise NumericalError("ablated runs gave probabilities that are not finite; load the model in float32.")
        return probability

    def _grown(self, parts: Sequence[Part]) -> torch.Tensor:
        """One forward: the clean row, then a row for each part, born before the first layer that it is ablated in."""
        births = Counter(part.born_at for part in parts)
        zeros = {layer: as_index([0] * count, self.experiment.device) for layer, count in sorted(births.items())}
        hooks = grow_rows(self.experiment.base.streams, zeros)
        hooks += each_row({row: self._hooks(part) for row, part in enumerate(parts, start=1)})
        return run_rows(self.experiment.model, self.experiment.tokens, hooks + keep_positions(self.experiment.answer_positions))[1:]

    def _alone(self, part: Part) -> torch.Tensor:
        hooks = self._hooks(part) + keep_positions(self.experiment.answer_positions)
        with torch.no_grad():
            logits: torch.Tensor = run_model(self.experiment.model, self.experiment.tokens, hooks)
        return logits

    def _hooks(self, part: Part) -> Hooks:
        return part.hooks(self.by, self.recorded, self.positions)
