"""What a trace runs: prompts with their answers, and corrupted runs of them, in one batch.

Rows ``0 .. prompts - 1`` of the batch are the clean runs, then come ``samples`` rows for each corrupted run. Prompts of
unequal length are padded on the right, where causal attention keeps the padding from mattering.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from einops import repeat
from jaxtyping import Float, Int

from tl_knowledge.arrays import Hooks, Logits, SampleProbability, Tokens
from tl_knowledge.engine.forward import run_model
from tl_knowledge.engine.prefix_bank import PrefixBank, bank_prefixes, bank_refusal
from tl_knowledge.engine.recording import capture_base
from tl_knowledge.engine.rows import keep_positions, pad_right
from tl_knowledge.errors import NumericalError
from tl_knowledge.hooks import Corruption
from tl_knowledge.metrics import answer_probability
from tl_knowledge.models.hook_names import EMBED
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.runs.metric import PROBABILITY, Metric
from tl_knowledge.runs.scoring import clean_reference, row_scores

__all__ = ["AnsweredPrompt", "BaseRuns", "CorruptedRun", "Experiment", "answered"]


@dataclass(frozen=True, eq=False)
class AnsweredPrompt:
    """A prompt followed by all of its answer's tokens but the last (teacher forcing), and the answer.

    The last ``len(answer)`` positions predict the answer's tokens.
    """

    tokens: Tokens
    answer: Int[torch.Tensor, " answer"]

    @property
    def answer_positions(self) -> list[int]:
        """The positions that predict the answer's tokens."""
        length = self.tokens.shape[1]
        return list(range(length - len(self.answer), length))


def answered(prompt: Prompt, answer: Int[torch.Tensor, " answer"]) -> AnsweredPrompt:
    """A prompt with the answer that is scored."""
    return AnsweredPrompt(torch.cat([prompt.tokens.to(answer.device), answer[None, :-1]], dim=1), answer)


@dataclass(frozen=True)
class CorruptedRun:
    """One corruption of one prompt: which prompt, where, and by what."""

    prompt: int
    positions: tuple[int, ...]
    noise: Corruption


@dataclass(frozen=True, eq=False)
class BaseRuns:
    """What the clean and corrupted runs gave, row for row.

    Attributes:
        streams: the residual stream entering block 0, then leaving each block.
        probability: of the row's answer.
        score: the metric.
        reference: what the metric needs of each prompt's clean run, ``[prompt d_vocab]``, or nothing.
        predicted: the most probable first answer token.
    """

    streams: list[torch.Tensor]
    probability: torch.Tensor
    score: torch.Tensor
    reference: torch.Tensor | None
    predicted: torch.Tensor


