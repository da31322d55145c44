"""Tiny random models of many architectures, in float64: what ``docs/models.md`` is made of.

The configurations are the families' own in small; `build_architecture` gives a bridge of them, or says why the installed TransformerLens has none.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers

from support.models import HARD_BUILDERS

V = 60
SIZES: dict[str, Any] = {"num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": 16, "intermediate_size": 24, "max_position_embeddings": 32}
KV = {"num_key_value_heads": 2}
GPT2_SIZES = {"n_layer": 3, "n_head": 4, "n_embd": 16, "n_positions": 32, "n_inner": 24}
OPT = {"num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": 16, "ffn_dim": 24, "max_position_embeddings": 32}
NO_PADDING = {"pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2}

ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "GPT-2": ("GPT2Config", "GPT2LMHeadModel", GPT2_SIZES),
    "GPT-Neo": (
        "GPTNeoConfig",
        "GPTNeoForCausalLM",
        {
            "num_layers": 3,
            "num_heads": 4,
            "hidden_size": 16,
            "intermediate_size": 24,
            "attention_types": [[["global", "local", "global"], 1]],
            "window_size": 4,
        },
    ),
    "GPT-J": ("GPTJConfig", "GPTJForCausalLM", GPT2_SIZES | {"rotary_dim": 4}),
    "CodeGen": ("CodeGenConfig", "CodeGenForCausalLM", GPT2_SIZES | {"rotary_dim": 4}),
    "Pythia, GPT-NeoX": ("GPTNeoXConfig", "GPTNeoXForCausalLM", SIZES),
    "GPT-NeoX, sequential": ("GPTNeoXConfig", "GPTNeoXForCausalLM", SIZES | {"use_parallel_residual": False}),
    "GPT-BigCode": ("GPTBigCodeConfig", "GPTBigCodeForCausalLM", GPT2_SIZES),
    "StarCoder2": ("Starcoder2Config", "Starcoder2ForCausalLM", SIZES | KV),
    "OPT": ("OPTConfig", "OPTForCausalLM", OPT | {"word_embed_proj_dim": 16}),
    "OPT-350m": ("OPTConfig", "OPTForCausalLM", OPT | {"word_embed_proj_dim": 8, "do_layer_norm_before": False}),
    "BLOOM": ("BloomConfig", "BloomForCausalLM", {"n_layer": 3, "n_head": 4, "hidden_size": 16}),
    "Falcon": ("FalconConfig", "FalconForCausalLM", {"num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": 16}),
    "Falcon, new decoder": (
        "FalconConfig",
        "FalconForCausalLM",
        {"num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": 16, "new_decoder_architecture": True, "num_kv_heads": 2},
    ),
    "Falcon-RW": (
        "FalconConfig",
        "FalconForCausalLM",
        {
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "hidden_size": 16,
            "alibi": True,
            "multi_query": False,
            "parallel_attn": False,
            "bias": True,
        },
    ),
    "MPT": ("MptConfig", "MptForCausalLM", {"d_model": 16, "n_heads": 4, "n_layers": 3, "max_seq_len": 32, "expansion_ratio": 2}),
    "LLaMA": ("LlamaConfig", "LlamaForCausalLM", SIZES | KV),
    "Mistral": ("MistralConfig", "MistralForCausalLM", SIZES | KV),
    "Ministral": ("MinistralConfig", "MinistralForCausalLM", SIZES | KV | {"head_dim": 4}),
    "Qwen2": ("Qwen2Config", "Qwen2ForCausalLM", SIZES | KV),
    "Qwen3": ("Qwen3Config", "Qwen3ForCausalLM", SIZES | KV | {"head_dim": 4}),
    "Gemma": ("GemmaConfig", "GemmaForCausalLM", SIZES | KV | {"head_dim": 4}),
    "Gemma 2": ("Gemma2Config", "Gemma2ForCausalLM", SIZES | KV | {"head_dim": 4}),
    "Gemma 3": ("Gemma3TextConfig", "Gemma3ForCausalLM", SIZES | KV | {"head_dim": 4}),
    "Phi": ("PhiConfig", "PhiForCausalLM", SIZES),
    "Phi-3": ("Phi3Config", "Phi3ForCausalLM", SIZES | KV | NO_PADDING),
    "StableLM": ("StableLmConfig", "StableLmForCausalLM", SIZES | KV),
    "OLMo": ("OlmoConfig", "OlmoForCausalLM", SIZES | KV),
    "OLMo 2": ("Olmo2Config", "Olmo2ForCausalLM", SIZES | KV),
    "OLMo 3": ("Olmo3Config", "Olmo3ForCausalLM", SIZES | KV),
    "Granite": (
        "GraniteConfig",
        "GraniteForCausalLM",
        SIZES | KV | {"embedding_multiplier": 12.0, "residual_multiplier": 0.22, "logits_scaling": 8.0, "attention_multiplier": 0.5},
    ),
    "Cohere": ("CohereConfig", "CohereForCausalLM", SIZES | KV),
    "Cohere 2": ("Cohere2Config", "Cohere2ForCausalLM", SIZES | KV),
    "GLM": ("GlmConfig", "GlmForCausalLM", SIZES | KV | NO_PADDING | {"head_dim": 4}),
    "GLM 4": ("Glm4Config", "Glm4ForCausalLM", SIZES | KV | NO_PADDING | {"head_dim": 4}),
    "SmolLM 3": ("SmolLM3Config", "SmolLM3ForCausalLM", SIZES | KV | NO_PADDING),
    "Nemotron": ("NemotronConfig", "NemotronForCausalLM", SIZES | KV),
    "Apertus": ("ApertusConfig", "ApertusForCausalLM", SIZES | KV | NO_PADDING),
    "HunYuan": ("HunYuanDenseV1Config", "HunYuanDenseV1ForCausalLM", SIZES | KV | {"head_dim": 4}),
    "EXAONE 4": ("Exaone4Config", "Exaone4ForCausalLM", SIZES | KV),
    "ERNIE 4.5": ("Ernie4_5Config", "Ernie4_5ForCausalLM", SIZES | KV | {"head_dim": 4}),
    "Seed-OSS": ("SeedOssConfig", "SeedOssForCausalLM", SIZES | KV | {"head_dim": 4}),
    "Helium": ("HeliumConfig", "HeliumForCausalLM", SIZES | KV | {"head_dim": 4}),
    "Arcee": ("ArceeConfig", "ArceeForCausalLM", SIZES | KV),
    "BitNet": ("BitNetConfig", "BitNetForCausalLM", SIZES | KV),
    "XGLM": ("XGLMConfig", "XGLMForCausalLM", {"num_layers": 3, "attention_heads": 4, "d_model": 16, "ffn_dim": 24, "max_position_embeddings": 32}),
    "ModernBERT decoder": (
        "ModernBertDecoderConfig",
        "ModernBertDecoderForCausalLM",
        SIZES | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
    ),
    "OpenAI GPT": ("OpenAIGPTConfig", "OpenAIGPTLMHeadModel", {"n_layer": 3, "n_head": 4, "n_embd": 16, "n_positions": 32}),
    "Mixtral": ("MixtralConfig", "MixtralForCausalLM", SIZES | KV | {"num_local_experts": 2}),
    "OLMoE": ("OlmoeConfig", "OlmoeForCausalLM", SIZES | KV | {"num_experts": 2, "num_experts_per_tok": 1}),
    "Mamba": ("MambaConfig", "MambaForCausalLM", {"num_hidden_layers": 3, "hidden_size": 16, "state_size": 4}),
}

HOOKED_TRANSFORMERS = {name: builder for name, builder in HARD_BUILDERS.items() if name.startswith("ht-")}


class NotHere(Exception):  # noqa: N818
    """The installed libraries have no such model."""


def build_architecture(name: str) -> Any:
    """A bridge to a tiny random model, or a ``HookedTransformer`` of an unusual configuration.

    Raises:
        NotHere: TransformerLens or transformers does not know the architecture.
    """
    if name in HOOKED_TRANSFORMERS:
        return HOOKED_TRANSFORMERS[name]()
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    config_name, class_name, settings = ARCHITECTURES[name]
    if not hasattr(transformers, class_name):
        raise NotHere(f"not in transformers {transformers.__version__}")
    torch.manual_seed(0)
    module = getattr(transformers, class_name)(getattr(transformers, config_name)(vocab_size=V, **settings)).eval()
    with torch.no_grad():
        for parameter in module.parameters():  # larger weights than a fresh model's: effects well above rounding
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.25)
    if hasattr(module, "set_attn_implementation") and name != "Mamba":
        module.set_attn_implementation("eager")
    try:
        return build_bridge_from_module(module.double(), class_name, hf_config=module.config, dtype=torch.float64)
    except Exception as error:  # TransformerLens raises many kinds
        raise NotHere(f"no bridge in this TransformerLens ({type(error).__name__})") from error
