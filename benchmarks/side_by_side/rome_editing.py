"""ROME as in Meng et al.'s program (``rome/compute_u.py``, ``rome/compute_v.py``), written out on the network's own modules.

What ROME and MEMIT share is here: prompts by their tokens, the loop that optimises a value, keys read off the modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

import tl_knowledge as tlk
from side_by_side.work import Work

KL_PROMPT = "{} is a"


def rome(work: Work) -> Tensor:
    """The change of the edited layer's matrix, ``[1 d_mlp d_model]``."""
    layer, contexts = work.rome.layer, work.contexts(work.rome)
    mlp = work.network.transformer.h[layer].mlp
    target = optimised(work, work.fact, contexts, mlp, work.rome.value)
    prompts = prompts_of(work, work.fact, contexts)
    keys = module_inputs(work, mlp.c_proj, prompts)
    left = inverse_moment(work.moments, layer).to(keys) @ keys.mean(0)
    left = left / left.norm()
    with torch.no_grad(), recorded(mlp.c_proj) as seen:
        work.network(prompts[0].tokens[None])
    key, value = (states[0, prompts[0].edited] for states in seen)
    return torch.outer(left, (target - value) / (key @ left))[None]


@dataclass(frozen=True)
class Tokenised:
    """A text's tokens, the position of the subject's last one, and the text's own length, without a target."""

    tokens: Tensor
    edited: int
    length: int


def prompts_of(work: Work, fact: tlk.Fact, contexts: Sequence[str], target: Sequence[int] = ()) -> list[Tokenised]:
    """The fact after every context, with all of the target's tokens but the last behind it."""
    return [tokenised(work, context.replace("{}", fact.template), fact.subject, target) for context in contexts]


def tokenised(work: Work, template: str, subject: str, target: Sequence[int] = ()) -> Tokenised:
    ids = work.tokenizer(template.replace("{}", subject)).input_ids
    before, _, _ = template.partition("{}")
    edited = len(work.tokenizer(before + subject).input_ids) - 1
    return Tokenised(torch.tensor([*ids, *target[:-1]]), edited, len(ids))


def padded(prompts: Sequence[Tokenised]) -> tuple[Tensor, Tensor]:
    """Tokens, padded right, and the mask of what is none."""
    tokens = torch.nn.utils.rnn.pad_sequence([prompt.tokens for prompt in prompts], batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(prompt.tokens) for prompt in prompts], batch_first=True)
    return tokens, mask


def optimised(work: Work, fact: tlk.Fact, contexts: Sequence[str], module: Any, settings: tlk.editing.ValueSettings) -> Tensor:
    """The module's output at the subject's last token that makes the network say the target: a forward and a backward of everything a step."""
    target = work.tokenizer(fact.target).input_ids
    asked = prompts_of(work, fact, contexts, target)
    every = [*asked, tokenised(work, KL_PROMPT, fact.subject)]
    tokens, mask = padded(every)
    delta = torch.zeros(work.network.config.n_embd, dtype=work.network.dtype, requires_grad=True)
    start: list[Tensor] = []

    def change(_: Any, inputs: Any, output: Any) -> Any:
        states = output[0] if isinstance(output, tuple) else output
        if not start:
            start.append(states[0, every[0].edited].detach().clone())
        changed = states.clone()
        for row, prompt in enumerate(every):
            changed[row, prompt.edited] = changed[row, prompt.edited] + delta
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    optimiser, before = torch.optim.Adam([delta], lr=settings.learning_rate), None
    handle = module.register_forward_hook(change)
    try:
        for step in range(settings.steps):
            log_p = torch.log_softmax(work.network(tokens, attention_mask=mask).logits, dim=-1)
            essence = log_p[-1, every[-1].edited]
            before = essence.detach() if before is None else before
            each = [[log_p[row, prompt.length - 1 + k, token] for k, token in enumerate(target)] for row, prompt in enumerate(asked)]
            wanted = -torch.stack([torch.stack(row).mean() for row in each]).mean()
            drift = settings.kl_factor * torch.nn.functional.kl_div(before, essence, log_target=True, reduction="sum")
            loss = wanted + drift + settings.weight_decay * delta.norm() / start[0].norm() ** 2
            if loss < settings.stop_below or step == settings.steps - 1:
                break
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            longest = settings.clamp * start[0].norm()
            if delta.norm() > longest:
                with torch.no_grad():
                    delta.mul_(longest / delta.norm())
    finally:
        handle.remove()
    return start[0] + delta.detach()


def module_inputs(work: Work, module: Any, prompts: Sequence[Tokenised]) -> Tensor:
    """What the module reads at the subject's last token of every prompt."""
    tokens, mask = padded(prompts)
    with torch.no_grad(), recorded(module) as seen:
        work.network(tokens, attention_mask=mask)
    return seen[0][range(len(prompts)), [prompt.edited for prompt in prompts]]


@contextmanager
def recorded(module: Any):
    """A list that holds what the module read and gave, once it ran."""
    seen: list[Tensor] = []

    def record(_: Any, inputs: Any, output: Any) -> None:
        seen[:] = [inputs[0], output[0] if isinstance(output, tuple) else output]

    handle = module.register_forward_hook(record)
    try:
        yield seen
    finally:
        handle.remove()


@cache
def inverse_moment(moments: tlk.KeyMoments, layer: int) -> Tensor:
    """The program keeps a layer's inverse from one edit to the next."""
    return torch.inverse(moments.of_layer(layer))
