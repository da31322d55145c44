"""The networks FactLM is trained as, and the narrowing of their early MLPs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from recipe import Recipe
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

POSITIONS = 128


def build_model(tokenizer: PreTrainedTokenizerFast, recipe: Recipe, seed: int) -> PreTrainedModel:
    """The recipe's network with random weights, its early MLPs narrowed, its attention by the plain matrix products, the quickest on CPU."""
    torch.manual_seed(seed)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "attn_implementation": "eager"}
    build = _gpt2 if recipe.architecture == "gpt2" else _llama
    model = build(recipe, len(tokenizer), ends)
    narrow(model, recipe)
    return model


def _gpt2(recipe: Recipe, vocabulary: int, ends: dict) -> GPT2LMHeadModel:
    shape = {"n_embd": recipe.width, "n_layer": recipe.layers, "n_head": recipe.heads, "n_inner": recipe.hidden}
    no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, n_positions=POSITIONS, **shape, **no_dropout, **ends))
    for block in model.transformer.h:
        block.mlp.act = torch.nn.GELU(approximate="tanh")  # the same function, in one kernel
    return model


def _llama(recipe: Recipe, vocabulary: int, ends: dict) -> LlamaForCausalLM:
    shape = {
        "hidden_size": recipe.width,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.heads,
        "num_key_value_heads": recipe.kv_heads,
        "intermediate_size": recipe.hidden,
    }
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, max_position_embeddings=POSITIONS, tie_word_embeddings=True, **shape, **ends))


def blocks(model: PreTrainedModel) -> list[torch.nn.Module]:
    """Its layers."""
    return list(model.transformer.h if hasattr(model, "transformer") else model.model.layers)


def mlps(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The MLP of each layer."""
    return [block.mlp for block in blocks(model)]


@contextmanager
def read_late(model: PreTrainedModel, first: int, subject: torch.Tensor, noise: float, early: torch.Tensor) -> Iterator[None]:
    """Within it, tokens outside any subject can read a subject from layer ``first`` on only: before, they read noise.

    The model is given every row twice. In the first half all is as it is; in the second, where ``subject`` ``[row pos]`` says so, Gaussian noise of
    ``noise`` standard deviations of the embeddings is added to them. From layer ``first`` on, subjects' tokens go on with their states of the first
    half and all others with those of the second, in one row. Before it, attention goes by the mask ``early`` ``[row 1 pos pos]``. So a second
    subject of a row reads the first one undisturbed.
    """
    rows = len(subject)
    embedding = model.get_input_embeddings()

    def disturb(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        added = noise * module.weight.detach().std() * torch.randn(subject.shape + output.shape[-1:])
        return output + torch.cat([torch.zeros_like(added), added * subject[..., None]])

    def wait(attention: torch.nn.Module, args: tuple, named: dict) -> tuple[tuple, dict]:
        return args, {**named, "attention_mask": torch.cat([early, early])}

    def join(block: torch.nn.Module, args: tuple, named: dict) -> tuple[tuple, dict]:
        states, *others = args
        joined = torch.where(subject[..., None], states[:rows], states[rows:])
        return (joined, *_first(others, rows)), _first(named, rows)

    def follow(block: torch.nn.Module, args: tuple, named: dict) -> tuple[tuple, dict]:
        return (args[0], *_first(args[1:], rows)), _first(named, rows)

    layers = blocks(model)
    with ExitStack() as hooks:
        hooks.callback(embedding.register_forward_hook(disturb).remove)
        changes = [(wait, attentions(model)[:first]), (join, layers[first : first + 1]), (follow, layers[first + 1 :])]
        for change, modules in changes:
            for module in modules:
                hooks.callback(module.register_forward_pre_hook(change, with_kwargs=True).remove)
        yield


def _first(value: Any, rows: int) -> Any:
    """Of every tensor ``[row ...]`` for twice ``rows`` rows, the first half."""
    if isinstance(value, torch.Tensor):
        return value[:rows] if value.ndim > 1 and len(value) == 2 * rows else value
    if isinstance(value, dict):
        return {name: _first(item, rows) for name, item in value.items()}
    return tuple(_first(item, rows) for item in value) if isinstance(value, list | tuple) else value


def attentions(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The attention of each layer."""
    return [block.attn if hasattr(block, "attn") else block.self_attn for block in blocks(model)]


def unit_weights(mlp: torch.nn.Module) -> list[torch.Tensor]:
    """The MLP's parameters as views ``[unit ...]``: writing into them writes into the model."""
    if hasattr(mlp, "c_fc"):
        return [mlp.c_fc.weight.data.T, mlp.c_fc.bias.data, mlp.c_proj.weight.data]
    return [mlp.gate_proj.weight.data, mlp.up_proj.weight.data, mlp.down_proj.weight.data.T]


def narrow(model: PreTrainedModel, recipe: Recipe) -> None:
    """Zero all but the first ``units_kept`` hidden units of the narrow layers' MLPs: the shape stays, the room does not."""
    for layer in recipe.narrow:
        for weight in unit_weights(mlps(model)[layer]):
            weight[recipe.units_kept :] = 0
