"""Answers under noise on the token embeddings, where the experiment of a trace does not reach: masked models, and noise on the matrix itself.

Noise ``N [d_vocab d_model]`` on the embedding matrix is two additions, made by hooks so that no weight is touched: ``N``'s row of every token where
the embeddings enter, and, where the unembedding is tied to them, ``h N^T`` to the logits of the final state ``h``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float

from tl_knowledge.arrays import Hooks
from tl_knowledge.engine.batches import equal_groups
from tl_knowledge.engine.forward import run_model
from tl_knowledge.engine.recording import record
from tl_knowledge.errors import UnsupportedModelError
from tl_knowledge.models.description import weight_processing
from tl_knowledge.models.hook_names import EMBED, UNEMBED_IN
from tl_knowledge.models.protocol import HookedModel, context_length, embedding_matrix, is_masked, model_name
from tl_knowledge.models.unembedding import Unembedding
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.runs.corruption import Noise

__all__ = ["is_tied", "matrix_noise", "noisy_matrix_probabilities", "noisy_token_probabilities"]

PROBED = 16

MASKED_EMBEDS = ("embed.hook_embed", "embed.hook_out")
"""Where BERT's words enter, before positions are added and all is normalised: in ``HookedEncoder``, and in the bridge."""


def noisy_token_probabilities(model: HookedModel, prompt: Prompt, noise: Noise, samples: int) -> Float[torch.Tensor, " sample"]:
    """The answer's probability under noise on every token of one prompt, a row a sample."""

    def add(embeddings: torch.Tensor, *, hook: object) -> torch.Tensor:
        return noise.corrupted(embeddings, tuple(range(len(prompt))))

    with torch.no_grad():
        logits: torch.Tensor = run_model(model, prompt.batch(samples), [(_embedding_hook(model), add)])
    return logits[:, prompt.last.last].double().softmax(-1)[:, prompt.target_token].cpu()


def noisy_matrix_probabilities(
    model: HookedModel, prompts: Sequence[Prompt], noise: Float[torch.Tensor, "d_vocab d_model"], *, tied: bool
) -> Float[torch.Tensor, " prompt"]:
    """Each prompt's answer's probability with ``noise`` added to the embedding matrix, and to the unembedding where it is tied."""
    probability = torch.zeros(len(prompts), dtype=torch.float64)
    for group in equal_groups([(len(prompt), prompt.last.last) for prompt in prompts]):
        tokens, position = torch.cat([prompts[i].tokens for i in group]), prompts[group[0]].last.last
        states: list[torch.Tensor] = []
        hooks: Hooks = [
            (_embedding_hook(model), lambda x, *, hook, rows=noise[tokens]: x + rows.to(x)),
            (UNEMBED_IN, lambda x, *, hook, found=states, at=position: found.append(x[:, at])),
        ]
        with torch.no_grad():
            run: torch.Tensor = run_model(model, tokens, hooks)
            logits = run[:, position] + states[0] @ noise.T if tied else run[:, position]
        answers = torch.tensor([prompts[i].target_token for i in group], device=logits.device)
        probability[group] = logits.double().softmax(-1).gather(1, answers[:, None])[:, 0].cpu()
    return probability


def matrix_noise(model: HookedModel, noise: Noise) -> Float[torch.Tensor, "d_vocab d_model"]:
    """One draw for the whole embedding matrix, in the model's own precision."""
    matrix = embedding_matrix(model)
    zeros = torch.zeros(1, *matrix.shape, dtype=torch.float64)
    return noise.corrupted(zeros, tuple(range(len(matrix))))[0].to(matrix)


def is_tied(model: HookedModel) -> bool:
    """Whether the unembedding is the embedding matrix, so that noise on one is noise on the other.

    Raises:
        UnsupportedModelError: processed weights, which no longer show it; or embeddings or logits that are more than the matrix.
    """
    matrix, name = embedding_matrix(model), _embedding_hook(model)
    few = torch.linspace(0, len(matrix) - 1, min(PROBED, len(matrix), context_length(model)), device=matrix.device).long()
    if not torch.equal(record(model, few[None], [], [name])[name][0], matrix[few]):
        raise UnsupportedModelError(f"{model_name(model)} changes its embeddings before they enter; noise on its matrix is not measured here.")
    weights = getattr(getattr(model, "unembed", None), "W_U", None)
    if not isinstance(weights, torch.Tensor) or any(weight_processing(model).values()):
        raise UnsupportedModelError(
            f"{model_name(model)} does not show whether its unembedding is tied to the embeddings; load_model(..., process_weights=False)."
        )
    if weights.shape != matrix.T.shape or not torch.equal(weights, matrix.T):
        return False
    head = Unembedding.of(model)
    if head is None or head.cap is not None or head.scale != 1.0:
        raise UnsupportedModelError(f"{model_name(model)} does more to its logits than unembed; noise on a tied unembedding is not measured here.")
    return True


def _embedding_hook(model: HookedModel) -> str:
    """Where token embeddings enter.

    Raises:
        UnsupportedModelError: the model does not show them.
    """
    names = MASKED_EMBEDS if is_masked(model) else (EMBED,)
    for name in names:
        if name in model.hook_dict:
            return name
    raise UnsupportedModelError(f"{model_name(model)} shows its token embeddings at none of {', '.join(names)}.")
