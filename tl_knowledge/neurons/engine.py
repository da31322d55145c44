"""The attribution engine: every point of every layer's path is one row on a frozen prefix.

One forward carries the rows of all layers, and one backward gives every gradient. A layer's rows are born at the input of its own block ``o``, as
copies of the clean row, and there ``b + alpha (w - b)`` takes the place of the activations ``w``::

    row                  block 0   block 1   block 2    unembedding
    clean                ----------------------------->  P(w)    the end of every path, alpha = 1
    layer 0, alpha 0     o---------------------------->  P(b)    its start, for the completeness gap
    layer 0, alpha 1/2   o---------------------------->
    layer 1, alpha 0               o------------------>
    layer 1, alpha 1/2             o------------------>
    layer 2, alpha 0                         o-------->
    layer 2, alpha 1/2                       o-------->

(one prompt, two steps). The gradient enters at the unembedding's input, where it is known in closed form (`tl_knowledge.models.unembedding`); a
model that computes more after that point is differentiated throughout, and so is every metric but the probability.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from more_itertools import constrained_batches

from tl_knowledge.arrays import HookFn, Hooks, Tokens
from tl_knowledge.engine.forward import run_model
from tl_knowledge.engine.prefix import FrozenPrefix, freeze_prefix, prefix_refusal, run_on_prefix
from tl_knowledge.engine.recording import Reached, capture
from tl_knowledge.engine.rows import growing_rows_refusal, keep_positions
from tl_knowledge.metrics import answer_probability
from tl_knowledge.models.hook_names import UNEMBED_IN, block_input, block_output
from tl_knowledge.models.protocol import HookedModel, answered_from, encoder_depth, layer_count
from tl_knowledge.models.unembedding import Unembedding
from tl_knowledge.runs.metric import PROBABILITY, Metric
from tl_knowledge.runs.scoring import check_gradient, clean_reference, row_scores

__all__ = ["PathGradients", "Questions", "questions_at_once"]


@dataclass(frozen=True)
class Questions:
    """Prompts of one length, each with one token to predict.

    Attributes:
        tokens: ``[prompt pos]``.
        positions: where each token is predicted.
        answers: the tokens.
        at: where the neurons are; in an autoregressive model not after ``positions``.
    """

    tokens: Tokens
    positions: tuple[int, ...]
    answers: tuple[int, ...]
    at: tuple[int, ...]

    @classmethod
    def stack(cls, parts: Sequence[Questions]) -> Questions:
        """Questions of one length as one batch."""
        joined = {name: tuple(x for part in parts for x in getattr(part, name)) for name in ("positions", "answers", "at")}
        return cls(torch.cat([part.tokens for part in parts]), **joined)

    @property
    def length(self) -> int:
        """Tokens of each prompt."""
        return self.tokens.shape[1]

    @property
    def kept(self) -> int:
        """How many tokens can differ from the clean run: those from the neurons' position on."""
        return self.length - min(self.at)


