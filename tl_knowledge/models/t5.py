"""Hugging Face's T5 as TransformerLens' ``HookedEncoderDecoder`` has it: its settings, and its weights by name.

TransformerLens' own conversion knows neither the gated MLPs of T5 1.1 and Flan-T5 nor their separate unembedding; this one does, and
`tl_knowledge.models.loading` holds the logits of the two against each other at every load.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from einops import rearrange

from tl_knowledge.errors import UnsupportedModelError

__all__ = ["CONTEXT", "t5_settings", "t5_weights"]

CONTEXT = 512
"""Tokens that T5 was trained on; its positions are relative, and set no limit of their own."""


def t5_settings(config: Any) -> dict[str, Any]:
    """A T5's shape in the words of ``HookedTransformerConfig``.

    Args:
        config: a ``T5Config``.

    Raises:
        UnsupportedModelError: encoder and decoder of different depths, which ``HookedEncoderDecoder`` cannot have.
    """
    if config.num_layers != config.num_decoder_layers:
        raise UnsupportedModelError(
            f"the encoder has {config.num_layers} blocks and the decoder {config.num_decoder_layers}, which TransformerLens' HookedEncoderDecoder "
            "cannot have; pass backend='bridge', with TransformerLens 4."
        )
    return {
        "n_layers": config.num_layers,
        "d_model": config.d_model,
        "d_head": config.d_kv,
        "n_heads": config.num_heads,
        "d_mlp": config.d_ff,
        "d_vocab": config.vocab_size,
        "n_ctx": getattr(config, "n_positions", None) or CONTEXT,
        "eps": config.layer_norm_epsilon,
        "act_fn": config.dense_act_fn,
        "gated_mlp": config.is_gated_act,
        "positional_embedding_type": "relative_positional_bias",
        "relative_attention_max_distance": config.relative_attention_max_distance,
        "relative_attention_num_buckets": config.relative_attention_num_buckets,
        "decoder_start_token_id": config.decoder_start_token_id,
        "attention_dir": "bidirectional",
        "use_attn_scale": False,
        # HookedEncoderDecoder scales the decoder's output by 1 / sqrt(d_model) where this is set, whatever the weights are.
        "tie_word_embeddings": getattr(config, "scale_decoder_outputs", config.tie_word_embeddings),
        "original_architecture": "T5ForConditionalGeneration",
    }


def t5_weights(module: Any) -> dict[str, torch.Tensor]:
    """A T5's weights under the names that ``HookedEncoderDecoder`` has for them; it has biases besides, which stay zero.

    Args:
        module: a ``T5ForConditionalGeneration``.
    """
    weights: dict[str, torch.Tensor] = {"embed.W_E": module.shared.weight, "unembed.W_U": module.lm_head.weight.T}
    for side in ("encoder", "decoder"):
        stack = getattr(module, side)
        weights[f"{side}_final_ln.w"] = stack.final_layer_norm.weight
        weights[f"{side}.0.attn.rel_pos_bias.weight"] = stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight
        for layer, block in enumerate(stack.block):
            weights |= {f"{side}.{layer}.{name}": tensor for name, tensor in _block_weights(block, int(module.config.num_heads))}
    return {name: tensor.detach() for name, tensor in weights.items()}


def _block_weights(block: Any, heads: int) -> Iterator[tuple[str, torch.Tensor]]:
    """One block's weights: attention, the decoder's attention to the encoder, the MLP, and the norm before each."""
    for number, part in enumerate(block.layer, start=1):
        yield f"ln{number}.w", part.layer_norm.weight
    attentions = {"attn": block.layer[0].SelfAttention} | ({"cross_attn": block.layer[1].EncDecAttention} if len(block.layer) == 3 else {})
    for name, attention in attentions.items():
        for letter in "qkv":
            yield f"{name}.W_{letter.upper()}", rearrange(getattr(attention, letter).weight, "(head d) model -> head model d", head=heads)
        yield f"{name}.W_O", rearrange(attention.o.weight, "model (head d) -> head d model", head=heads)
    mlp = block.layer[-1].DenseReluDense
    inputs = {"W_gate": mlp.wi_0, "W_in": mlp.wi_1} if hasattr(mlp, "wi_0") else {"W_in": mlp.wi}
    for name, projection in {**inputs, "W_out": mlp.wo}.items():
        yield f"mlp.{name}", projection.weight.T