@dataclass(frozen=True, eq=False)
class Experiment:
    """Everything a batch of traces needs but its sites; answers must have equally many tokens.

    Attributes:
        metric: what effects are measured in.
    """

    model: HookedModel
    prompts: tuple[AnsweredPrompt, ...]
    runs: tuple[CorruptedRun, ...]
    samples: int
    metric: Metric = PROBABILITY

    @property
    def device(self) -> torch.device:
        """Where the prompts are."""
        return self.prompts[0].tokens.device

    @cached_property
    def length(self) -> int:
        """The longest prompt's."""
        return max(prompt.tokens.shape[1] for prompt in self.prompts)

    @cached_property
    def tokens(self) -> Tokens:
        """One prompt a row, padded on the right."""
        return pad_right([prompt.tokens for prompt in self.prompts])

    @cached_property
    def row_prompts(self) -> Int[torch.Tensor, " row"]:
        """Which prompt each base row runs."""
        corrupted = repeat(self._indices([run.prompt for run in self.runs]), "run -> (run sample)", sample=self.samples)
        return torch.cat([torch.arange(len(self.prompts), device=self.device), corrupted])

    @cached_property
    def lengths(self) -> Int[torch.Tensor, " prompt"]:
        """Each prompt's length in tokens."""
        return self._indices([prompt.tokens.shape[1] for prompt in self.prompts])

    @cached_property
    def answers(self) -> Int[torch.Tensor, "prompt answer"]:
        """Each prompt's answer."""
        return torch.stack([prompt.answer for prompt in self.prompts])

    @cached_property
    def answer_positions(self) -> Int[torch.Tensor, "prompt answer"]:
        """The positions that predict each prompt's answer."""
        return torch.stack([self._indices(prompt.answer_positions) for prompt in self.prompts])

    def sample_rows(self, run: int) -> slice:
        """The base rows of a corrupted run."""
        start = len(self.prompts) + run * self.samples
        return slice(start, start + self.samples)

    def corrupt_hooks(self) -> Hooks:
        """Corrupt every run's rows; the clean rows stay."""

        def corrupt_rows(embeddings: torch.Tensor, *, hook: object) -> torch.Tensor:
            changed = embeddings.clone()
            for index, run in enumerate(self.runs):
                rows = self.sample_rows(index)
                # A draw depends on the prompt's own length only, so padding changes no noise.
                own = embeddings[rows, : self.prompts[run.prompt].tokens.shape[1]]
                changed[rows, list(run.positions)] = run.noise.corrupted(own, run.positions)
            return changed

        return [(EMBED, corrupt_rows)]

    @cached_property
    def base(self) -> BaseRuns:
        """The clean and corrupted runs.

        Raises:
            NumericalError: a probability, or a value of the metric, that is not finite.
        """
        streams: list[torch.Tensor] = []
        with torch.no_grad():
            logits: torch.Tensor = run_model(self.model, self.tokens[self.row_prompts], self._base_hooks(streams))
        return self._base_runs(streams, logits)

    def bank(self, names: Iterable[str], memory_budget: float) -> PrefixBank | None:
        """The prefixes of the clean and corrupted runs, in the run that gives `base` where that is not known yet.

        Args:
            names: of activations to record.
            memory_budget: bytes that all of it may take.

        Returns:
            ``None`` where rows have to run all of their tokens (`bank_refusal`), or where it takes more memory.

        Raises:
            NumericalError: as `base`.
        """
        if bank_refusal(self.model, self.length):
            return None
        streams: list[torch.Tensor] = []
        logits, bank = bank_prefixes(self.model, self.tokens[self.row_prompts], self._base_hooks(streams), names, memory_budget)
        if "base" not in vars(self):
            vars(self)["base"] = self._base_runs(streams, logits)  # as `cached_property` would
        return bank

    def _base_hooks(self, streams: list[torch.Tensor]) -> Hooks:
        return self.corrupt_hooks() + capture_base(self.model, streams) + keep_positions(self.answer_positions[self.row_prompts])

    def _base_runs(self, streams: list[torch.Tensor], logits: torch.Tensor) -> BaseRuns:
        probability = answer_probability(logits, self.answers[self.row_prompts])
        if not bool(probability.isfinite().all()):
            raise NumericalError(
                f"the answer's probability is not finite (clean {probability[0].item()}); check the weights for NaN, or load the model in float32."
            )
        reference = clean_reference(self.metric, logits[: len(self.prompts)])
        score = probability if self.metric == PROBABILITY else self._score(logits, self.row_prompts, reference)
        if not bool(score.isfinite().all()):
            raise NumericalError(f"{self.metric} is not finite (clean {score[0].item()}); load the model in float32.")
        return BaseRuns(streams, probability, score, reference, logits[:, 0].argmax(-1))

    def score(self, logits: Logits, row_prompts: Int[torch.Tensor, " row"]) -> Float[torch.Tensor, " row"]:
        """The metric in rows of some prompts, from the logits where these are answered."""
        return self._score(logits, row_prompts, self.base.reference)

    def _score(self, logits: Logits, row_prompts: torch.Tensor, reference: torch.Tensor | None) -> torch.Tensor:
        return row_scores(self.metric, logits, self.answers[row_prompts], None if reference is None else reference[row_prompts])

    def clean_score(self, run: int) -> float:
        """The metric in the clean run."""
        return float(self.base.score[self.runs[run].prompt])

    def corrupted_score(self, run: int) -> Float[torch.Tensor, " sample"]:
        """The metric in a corrupted run, for every noise sample."""
        return self.base.score[self.sample_rows(run)]

    def clean_probability(self, run: int) -> float:
        """The answer's probability in the clean run."""
        return float(self.base.probability[self.runs[run].prompt])

    def corrupted_probability(self, run: int) -> SampleProbability:
        """The answer's probability in a corrupted run, for every noise sample."""
        return self.base.probability[self.sample_rows(run)]

    def _indices(self, values: Sequence[int]) -> Int[torch.Tensor, " index"]:
        return torch.tensor(list(values), dtype=torch.long, device=self.device)
