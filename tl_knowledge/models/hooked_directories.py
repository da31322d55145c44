"""What a ``HookedTransformer`` of a local directory in Hugging Face format has to be told: GPT-2's shape, and LLaMA's for the bundled model."""

from __future__ import annotations

from typing import Any

import torch

from tl_knowledge.errors import UnsupportedModelError

__all__ = ["check_same_logits", "hooked_shape"]


def hooked_shape(config: Any) -> dict[str, Any]:
    """The settings of a ``HookedTransformerConfig`` that say what a GPT-2's or LLaMA's Hugging Face configuration does, but its norm's name."""
    return _llama_shape(config) if config.model_type == "llama" else _gpt2_shape(config)


def _gpt2_shape(config: Any) -> dict[str, Any]:
    return {
        "n_layers": config.n_layer,
        "d_model": config.n_embd,
        "n_heads": config.n_head,
        "d_head": config.n_embd // config.n_head,
        "d_mlp": config.n_inner or 4 * config.n_embd,
        "n_ctx": config.n_positions,
        "d_vocab": config.vocab_size,
        "act_fn": config.activation_function,
        "eps": config.layer_norm_epsilon,
        "original_architecture": "GPT2LMHeadModel",
    }


def _llama_shape(config: Any) -> dict[str, Any]:
    return {
        "n_layers": config.num_hidden_layers,
        "d_model": config.hidden_size,
        "n_heads": config.num_attention_heads,
        "n_key_value_heads": config.num_key_value_heads,
        "d_head": config.head_dim,
        "d_mlp": config.intermediate_size,
        "n_ctx": config.max_position_embeddings,
        "d_vocab": config.vocab_size,
        "act_fn": config.hidden_act,
        "eps": config.rms_norm_eps,
        "gated_mlp": True,
        "final_rms": True,
        "positional_embedding_type": "rotary",
        "rotary_adjacent_pairs": False,
        "rotary_dim": config.head_dim,
        "rotary_base": config.rope_parameters["rope_theta"],
        "original_architecture": "LlamaForCausalLM",
    }


def check_same_logits(model: Any, source: Any, name: str) -> None:
    """Refuse a model whose next-token log-probabilities are not those of Hugging Face's module.

    Raises:
        UnsupportedModelError: they differ.
    """
    tokens = torch.arange(24)[None] * 7 % source.config.vocab_size
    with torch.no_grad():
        theirs = source(tokens).logits.double().log_softmax(-1)
        ours = model(tokens.to(model.cfg.device)).double().log_softmax(-1).cpu()
    rounding = max(torch.finfo(model.cfg.dtype).eps ** 0.5, 1e-5)  # Hugging Face takes norms and rotations in float32 whatever the weights are
    if not torch.allclose(ours, theirs, rtol=0, atol=rounding * float(theirs.abs().max())):
        raise UnsupportedModelError(f"HookedTransformer gives other logits than Hugging Face's {name!r}; pass backend='bridge'.")
