"""Two runs of one prompt whose difference a circuit explains.

The *corrupted* run lacks the fact, the *clean* run has it; writing the clean values of some *sources* into the corrupted run turns it into
the clean run. Under noise the sources are the corrupted tokens' embeddings. For an edit the clean run is the edited model's, the corrupted
one the unedited model's, and the sources are what the edited MLPs write.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Int

from tl_knowledge.arrays import Hooks, SampleProbability, Tokens
from tl_knowledge.engine.forward import run_model
from tl_knowledge.engine.narrowing import narrowed_hooks
from tl_knowledge.engine.recording import capture
from tl_knowledge.engine.rows import keep_positions
from tl_knowledge.errors import NumericalError
from tl_knowledge.hooks import Corruption, corrupt
from tl_knowledge.metrics import answer_probability
from tl_knowledge.models.hook_names import block_input, block_output, component_hook
from tl_knowledge.models.protocol import HookedModel, layer_count
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.runs.experiment import AnsweredPrompt, CorruptedRun, Experiment, answered
from tl_knowledge.runs.metric import Metric
from tl_knowledge.runs.nodes import Node, hook_of
from tl_knowledge.runs.scoring import clean_reference, row_scores

__all__ = ["Contrast", "edit_contrast", "node_hooks", "noise_contrast", "stream_names"]

Answer: TypeAlias = Int[torch.Tensor, " answer"]


@dataclass(frozen=True, eq=False)
class Contrast:
    """Clean and corrupted activations of one prompt.

    Attributes:
        tokens: ``[1 pos]``: the prompt, with all of its answer but the last token.
        answer_positions: the positions that predict the answer.
        corrupting, cleaning: hooks that make rows of tokens the corrupted run (``samples`` rows), and the clean run.
        clean, corrupted: activations by hook name, ``[1 pos ...]`` and ``[sample pos ...]``.
        metric: what effects are measured in. Several sites that only together bring an answer from a tiny probability to a large one show their
            part in the logarithm.
        reference: what the metric needs of the clean run, ``[1 d_vocab]``, or nothing.
        clean_score, corrupted_score: the metric in the two runs, the latter ``[sample]``.
        clean_probability, corrupted_probability: of the answer, the latter ``[sample]``.
        sources: what turns the corrupted into the clean run.
    """

    model: HookedModel
    tokens: Tokens
    answer: Answer
    answer_positions: tuple[int, ...]
    corrupting: Hooks
    cleaning: Hooks
    clean: dict[str, torch.Tensor]
    corrupted: dict[str, torch.Tensor]
    metric: Metric
    reference: Float[torch.Tensor, "1 d_vocab"] | None
    clean_score: float
    corrupted_score: Float[torch.Tensor, " sample"]
    clean_probability: float
    corrupted_probability: SampleProbability
    sources: tuple[Node, ...]

    @property
    def samples(self) -> int:
        """Rows of the corrupted run."""
        return len(self.corrupted_score)

    @property
    def total_effect(self) -> Float[torch.Tensor, " sample"]:
        """Clean minus corrupted score, ``[sample]``."""
        return self.clean_score - self.corrupted_score

    def streams(self) -> list[torch.Tensor]:
        """The corrupted residual stream entering block 0, then leaving each block."""
        return [self.corrupted[name] for name in stream_names(self.model)]

    def score(self, logits: torch.Tensor) -> torch.Tensor:
        """The metric in each row of ``[row answer d_vocab]``."""
        return row_scores(self.metric, logits, self.answer[None], self.reference)


def node_hooks(model: HookedModel, components: Sequence[str]) -> list[str]:
    """Hooks whose activations a circuit of these components needs: their own, the modules', and the heads'."""
    parts = {"resid_post", "mlp_out", "attn_out", "head", *components} - {"embed"}
    return [component_hook(part, layer) for layer in range(layer_count(model)) for part in sorted(parts)]  # pyright: ignore[reportArgumentType]


def noise_contrast(
    model: HookedModel, prompt: Prompt, answer: Answer, span: tuple[int, ...], noise: Corruption, samples: int, names: Iterable[str], metric: Metric
) -> Contrast:
    """The clean run against runs with a noisy span; the named activations are kept.

    Raises:
        NumericalError: a probability, or a value of the metric, that is not finite.
    """
    experiment = Experiment(model, (answered(prompt, answer),), (CorruptedRun(0, span, noise),), samples)
    activations, logits = _run(model, experiment.prompts[0], experiment.tokens[experiment.row_prompts], experiment.corrupt_hooks(), names)
    clean, corrupted = ({name: values[rows] for name, values in activations.items()} for rows in (slice(0, 1), slice(1, None)))
    sources = tuple(Node("embed", -1, pos) for pos in span)
    return _contrast(model, experiment.prompts[0], (corrupt(span, noise), []), (clean, corrupted), logits, metric, sources)


def edit_contrast(
    model: HookedModel, prompt: Prompt, answer: Answer, editing: Hooks, layers: Sequence[int], names: Iterable[str], metric: Metric
) -> Contrast:
    """The edited run against the unedited one; the named activations are kept.

    Args:
        editing: the edit as hooks.
        layers: whose MLPs it changes.

    Raises:
        NumericalError: a probability, or a value of the metric, that is not finite.
    """
    scored = answered(prompt, answer)
    sources = tuple(Node("mlp_out", layer, pos) for layer in layers for pos in range(scored.tokens.shape[1]))
    names = {*names, *map(hook_of, sources)}
    (clean, edited), (corrupted, unedited) = (_run(model, scored, scored.tokens, hooks, names) for hooks in (editing, []))
    return _contrast(model, scored, ([], editing), (clean, corrupted), torch.cat([edited, unedited]), metric, sources)


def _contrast(
    model: HookedModel,
    prompt: AnsweredPrompt,
    hooks: tuple[Hooks, Hooks],
    activations: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]],
    logits: torch.Tensor,
    metric: Metric,
    sources: tuple[Node, ...],
) -> Contrast:
    """Row 0 of the logits is the clean run's."""
    probability, reference = answer_probability(logits, prompt.answer[None]), clean_reference(metric, logits[:1])
    if not bool(probability.isfinite().all()):
        raise NumericalError(f"the answer's probability is not finite (clean {probability[0].item()}); load the model in float32.")
    score = row_scores(metric, logits, prompt.answer[None], reference)
    if not bool(score.isfinite().all()):
        raise NumericalError(f"{metric} is not finite (clean {score[0].item()}); load the model in float32.")
    return Contrast(
        model=model,
        tokens=prompt.tokens,
        answer=prompt.answer,
        answer_positions=tuple(prompt.answer_positions),
        corrupting=hooks[0],
        cleaning=hooks[1],
        clean=activations[0],
        corrupted=activations[1],
        metric=metric,
        reference=reference,
        clean_score=float(score[0]),
        corrupted_score=score[1:],
        clean_probability=float(probability[0]),
        corrupted_probability=probability[1:],
        sources=sources,
    )


def _run(
    model: HookedModel, prompt: AnsweredPrompt, rows: Tokens, hooks: Hooks, names: Iterable[str]
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The residual stream, what narrowed modules take, and the named activations of a whole run, and its logits where the answer is predicted."""
    kept: dict[str, list[torch.Tensor]] = {name: [] for name in {*names, *stream_names(model), *narrowed_hooks(model)}}
    recording = [pair for name, into in kept.items() for pair in capture(name, into)]
    positions = torch.tensor([prompt.answer_positions], device=rows.device)
    with torch.no_grad():
        logits: torch.Tensor = run_model(model, rows, hooks + recording + keep_positions(positions))
    return {name: into[0] for name, into in kept.items()}, logits


def stream_names(model: HookedModel) -> list[str]:
    """The hooks of the residual stream entering block 0, then leaving each block."""
    return [block_input(0), *map(block_output, range(layer_count(model)))]
