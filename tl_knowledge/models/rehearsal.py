"""Models of published shapes with random weights: a rehearsal of a long run, with nothing downloaded.

A rehearsal shows that a run goes through at a model's true size, how long it takes and how much memory it needs. Its scores mean nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, GPTJConfig, GPTJForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

from tl_knowledge.door import public
from tl_knowledge.errors import ComponentError, check_choice
from tl_knowledge.models.bundled import bundled_tokenizer
from tl_knowledge.models.loading import bridge_of
from tl_knowledge.models.protocol import HookedModel

__all__ = ["SHAPES", "Shape", "random_model"]

SPREAD = 5.0
"""Standard deviation of the logits: a fresh model's are nearly equal, and no fact could be told from another."""


@dataclass(frozen=True)
class Shape:
    """A model's shape.

    Attributes:
        layers, d_model, d_mlp, heads, vocabulary, context: its sizes.
        config, module: of transformers.
        architecture: transformers' name of it.
        sizes: those sizes under the config's own names.
    """

    layers: int
    d_model: int
    d_mlp: int
    heads: int
    vocabulary: int
    context: int
    config: Any
    module: Any
    architecture: str
    sizes: Mapping[str, Any]

    @property
    def layer_parameters(self) -> int:
        """Of one block: attention and MLP, without norms and biases."""
        return 4 * self.d_model**2 + (3 if "intermediate_size" in self.sizes and self.config is LlamaConfig else 2) * self.d_model * self.d_mlp

    def parameters(self, layers: int | None = None) -> int:
        """About how many a model of so many layers has."""
        unembedding = 1 if self.config is GPT2Config else 2  # GPT-2's is its embedding
        return (self.layers if layers is None else layers) * self.layer_parameters + unembedding * self.vocabulary * self.d_model


def _gpt2(layers: int, d_model: int, heads: int) -> Shape:
    sizes = {"n_embd": d_model, "n_head": heads}
    return Shape(layers, d_model, 4 * d_model, heads, 50257, 1024, GPT2Config, GPT2LMHeadModel, "GPT2LMHeadModel", sizes)


def _hidden(d_model: int, d_mlp: int, heads: int, vocabulary: int, **more: Any) -> dict[str, Any]:
    return {"hidden_size": d_model, "intermediate_size": d_mlp, "num_attention_heads": heads, "vocab_size": vocabulary, **more}


_GPTJ = {"n_embd": 4096, "n_head": 16, "rotary_dim": 64, "vocab_size": 50400}
SHAPES: Mapping[str, Shape] = {
    "gpt2": _gpt2(12, 768, 12),
    "gpt2-medium": _gpt2(24, 1024, 16),
    "gpt2-large": _gpt2(36, 1280, 20),
    "gpt2-xl": _gpt2(48, 1600, 25),
    "gpt-j-6b": Shape(28, 4096, 16384, 16, 50400, 2048, GPTJConfig, GPTJForCausalLM, "GPTJForCausalLM", _GPTJ),
    "gpt-neox-20b": Shape(44, 6144, 24576, 64, 50432, 2048, GPTNeoXConfig, GPTNeoXForCausalLM, "GPTNeoXForCausalLM", _hidden(6144, 24576, 64, 50432)),
    "llama-2-7b": Shape(
        32, 4096, 11008, 32, 32000, 4096, LlamaConfig, LlamaForCausalLM, "LlamaForCausalLM", _hidden(4096, 11008, 32, 32000, num_key_value_heads=32)
    ),
}
"""Shapes that can be rehearsed, by the model's name."""

_LAYER_WORD = {GPT2Config: "n_layer", GPTJConfig: "n_layer"}


@public
def random_model(name: str, *, layers: int | None = None, seed: int = 0, dtype: torch.dtype = torch.float32) -> HookedModel:
    """A bridge of a published shape with random weights, and FactLM's tokenizer.

    Its tokens are a part of the shape's vocabulary; the others have no embedding, so that they are never predicted. The final norm is scaled up, so
    that predictions stand out as a trained model's do. A run's seconds and memory depend on neither.

    Args:
        name: of `SHAPES`, such as ``"gpt2-xl"``.
        layers: fewer than the model has, where memory is short.
        seed: of the weights.

    Raises:
        InputError: an unknown shape.
        ComponentError: no layer, or more than the model has.

    Example:
        >>> model = random_model("gpt2", layers=1)
        >>> model.cfg.d_model, model.cfg.n_layers, model.cfg.d_vocab
        (768, 1, 50257)
    """
    check_choice("shape", name, SHAPES)
    shape = SHAPES[name]
    depth = shape.layers if layers is None else layers
    if not 1 <= depth <= shape.layers:
        raise ComponentError(f"layers={layers} does not fit {name!r}; pass 1 to {shape.layers}, or nothing for all.")
    config = shape.config(**shape.sizes, **{_LAYER_WORD.get(shape.config, "num_hidden_layers"): depth})
    tokenizer = bundled_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _in_own_precision(shape.module, config, dtype)
    _peak(module, shape, known=len(tokenizer))
    model = bridge_of(module, shape.architecture, tokenizer, dtype)
    cut = "" if depth == shape.layers else f"-{depth}-of-{shape.layers}-layers"
    model.cfg.model_name = f"random{cut}/{name}"  # as an organisation's model: published settings are found by the last part
    return model


def _in_own_precision(module_class: Any, config: Any, dtype: torch.dtype) -> torch.nn.Module:
    """The module in evaluation mode, made in its precision so that it is never held twice."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        module = module_class(config).eval()
    finally:
        torch.set_default_dtype(before)
    return module.requires_grad_(False)


def _peak(module: torch.nn.Module, shape: Shape, known: int) -> None:
    """Logits of the wanted spread, and none for tokens that the tokenizer does not have."""
    held: Any = module
    unembedding: torch.Tensor = held.get_output_embeddings().weight
    gain = SPREAD / (float(unembedding[:known].float().std()) * shape.d_model**0.5)
    for name, parameter in module.named_parameters():
        parts = name.split(".")
        if parts[-1] == "weight" and parts[-2] in ("ln_f", "final_layer_norm", "norm"):
            parameter.mul_(gain)
    for weight in {id(w): w for w in (unembedding, held.get_input_embeddings().weight)}.values():
        weight[known:] = 0
    bias = held.get_output_embeddings().bias
    if bias is not None:
        bias.zero_()
