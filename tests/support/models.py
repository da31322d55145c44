"""Random weights in the architectures that matter, each built once; and a tokenizer of sixty words for them.

``BUILDERS`` are five bridges and, where TransformerLens still has the class, three ``HookedTransformer`` shapes; all tiny and in float64, so that
exactness can be claimed to 1e-12.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizerFast,
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTBigCodeConfig,
    GPTBigCodeForCausalLM,
    GPTJConfig,
    GPTJForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MptConfig,
    MptForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    T5Tokenizer,
)

from tl_knowledge.models.description import weight_fingerprint
from tl_knowledge.models.loading import hooked_transformer_available

VOCABULARY = 60
SIZES = {"vocab_size": VOCABULARY}
HF_SIZES = {"num_hidden_layers": 4, "num_attention_heads": 4, "hidden_size": 16, "intermediate_size": 24, **SIZES}


def remember_hook_names() -> None:
    """Keep a bridge's dictionary of hooks, which TransformerLens makes anew at every look: half of the time of a tiny model's run.

    `test_hook_laws.test_the_dictionary_of_hooks_is_the_one_it_would_be` compares.
    """
    from transformer_lens.model_bridge import TransformerBridge

    kept: WeakKeyDictionary[Any, tuple[Any, dict[str, Any]]] = WeakKeyDictionary()

    def hook_dict(bridge: Any) -> dict[str, Any]:
        state = (bridge.compatibility_mode, tuple(map(id, bridge._hook_registry.values())))
        if bridge not in kept or kept[bridge][0] != state:
            kept[bridge] = (state, made_anew(bridge))
        return dict(kept[bridge][1])

    made_anew = TransformerBridge.hook_dict.fget
    assert made_anew is not None
    TransformerBridge.hook_dict = property(hook_dict)
    TransformerBridge.hook_dict_made_anew = made_anew


remember_hook_names()


def _bridge(make: Callable[[], Any], architecture: str) -> Callable[[], Any]:
    def build() -> Any:
        from transformer_lens.model_bridge.sources import build_bridge_from_module

        torch.manual_seed(0)
        module = make().eval()
        module.set_attn_implementation("eager")  # as TransformerLens loads them
        for parameter in module.parameters():  # larger weights than a fresh model's: effects well above rounding
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.25)
        return build_bridge_from_module(module.double(), architecture, hf_config=module.config, dtype=torch.float64)

    return build


def _hooked_transformer(**settings: Any) -> Callable[[], Any]:
    def build() -> Any:
        from transformer_lens import HookedTransformer, HookedTransformerConfig

        sizes = {"n_layers": 4, "d_model": 16, "n_ctx": 32, "d_head": 4, "n_heads": 4, "d_mlp": 24, "d_vocab": VOCABULARY}
        shape = {"act_fn": "gelu_new", "normalization_type": "LN", "initializer_range": 0.25, **settings}
        config = HookedTransformerConfig(**sizes, **shape, device="cpu", seed=0, dtype=torch.float64)
        return HookedTransformer(config).eval()

    return build


def _hooked_encoder() -> Any:
    from transformer_lens import HookedEncoder, HookedTransformerConfig

    sizes = {"n_layers": 4, "d_model": 16, "n_ctx": 32, "d_head": 4, "n_heads": 4, "d_mlp": 24, "d_vocab": VOCABULARY}
    config = HookedTransformerConfig(**sizes, act_fn="gelu", attention_dir="bidirectional", device="cpu", seed=0, dtype=torch.float64)
    torch.manual_seed(0)
    encoder = HookedEncoder(config).eval()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    return encoder


BUILDERS: dict[str, Callable[[], Any]] = {
    "bridge-gpt2": _bridge(
        lambda: GPT2LMHeadModel(GPT2Config(n_layer=4, n_head=4, n_embd=16, n_positions=32, n_inner=24, **SIZES)), "GPT2LMHeadModel"
    ),
    "bridge-llama": _bridge(lambda: LlamaForCausalLM(LlamaConfig(num_key_value_heads=2, **HF_SIZES)), "LlamaForCausalLM"),
    "bridge-gptneox": _bridge(lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**HF_SIZES)), "GPTNeoXForCausalLM"),
    "bridge-gptj": _bridge(
        lambda: GPTJForCausalLM(GPTJConfig(n_layer=4, n_head=4, n_embd=16, n_positions=32, n_inner=24, rotary_dim=4, **SIZES)), "GPTJForCausalLM"
    ),
    "bridge-gemma2": _bridge(lambda: Gemma2ForCausalLM(Gemma2Config(num_key_value_heads=2, head_dim=4, **HF_SIZES)), "Gemma2ForCausalLM"),
}
if hooked_transformer_available():
    rotary = {"positional_embedding_type": "rotary", "rotary_dim": 4}
    BUILDERS |= {
        "ht-gpt2": _hooked_transformer(),
        "ht-parallel": _hooked_transformer(parallel_attn_mlp=True, **rotary),
        "ht-llama": _hooked_transformer(gated_mlp=True, n_key_value_heads=2, normalization_type="RMS", act_fn="silu", **rotary),
    }

GPT2_SIZES = {"n_layer": 4, "n_head": 4, "n_embd": 16, "n_positions": 32, "n_inner": 24, **SIZES}
OPT_SIZES = {"num_hidden_layers": 4, "num_attention_heads": 4, "hidden_size": 16, "ffn_dim": 24, "max_position_embeddings": 32, **SIZES}

HARD_BUILDERS: dict[str, Callable[[], Any]] = {
    "bridge-bloom": _bridge(lambda: BloomForCausalLM(BloomConfig(n_layer=4, n_head=4, hidden_size=16, **SIZES)), "BloomForCausalLM"),
    "bridge-falcon-rw": _bridge(
        lambda: FalconForCausalLM(
            FalconConfig(
                num_hidden_layers=4, num_attention_heads=4, hidden_size=16, alibi=True, multi_query=False, parallel_attn=False, bias=True, **SIZES
            )
        ),
        "FalconForCausalLM",
    ),
    "bridge-bigcode": _bridge(lambda: GPTBigCodeForCausalLM(GPTBigCodeConfig(**GPT2_SIZES)), "GPTBigCodeForCausalLM"),
    "bridge-opt": _bridge(lambda: OPTForCausalLM(OPTConfig(word_embed_proj_dim=16, **OPT_SIZES)), "OPTForCausalLM"),
    "bridge-opt-350m": _bridge(lambda: OPTForCausalLM(OPTConfig(word_embed_proj_dim=8, do_layer_norm_before=False, **OPT_SIZES)), "OPTForCausalLM"),
    "bridge-mpt": _bridge(
        lambda: MptForCausalLM(MptConfig(d_model=16, n_heads=4, n_layers=4, max_seq_len=32, expansion_ratio=2, **SIZES)), "MptForCausalLM"
    ),
    "bridge-qwen3": _bridge(lambda: Qwen3ForCausalLM(Qwen3Config(num_key_value_heads=2, head_dim=4, **HF_SIZES)), "Qwen3ForCausalLM"),
}
"""Models on which some fast engine is not exact, or whose activations have an unusual shape, and one (Qwen3) that looks like it."""
if hooked_transformer_available():
    rms = {"normalization_type": "RMS", **rotary}
    HARD_BUILDERS |= {
        "ht-qk-norm": _hooked_transformer(use_qk_norm=True, original_architecture="Qwen3ForCausalLM", **rms),
        "ht-clip-qkv": _hooked_transformer(clip_qkv=0.5, **rms),
        "ht-shortformer": _hooked_transformer(positional_embedding_type="shortformer"),
        "ht-olmo2": _hooked_transformer(original_architecture="Olmo2ForCausalLM", **rms),
        "ht-ungrouped": _hooked_transformer(n_key_value_heads=2, ungroup_grouped_query_attention=True, gated_mlp=True, act_fn="silu", **rms),
        "ht-alibi": _hooked_transformer(positional_embedding_type="alibi"),
    }

LONG_BUILDERS: dict[str, Callable[[], Any]] = {
    "bridge-dynamic-rope": _bridge(
        lambda: LlamaForCausalLM(
            LlamaConfig(rope_parameters={"rope_type": "dynamic", "factor": 4.0, "rope_theta": 100.0}, **{**HF_SIZES, "max_position_embeddings": 16})
        ),
        "LlamaForCausalLM",
    ),
}
"""Models that compute something else beyond a length."""

MASKED_BUILDERS: dict[str, Callable[[], Any]] = {
    "bridge-bert": _bridge(lambda: BertForMaskedLM(BertConfig(max_position_embeddings=32, **HF_SIZES)), "BertForMaskedLM"),
}
if hooked_transformer_available():
    MASKED_BUILDERS["hooked-encoder"] = _hooked_encoder

_built: dict[str, Any] = {}


def build(name: str) -> Any:
    """A random model by name, built once."""
    if name not in _built:
        _built[name] = (BUILDERS | HARD_BUILDERS | MASKED_BUILDERS)[name]()
    return _built[name]


def tokenizer_of_sixty_words() -> PreTrainedTokenizerFast:
    """``"w0"`` to ``"w59"``; the last three are unknown, end and padding."""
    words = {f"w{i}": i for i in range(VOCABULARY)}
    plain = Tokenizer(models.WordLevel(words, unk_token="w59"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="w57", pad_token="w58")


_BERT_VOCABULARY = "[PAD] [UNK] [CLS] [SEP] [MASK] the a capital of france peru is paris lima . , ? dog dogs saw this these city un ##known"
BERT_WORDS = _BERT_VOCABULARY.split()


def bert_directory(folder: Path) -> Path:
    """A tiny BERT with random weights and a word-piece tokenizer."""
    (folder / "vocab.txt").write_text("\n".join(BERT_WORDS))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": 16, "intermediate_size": 24, "max_position_embeddings": 32}
    model = BertForMaskedLM(BertConfig(**sizes, vocab_size=len(BERT_WORDS), initializer_range=0.3))
    model.save_pretrained(folder)
    return folder


_T5_VOCABULARY = "the capital of france peru is paris lima rome a city in new york"
_T5_WORDS = ["\u2581", *(f"\u2581{word}" for word in _T5_VOCABULARY.split()), ".", "s", "?"]
T5_SHAPES: dict[str, dict[str, Any]] = {
    "t5": {},
    "t5-v1_1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}
"""The first T5, whose unembedding is its embedding, scaled; and T5 1.1, with gated MLPs and an unembedding of its own."""


def t5_directory(folder: Path, shape: str, **settings: Any) -> Path:
    """A tiny T5 with random weights and a sentence-piece tokenizer of a few words and two blanks."""
    pieces = [*(("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)), *((word, -2.0) for word in _T5_WORDS), ("<extra_id_1>", 0.0), ("<extra_id_0>", 0.0)]
    T5Tokenizer(vocab=pieces, extra_ids=2).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"num_layers": 3, "num_heads": 4, "d_model": 16, "d_kv": 8, "d_ff": 24, "decoder_start_token_id": 0, "vocab_size": len(pieces)}
    module = T5ForConditionalGeneration(T5Config(**{**sizes, **T5_SHAPES[shape], **settings}))
    for parameter in module.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.4)
    if shape == "t5-v1_1":
        module.lm_head.weight = torch.nn.Parameter(torch.randn_like(module.shared.weight))
    module.save_pretrained(folder)
    return folder


def fingerprint(model: Any) -> str:
    """Changes when any weight does, or when two change places."""
    return weight_fingerprint(model)


def hooks_left(model: Any) -> list[str]:
    """Names of hook points that still carry a hook."""
    return [name for name, point in model.hook_dict.items() if point.fwd_hooks or point.bwd_hooks]
