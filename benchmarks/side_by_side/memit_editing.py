"""MEMIT as in Meng et al.'s program (``memit/memit_main.py``, ``compute_z.py``, ``compute_ks.py``), written out on the network's own modules."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import tl_knowledge as tlk
from side_by_side.rome_editing import module_inputs, optimised, padded, prompts_of, recorded
from side_by_side.work import Work


def memit(work: Work) -> Tensor:
    """The changes of all edited layers' matrices, ``[layer d_mlp d_model]``; the network gets its weights back."""
    layers, contexts, blocks = work.memit.layers, work.contexts(work.memit), work.network.transformer.h
    wanted = torch.stack([optimised(work, fact, contexts, blocks[layers[-1]], work.memit.value) for fact in work.facts])
    weights, changes = {layer: blocks[layer].mlp.c_proj.weight for layer in layers}, []
    before = {layer: weight.detach().clone() for layer, weight in weights.items()}
    with torch.no_grad():
        try:
            for number, layer in enumerate(layers):
                keys = torch.stack([key(work, fact, contexts, layer) for fact in work.facts]).double()
                missing = (wanted - states(work, work.facts, layers[-1])).double() / (len(layers) - number)
                moment = work.memit.moment_weight * work.moments.of_layer(layer)
                change = torch.linalg.solve(moment + keys.T @ keys, keys.T) @ missing
                weights[layer].add_(change)
                changes.append(change)
        finally:
            for layer, weight in weights.items():
                weight.copy_(before[layer])
    return torch.stack(changes)


def key(work: Work, fact: tlk.Fact, contexts: Sequence[str], layer: int) -> Tensor:
    """The bare prompt's key and the mean of the others', half of each."""
    keys = module_inputs(work, work.network.transformer.h[layer].mlp.c_proj, prompts_of(work, fact, contexts))
    return (keys[0] + keys[1:].mean(0)) / 2


def states(work: Work, facts: Sequence[tlk.Fact], layer: int) -> Tensor:
    """The block's output at every fact's edited token."""
    prompts = [prompts_of(work, fact, ["{}"])[0] for fact in facts]
    tokens, mask = padded(prompts)
    with recorded(work.network.transformer.h[layer]) as seen:
        work.network(tokens, attention_mask=mask)
    return seen[1][range(len(prompts)), [prompt.edited for prompt in prompts]]