@dataclass(frozen=True)
class PathGradients:
    """Integrated gradients of some questions at some layers.

    Attributes:
        model: any model of this package.
        questions: the prompts and their answers.
        layers: which layers.
        site: ``"hook_post"`` or ``"hook_pre"``.
        start: where each layer's path starts.
        metric: whose gradients are taken.
    """

    model: HookedModel
    questions: Questions
    layers: tuple[int, ...]
    site: str
    start: Float[torch.Tensor, "layer d_mlp"]
    metric: Metric = PROBABILITY

    def scores(self, alphas: Sequence[float], memory_budget: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Scores ``[prompt layer d_mlp]``, completeness gaps ``[prompt layer]`` and clean probabilities ``[prompt]``.

        Args:
            alphas: points of the path, from 0 (its start) to 1 (the clean activations).
            memory_budget: bytes that the activations kept for the backward may take.
        """
        prefix = freeze_prefix(self.model, self.questions.tokens, self.questions.kept)
        head = Unembedding.of(self.model) if self.metric == PROBABILITY else None
        chunks = self._chunks(len(alphas), memory_budget, holds_logits=head is None)
        scores, gaps, probabilities = zip(*(_Sweep(self, prefix, chunk, tuple(alphas), head).run() for chunk in chunks), strict=True)
        return torch.cat(scores, dim=1), torch.cat(gaps, dim=1), probabilities[0]

    def activations(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The clean activations in place of scores; there is no path, so the gaps are NaN."""
        names = [f"blocks.{layer}.mlp.{self.site}" for layer in self.layers]
        rows, tokens = torch.arange(len(self.questions.answers)), self.questions.tokens
        positions, at = (torch.tensor(places, device=tokens.device)[:, None] for places in (self.questions.positions, self.questions.at))
        boxes: list[torch.Tensor] = []
        recorders = [pair for name in names for pair in capture(name, boxes)]
        with torch.no_grad():
            logits: torch.Tensor = run_model(self.model, tokens, recorders + keep_positions(positions))
        activations = torch.stack([box[rows, at[:, 0]] for box in boxes], dim=1)
        probability = answer_probability(logits, torch.tensor(self.questions.answers, device=tokens.device)[:, None])
        return activations, activations.new_full(activations.shape[:2], float("nan")), probability

    def _chunks(self, points: int, memory_budget: float, *, holds_logits: bool) -> Iterator[tuple[int, ...]]:
        """Indices of layers whose rows fit the budget together; at least one at a time."""
        rows = len(self.questions.answers) * points
        a_block = _bytes_a_layer_row(self.model, self.questions.length, _tokens_a_row(self.model, self.questions))
        copies = 3 if self.metric == PROBABILITY else 8  # a divergence holds two distributions and what they are made of
        logits = copies * int(self.model.cfg.d_vocab) * self.start.element_size() if holds_logits else 0

        def needed(i: int) -> int:
            return rows * (_blocks_kept(self.model, self.layers[i]) * a_block + logits)

        return constrained_batches(range(len(self.layers)), max(1, int(memory_budget)), get_len=needed, strict=False)


def questions_at_once(model: HookedModel, questions: Sequence[Questions], layers: Sequence[int], points: int, memory_budget: float) -> int:
    """How many questions' rows fit the budget with all layers together; at least one."""
    a_block = _bytes_a_layer_row(model, max(q.length for q in questions), max(_tokens_a_row(model, q) for q in questions))
    needed = sum(_blocks_kept(model, layer) for layer in layers) * max(1, points) * a_block
    return max(1, int(memory_budget // needed))


def _blocks_kept(model: HookedModel, layer: int) -> int:
    """How many blocks keep a layer's rows for the backward: those from its own on, or all where rows cannot grow."""
    first = encoder_depth(model) if layer >= encoder_depth(model) else 0  # of an encoder and its decoder, the side that has the layer
    return layer_count(model) + 1 - (first if growing_rows_refusal(model) else layer)


def _tokens_a_row(model: HookedModel, questions: Questions) -> int:
    """How many tokens of every row are run anew."""
    if not (growing_rows_refusal(model) or prefix_refusal(model)):
        return questions.kept
    first = answered_from(model, questions.tokens)
    return questions.length - (first if min(questions.at) >= first else 0)


def _bytes_a_layer_row(model: HookedModel, length: int, kept: int) -> int:
    """What one row keeps of one block for the backward, from above, where it runs so many tokens."""
    config = model.cfg
    hidden = 12 * int(config.d_model) + 6 * int(model.blocks[0].mlp.W_out.shape[0]) + 4 * int(config.n_heads) * length
    return (kept * hidden + 2 * length * int(config.d_model)) * model.blocks[0].mlp.W_out.element_size()


@dataclass(frozen=True, repr=False)  # TransformerLens prints every hook it adds, and a method prints its owner
class _Sweep:
    """One forward and one backward of some layers' rows.

    Rows: the clean rows, one a prompt; then for each layer its inner points, for each point one row a prompt.
    """

    task: PathGradients
    prefix: FrozenPrefix
    chunk: tuple[int, ...]
    alphas: tuple[float, ...]
    head: Unembedding | None

    def run(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Scores, gaps and clean probabilities."""
        clean: dict[int, torch.Tensor] = {}
        paths: dict[int, torch.Tensor] = {}
        states: list[torch.Tensor] = []
        prefix = replace(self.prefix, entering=self.prefix.entering.clone().requires_grad_(True))
        with torch.enable_grad():
            logits = self._rows(prefix, clean, paths, states)
            inputs = [clean[i] for i in self.chunk] + [paths[i] for i in self.chunk]
            if logits is not None:
                probability, score = self._scored(logits)
                gradients = torch.autograd.grad(score.sum(), inputs)
            else:
                assert self.head is not None
                probability, gradient = self.head.answer_gradient(states[0][:, 0], self._answers(len(states[0])))
                score, gradients = probability, torch.autograd.grad(states[0], inputs, grad_outputs=gradient[:, None])
        return *self._results(clean, gradients, score.detach()), probability[: self._prompts].detach()

    def _scored(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The answers' probabilities, and the metric, in every row."""
        metric, answers = self.task.metric, self._answers(len(logits))[:, None]
        probability = answer_probability(logits, answers)
        if metric == PROBABILITY:
            return probability, probability
        reference = clean_reference(metric, logits[: self._prompts])
        score = row_scores(metric, logits, answers, None if reference is None else reference.repeat(len(logits) // self._prompts, 1))
        check_gradient(score, logits, metric)
        return probability, score

    def _rows(
        self, prefix: FrozenPrefix, clean: dict[int, torch.Tensor], paths: dict[int, torch.Tensor], states: list[torch.Tensor]
    ) -> torch.Tensor | None:
        """Run all rows; their logits, or ``None`` where our own head takes over from their states."""
        try:
            return run_on_prefix(self.task.model, prefix, self._hooks(clean, paths, states), rows=self._prompts + len(self.chunk) * self._born)
        except Reached:
            return None

    def _results(self, clean: dict[int, torch.Tensor], gradients: Sequence[torch.Tensor], score: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and gaps, from every row's gradients and metric."""
        count, weights = self._prompts, gradients[0].new_tensor([self.alphas.count(point) for point in self._inner])
        at_end, along = gradients[: len(self.chunk)], gradients[len(self.chunk) :]
        end = float(self.alphas.count(1.0))
        total = torch.stack([a * end + torch.einsum("k,kpn->pn", weights, b) for a, b in zip(at_end, along, strict=True)], dim=1)
        away = torch.stack([clean[i].detach() - self.task.start[i] for i in self.chunk], dim=1)
        scores = away * total / len(self.alphas)
        at_start = score[count:].view(len(self.chunk), len(self._inner), count)[:, 0].T
        gaps = (scores.sum(2) - (score[:count, None] - at_start)).abs()
        return scores, gaps

    @property
    def _prompts(self) -> int:
        return len(self.task.questions.answers)

    @property
    def _born(self) -> int:
        """Rows of each layer."""
        return len(self._inner) * self._prompts

    @property
    def _inner(self) -> tuple[float, ...]:
        """Points that need rows: the start, for the gap, and all others but the end."""
        return (0.0, *sorted({alpha for alpha in self.alphas if alpha not in (0.0, 1.0)}))

    def _answers(self, rows: int) -> torch.Tensor:
        """Each row's answer; rows take turns by prompt."""
        answers = torch.tensor(self.task.questions.answers, device=self.prefix.entering.device)
        return answers.repeat(-(-rows // len(answers)))[:rows]

    def _hooks(self, clean: dict[int, torch.Tensor], paths: dict[int, torch.Tensor], states: list[torch.Tensor]) -> Hooks:
        hooks: Hooks = []
        for order, i in enumerate(self.chunk):
            layer = self.task.layers[i]
            if self.prefix.grows:
                hooks.append((block_input(0) if layer == 0 else block_output(layer - 1), self._grow))
            hooks.append((f"blocks.{layer}.mlp.{self.task.site}", self._put(i, self._prompts + order * self._born, clean, paths)))
        return [*hooks, (UNEMBED_IN, self._take(states))]

    def _grow(self, residual: torch.Tensor, *, hook: object) -> torch.Tensor:
        # Copies are detached: a clean row's gradient must not collect that of its copies.
        return torch.cat([residual, residual[: self._prompts].detach().repeat(len(self._inner), 1, 1)])

    def _put(self, i: int, first: int, clean: dict[int, torch.Tensor], paths: dict[int, torch.Tensor]) -> HookFn:
        """Write the path where the clean rows show their activations."""
        points = self.task.start.new_tensor(self._inner)[:, None, None]

        def put(activation: torch.Tensor, *, hook: object) -> torch.Tensor:
            at = self._among_kept(self.task.questions.at, activation)
            clean[i] = activation[: self._prompts].take_along_dim(at, dim=1)[:, 0]
            paths[i] = (self.task.start[i] + points * (clean[i].detach() - self.task.start[i])).requires_grad_(True)
            end = first + self._born  # rows of later layers follow only where rows cannot grow
            born = activation[first:end].unflatten(0, (-1, self._prompts))
            before = [_replaced(activation[None, : self._prompts], at, clean[i][None])[0], activation[self._prompts : first]]
            return torch.cat([*before, _replaced(born, at, paths[i]).flatten(0, 1), activation[end:]])

        return put

    def _take(self, states: list[torch.Tensor]) -> HookFn:
        """Keep the answers' positions; with a head of our own, the model need not unembed."""

        def take(residual: torch.Tensor, *, hook: object) -> torch.Tensor:
            at = self._among_kept(self.task.questions.positions, residual).repeat(len(residual) // self._prompts, 1, 1)
            states.append(residual.take_along_dim(at, dim=1))
            if self.head is not None:
                raise Reached
            return states[0]

        return take

    def _among_kept(self, positions: Sequence[int], activation: torch.Tensor) -> torch.Tensor:
        """Each prompt's position among those that run, ``[prompt 1 1]``."""
        skipped = self.task.questions.length - activation.shape[1]
        return torch.tensor(positions, device=activation.device)[:, None, None] - skipped


def _replaced(activation: torch.Tensor, at: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """``activation [point prompt pos d]`` with ``values [point prompt d]`` at each prompt's position."""
    if activation.shape[2] == 1:
        return values[:, :, None]
    here = torch.arange(activation.shape[2], device=activation.device)[:, None] == at
    return torch.where(here, values[:, :, None], activation)
